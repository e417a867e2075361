"""Pods that fail, are full, or are not to be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rig import FULL, HERE, Controller, Reference, Rig
from tests.integration.lab import Outcome

HUGE = (10 if FULL else 2) << 30


PLAYBOOK = """\
version: 1
name: one
title: One
variables: {counter: /nonexistent}
phases:
  - {id: 0, name: environment, title: Environment, steps: [{id: sync, action: sync}]}
  - id: 1
    name: parity
    title: Parity
    steps:
      - id: only
        action: job
        exclusive: false
        command: ["${pod.python}", script.py]
        artifacts: [result.txt]
"""


def job_playbook(rig: Rig, script: str, more: str = "", **step: object) -> None:
    """A playbook of one job, which runs `script`."""
    (rig.lab.repo / "script.py").write_text(script)
    fields = "".join(f"        {name}: {json.dumps(value)}\n" for name, value in step.items())
    (rig.lab.repo / "playbook.yaml").write_text(PLAYBOOK + fields + more)


def lost(rig: Rig, controller: Controller) -> None:
    """The run ends INFRA, and going on with it does not start the job again."""
    outcome = controller.end()
    assert outcome.code == 3, outcome.stderr
    assert "job-lost" in outcome.reasons
    assert rig.events("job.state", state="LOST")
    assert rig.resume().end().code == 3
    assert rig.starts() == ["dense"]


def test_a_killed_supervisor_is_a_lost_job(rig: Rig) -> None:
    controller = rig.start(seconds=20, lines=200)
    rig.wait_for_log(controller, "line 000003")
    group = rig.command("dense")
    os.kill(rig.supervisor("dense"), signal.SIGKILL)
    try:
        lost(rig, controller)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def followers(rig: Rig) -> list[int]:
    """Processes of the agent that hand on what the dense job writes; its supervisor is another."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"run" in words and os.fsencode(rig.job("dense")) in words:
                found.append(int(process.name))
    return [pid for pid in found if pid != rig.supervisor("dense")]


def test_a_killed_follower_is_replaced(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=3)
    rig.wait_for_log(controller, "line 000003")
    (follower,) = followers(rig)
    os.kill(follower, signal.SIGKILL)
    rig.assert_whole(controller.end(), reference)
    assert not rig.events("pod.unreachable")


def test_a_rebooted_pod_is_a_lost_job(rig: Rig) -> None:
    controller = rig.start(seconds=20, lines=200)
    rig.wait_for_log(controller, "line 000003")
    record = rig.job("dense") / "process.json"
    # the order in which a reboot would: link and processes first, then another boot; of the
    # processes first the one that would note how the other ended
    rig.link.reset()
    os.kill(rig.supervisor("dense"), signal.SIGKILL)
    os.killpg(rig.command("dense"), signal.SIGKILL)
    process = json.loads(record.read_text())
    record.write_text(json.dumps({**process, "boot_id": "0" * 36}))
    rig.link.heal()
    lost(rig, controller)


# -- full disks ----------------------------------------------------------------------------------

FILL = """\
import os
with open(os.path.join(os.environ["ORCH_OUT"], "result.txt"), "wb") as file:
    while True:
        file.write(bytes(65536))
        file.flush()
"""
FINE = """\
import os, pathlib
pathlib.Path(os.environ["ORCH_OUT"], "result.txt").write_text("fine")
"""
CHATTER = "while True: print('x' * 4000)\n"


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """4 MB at `place`, where this user may mount."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("script", [FILL, CHATTER], ids=["output", "log"])
def test_a_full_disk_is_the_machine_s_fault_and_is_named(rig: Rig, script: str) -> None:
    with small_disk(rig.pod / ".orchestrate" / "jobs") as mounted:
        if not mounted:  # the next best: files that may not grow
            script = CHATTER
            limited = rig.folder / "python"
            limited.write_text('#!/bin/sh\nulimit -f 2000\nexec python3 "$@"\n')
            limited.chmod(0o755)
            rig.python(str(limited))
        job_playbook(rig, script, min_free=0)
        outcome = rig.start().end()
        assert outcome.code == 3, outcome.stderr
        assert "disk was full" in outcome.stderr
        result = json.loads((rig.job("only") / "result.json").read_text())
        assert (result["state"], result["reason"]) == ("FAILED", "disk")
        assert str(rig.job("only")) in result["hint"]
        assert "log" in result["hint"]
        assert "out/" in result["hint"]
        assert str(rig.job("only")) in report(outcome)


def test_nothing_is_started_on_a_disk_without_room(rig: Rig) -> None:
    with small_disk(rig.pod / ".orchestrate" / "jobs") as mounted:
        needs: dict[str, object] = {} if mounted else {"min_free": "900TiB"}
        job_playbook(rig, "print('started')\n", **needs)
        outcome = rig.start().end()
        assert outcome.code == 3, outcome.stderr
        assert "nothing was started" in outcome.stderr
        assert "| started" not in outcome.stderr


def report(outcome: Outcome) -> str:
    return Path(outcome.last["report"]).read_text()


# -- secrets -------------------------------------------------------------------------------------

TELL = """\
import os, pathlib, sys, time
token = os.environ["FIXTURE_TOKEN"]
print("the token is", token, flush=True)
sys.stdout.write(token[:7]); sys.stdout.flush(); time.sleep(0.2); print(token[7:], flush=True)
time.sleep(1)
pathlib.Path(os.environ["ORCH_OUT"], "result.txt").write_text("fine")
"""


def places_of(secret: str, folder: Path) -> list[str]:
    return [
        str(path)
        for path in folder.rglob("*")
        if secret in str(path) or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def holders(secret: str, controller: int) -> set[str]:
    """Command lines that have it, and processes of the pod whose environment has it.

    The controller and its helpers have their user's environment, and so has a fork of it that is
    about to become one of them.
    """
    found = set()
    own = Path(f"/proc/{controller}/cmdline").read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
            ours = line == own or descends(process, controller)
            inside = secret.encode() in environment and not ours
            if inside or secret.encode() in line:
                found.add(line.replace(b"\0", b" ").decode(errors="replace").strip())
    return found


def descends(process: Path, ancestor: int) -> bool:
    pid = int(process.name)
    while pid not in (0, 1, ancestor):
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


@pytest.fixture
def token(rig: Rig) -> str:
    """A secret that no test beside this one has."""
    value = f"hush-{secrets.token_hex(8)}"
    rig.lab.env["FIXTURE_TOKEN"] = value
    return value


def test_a_secret_is_seen_by_the_command_alone(rig: Rig, token: str) -> None:
    job_playbook(rig, TELL, "secrets: [FIXTURE_TOKEN]\n")
    controller = rig.start(fresh=True)  # told apart by its command line
    seen = set()
    while not controller.over:
        seen |= holders(token, controller.pid)
        time.sleep(0.02)
    outcome = controller.end()
    assert outcome.code == 0, outcome.stderr
    assert {line.split()[-1] for line in seen} == {"script.py"}
    assert "the token is ***" in outcome.stderr
    assert token not in controller.said
    assert (rig.job("only") / "log").read_text() == "the token is ***\n***\n"
    assert places_of(token, rig.pod) == []
    assert places_of(token, rig.lab.runs_dir) == []


# Across the border of two reads, in a name, and in a file that nobody asked for.
TELL_FILES = """\
import os, pathlib
out, token = pathlib.Path(os.environ["ORCH_OUT"]), os.environ["FIXTURE_TOKEN"]
(out / "result.txt").write_text("x" * (32768 - 9) + token)
(out / token).write_text("fine")
(out / "other.txt").write_text(f"Authorization: {token}")
(out / "innocent.txt").write_text("fine")
"""


def test_an_artifact_with_a_secret_is_quarantined(rig: Rig, token: str) -> None:
    job_playbook(rig, TELL_FILES, "secrets: [FIXTURE_TOKEN]\n")
    outcome = rig.start().end()
    assert outcome.code == 5, outcome.stderr
    assert "secret-exposed" in outcome.reasons
    assert "'result.txt': the value of FIXTURE_TOKEN is in it" in outcome.stderr
    assert len(rig.events("artifact.quarantined")) == 3
    assert pulled(rig).keys() == {"innocent.txt"}
    assert places_of(token, rig.lab.runs_dir) == []
    assert token not in outcome.stdout + outcome.stderr + report(outcome)
    # nor by a second way in
    assert rig.begin("fetch").end().code == 0
    del rig.lab.env["FIXTURE_TOKEN"]
    unset = rig.begin("fetch").end()
    assert unset.code == 2
    rig.lab.env |= {"FIXTURE_TOKEN": "changed-since"}
    assert rig.begin("fetch").end().code == 0
    del rig.lab.env["FIXTURE_TOKEN"]
    assert "FIXTURE_TOKEN" in unset.stderr
    assert pulled(rig).keys() == {"innocent.txt"}
    assert places_of(token, rig.lab.runs_dir) == []


# -- this side's disk ----------------------------------------------------------------------------


def test_a_full_disk_here_is_named_and_room_is_enough_to_go_on(rig: Rig) -> None:
    with small_disk(rig.lab.runs_dir) as mounted:
        if not mounted:
            pytest.skip("may not mount a small disk here")
        job_playbook(rig, FINE + "print('x' * 3_000_000)\n")
        ballast = rig.lab.runs_dir / "ballast"
        ballast.write_bytes(bytes(2 << 20))
        outcome = rig.start().end()
        assert outcome.code == 3, outcome.stderr
        assert "No space left" in outcome.stderr
        assert "orchestrate resume" in outcome.stderr
        ballast.unlink()
        assert rig.resume().end().code == 0
        assert rig.run is not None
        log = rig.run / "phase-1/only/1/log"
        assert log.read_bytes() == (rig.job("only") / "log").read_bytes()


# -- hostile pods --------------------------------------------------------------------------------

HOSTILE = """\
import os, pathlib
out = pathlib.Path(os.environ["ORCH_OUT"])
(out / "result.txt").write_text("fine")
(out / "link").symlink_to("/etc/passwd")
(out / "folder-link").symlink_to("/etc")
os.mkfifo(out / "fifo")
(out / "<script>alert(1)<").mkdir()
(out / "<script>alert(1)<" / "script>.txt").write_text("<script>alert(2)</script>")
(out / "\\x1b[2Jcleared.txt").write_text("name")
with open(out / "huge", "wb") as file:
    file.truncate(HUGE)
(out / "back\\\\slash").write_text("a name that not every system can hold")
print("\\x1b]0;owned\\x07\\x1b[2Jcleared <script>alert(3)</script>", flush=True)
""".replace("HUGE", str(HUGE))


def test_hostile_artifacts_are_refused_by_name(rig: Rig) -> None:
    before = tree(rig.folder)
    job_playbook(rig, HOSTILE)
    outcome = rig.start().end()
    assert "\x1b" not in outcome.stdout + outcome.stderr
    refused = "\n".join(step_result(rig)["details"]["refused"])
    for name in ("link", "folder-link", "fifo", "huge", "back\\slash"):
        assert repr(name) in refused
    assert "symbolic link" in refused
    names = {"result.txt", "<script>alert(1)</script>.txt", "\x1b[2Jcleared.txt"}
    assert pulled(rig).keys() == names
    # within backticks Markdown shows it as it is
    assert "<script" not in re.sub("`[^`\n]*`", "", report(outcome))
    assert "\x1b" not in report(outcome)
    assert not [path for path in rig.run.rglob("*") if path.is_symlink() or path.is_fifo()]
    assert sum(path.stat().st_size for path in rig.run.rglob("*") if path.is_file()) < 1 << 20
    assert tree(rig.folder) - before <= {"counter"}


def tree(folder: Path) -> set[str]:
    """Names of what lies in the laboratory, outside of what a run is meant to write to."""
    ours = {"runs", "pod", "sshd", "repo", "tmp", "state", "cache"}
    names = {path.name for path in folder.iterdir() if path.suffix not in (".out", ".err")}
    return names - ours


NAMES = ["../x", "../../../../etc/x", "/etc/x", "a/../../x", "", "a\\b", "result.txt/x"]


def lying(rig: Rig, files: list[dict[str, object]], script: str) -> Outcome:
    """A run on a pod whose agent is not ours, and says this of what the job left."""
    answer = rig.folder / "answer.json"
    answer.write_text(json.dumps({"files": files, "refused": []}))
    rig.run_by(HERE / "liar.py", answer, "python3")
    job_playbook(rig, script)
    return rig.start().end()


def entry(name: str, content: bytes) -> dict[str, object]:
    return {"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_pod_that_lies_about_names_writes_nowhere(rig: Rig) -> None:
    (rig.folder / "x").write_text("here already")
    before = tree(rig.folder)
    files = [entry("result.txt", b"fine"), *(entry(name, b"evil") for name in NAMES)]
    outcome = lying(rig, files, FINE)
    refused = "\n".join(step_result(rig)["details"]["refused"])
    for name in NAMES:
        assert repr(name) in refused
    assert tree(rig.folder) - before <= {"answer.json", "python"}
    assert (rig.folder / "x").read_text() == "here already"
    assert pulled(rig) == {"result.txt": b"fine"}
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize("target", ["/etc/passwd", "/nowhere"])
def test_a_link_is_not_followed_whatever_the_pod_calls_it(rig: Rig, target: str) -> None:
    content = Path(target).read_bytes() if Path(target).exists() else b"here?"
    script = f"import os; os.symlink({target!r}, os.environ['ORCH_OUT'] + '/result.txt')\n"
    outcome = lying(rig, [entry("result.txt", content)], script)
    assert outcome.code == 4, outcome.stderr  # the rest of the evidence stays
    assert "The job left no result.txt; refused: 'result.txt': changed" in outcome.stderr
    assert "not a regular file" in outcome.stderr
    assert pulled(rig) == {}


def step_result(rig: Rig) -> dict[str, Any]:
    assert rig.run is not None
    return json.loads((rig.run / "phase-1/only/1/result.json").read_text())


def pulled(rig: Rig) -> dict[str, bytes]:
    """All that lies in the folder of artifacts, but for what the agent has sampled."""
    assert rig.run is not None
    top = rig.run / "phase-1/only/1/artifacts"
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and path.name != "telemetry.csv"
    }

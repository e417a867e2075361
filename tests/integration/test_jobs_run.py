"""A job in one call, as the controller makes it, on both kinds of pod."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConnectionLost, InfraError, PullError
from orchestrator.jobs.collect import collect
from orchestrator.jobs.follow import Ended, follow, run
from orchestrator.jobs.job import AgentResult, JobSpec, JobStatus, Manifest
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command, Secret
from orchestrator.models.pod import Pod
from orchestrator.models.run import Artifact, JobState
from orchestrator.transport.connection import Connection
from orchestrator.transport.files import is_partial
from tests.integration.agents import eventually


class Runner:
    """Runs scripts as jobs, and remembers what was said of them."""

    def __init__(self, launcher: SshLauncher, connection: Connection, folder: Path) -> None:
        self.launcher, self.connection = launcher, connection
        self.log = folder / "log"
        self.into = folder / "artifacts"
        self.said: list[JobStatus] = []

    def spec(self, script: str, name: str = "j", **fields: Any) -> JobSpec:
        return JobSpec(name, Command(("bash", "-c", script)), **fields)

    def run(self, spec: JobSpec, **options: Any) -> Ended:
        options = {"on_status": self.said.append, "sink": lambda _data: None, **options}
        return run(self.launcher, spec, self.log, **options)

    def collect(self, ended: Ended) -> tuple[list[Artifact], list[str]]:
        found = collect(
            self.launcher, self.connection, "j", self.into, lambda _artifact: None, ended.manifest
        )
        return found.artifacts, found.refused

    def dir(self, name: str = "j") -> Path:
        return Path(self.launcher.directory(name))  # the pod is this machine


@pytest.fixture
def runner(pod: Pod, connection: Connection, tmp_path: Path) -> Runner:
    return Runner(SshLauncher(connection, pod), connection, tmp_path)


def test_one_call_starts_follows_and_lists(runner):
    spec = runner.spec('seq 1 30000; echo x >"$ORCH_OUT/file"')
    seen = bytearray()
    ended = runner.run(spec, sink=seen.extend)
    assert ended.outcome.state.value == "SUCCEEDED"
    assert [file.path for file in ended.manifest.files] == ["file"]
    assert runner.log.read_bytes() == bytes(seen) == (runner.dir() / "log").read_bytes()
    assert [status.state for status in runner.said] == ["RUNNING", "SUCCEEDED"]
    assert runner.said[0].created
    artifacts, refused = runner.collect(ended)
    assert ([artifact.path for artifact in artifacts], refused) == (["file"], [])
    again = runner.run(spec)
    assert again.outcome == ended.outcome
    assert not runner.said[-1].created
    assert runner.log.read_bytes() == bytes(seen)


def test_a_log_longer_than_the_limit_ends_there_and_is_counted_whole(runner):
    ended = runner.run(runner.spec("seq 1 30000"), log_limit=1000)
    whole = (runner.dir() / "log").read_bytes()
    assert runner.log.read_bytes() == whole[:1000]
    assert (ended.log_pulled, ended.log_bytes) == (1000, len(whole))
    assert runner.run(runner.spec("seq 1 30000"), log_limit=2000).log_pulled == 2000
    assert runner.log.read_bytes() == whole[:2000]
    assert follow(runner.launcher, "j", runner.log, lambda _data: None) == ended.outcome
    assert runner.log.read_bytes() == whole


class Liar:
    """A pod by whose word there is more of the log, and which sends it without end or not at all.

    The real agent keeps to the limit; what is told here is what another one could tell.
    """

    def __init__(self, sends: bytes, status: JobStatus) -> None:
        self.sends, self.said = sends, status
        self.rounds = 0

    def directory(self, job_id: str) -> str:
        return f"/pod/{job_id}"

    def run(self, _spec: JobSpec, _offset: int, *, sink: Any, **_rest: Any) -> Any:
        self.follow("j", 0, sink, log_limit=0)
        return self.said, Manifest(files=[])

    def follow(self, _job: str, _offset: int, sink: Any, *, log_limit: int) -> None:
        self.rounds += 1
        for _ in range(50):
            sink(self.sends)

    def status(self, _job: str) -> JobStatus:
        return self.said


@pytest.mark.parametrize("way", ["run", "follow"])
def test_more_log_than_was_asked_for_is_not_taken(tmp_path, way):
    over = AgentResult(state=JobState.SUCCEEDED, log_bytes=5)
    liar: Any = Liar(b"x" * 700, JobStatus(state="SUCCEEDED", log_bytes=5, result=over))
    seen = bytearray()
    spec = JobSpec("j", Command(("true",)))
    options: Any = {"sink": seen.extend, "log_limit": 1000}
    ways: Any = {
        "run": lambda log: run(liar, spec, log, on_status=lambda _status: None, **options),
        "follow": lambda log: follow(liar, "j", log, **options),
    }
    with pytest.raises(InfraError, match="more of it than the 1000 bytes"):
        ways[way](tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == bytes(seen) == b"x" * 1000


def test_a_log_that_never_comes_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    over = AgentResult(state=JobState.SUCCEEDED, log_bytes=5)
    liar: Any = Liar(b"", JobStatus(state="SUCCEEDED", log_bytes=5, result=over))
    with pytest.raises(InfraError, match="cannot be followed to the end"):
        follow(liar, "j", tmp_path / "log", lambda _data: None)
    assert len(pauses) == liar.rounds
    assert min(pauses) > 0


@pytest.mark.parametrize("way", ["run", "follow"])
def test_a_log_that_was_damaged_here_is_pulled_again(runner, way):
    spec = runner.spec("seq 1 30000")
    runner.run(spec)
    whole = runner.log.read_bytes()
    for damaged in (whole[:-100] + bytes(100), whole + b"more", b"other"):
        runner.log.write_bytes(damaged)
        if way == "run":
            ended = runner.run(spec)
            assert ended.log_pulled == ended.log_bytes == len(whole)
        else:
            follow(runner.launcher, "j", runner.log, lambda _data: None)
        assert runner.log.read_bytes() == whole
        assert [path.name for path in runner.log.parent.glob(".log*")] == []


def test_a_log_that_something_else_wrote_to_is_told(runner):
    with pytest.raises(InfraError, match="not what the command wrote"):
        runner.run(runner.spec('echo before; sleep 1; echo mine >>"$ORCH_JOB_DIR/log"'))


def test_a_job_that_waits_starts_when_the_device_is_free(runner, tmp_path):
    lock = str(tmp_path / "lock")
    runner.launcher.submit(runner.spec("sleep 60", "first", lock=lock))

    def free() -> None:
        assert eventually(lambda: runner.said)  # that it waits
        runner.launcher.cancel("first")

    freeing = threading.Thread(target=free)
    freeing.start()
    ended = runner.run(runner.spec("echo mine", lock=lock))
    freeing.join()
    assert ended.outcome.state.value == "SUCCEEDED"
    states = [status.state for status in runner.said]
    assert states[0] == "SUBMITTED"
    assert runner.said[0].waiting_for is not None
    assert runner.said[0].waiting_for.job_id == "first"
    assert states[-1] == "SUCCEEDED"
    assert sum(status.created for status in runner.said) <= 1


def test_who_waits_on_the_pod_is_killed_and_the_job_still_starts_once(runner, tmp_path):
    lock = str(tmp_path / "lock")
    runner.launcher.submit(runner.spec("sleep 60", "first", lock=lock))

    def kill_the_waiting() -> None:
        assert eventually(lambda: runner.said)  # that it waits: its start is over
        process = json.loads((runner.dir() / "process.json").read_text())
        os.kill(process["supervisor"]["pid"], signal.SIGKILL)
        time.sleep(0.5)
        runner.launcher.cancel("first")

    killer = threading.Thread(target=kill_the_waiting)
    killer.start()
    ended = runner.run(runner.spec(f"echo started >>{tmp_path}/starts", lock=lock))
    killer.join()
    assert ended.outcome.state.value == "SUCCEEDED"
    assert (tmp_path / "starts").read_text() == "started\n"


def followers(directory: Path) -> list[int]:
    """Processes that hand the job's log over; not its supervisor, which has the same arguments."""
    process = json.loads((directory / "process.json").read_text())
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(directory) in words and b"python" in words[0]:
                found.append(int(entry.name))
    return [pid for pid in found if pid != process["supervisor"]["pid"]]


def test_a_follower_killed_on_the_pod_loses_nothing(runner, tmp_path):
    def kill() -> None:
        assert eventually(lambda: runner.log.exists() and runner.log.stat().st_size > 100)
        (victim,) = followers(runner.dir())
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    script = f"echo started >>{tmp_path}/starts; "
    script += "for i in $(seq 1 100); do echo line $i; sleep 0.02; done"
    ended = runner.run(runner.spec(script))
    killer.join()
    assert ended.outcome.state.value == "SUCCEEDED"
    assert runner.log.read_text() == "".join(f"line {i}\n" for i in range(1, 101))
    assert (tmp_path / "starts").read_text() == "started\n"


def test_a_pod_that_greets_on_every_login_is_told_of_it(pod, connection, tmp_path):
    chatty = tmp_path / "python"
    chatty.write_text('#!/bin/sh\necho "Welcome!"\nexec python3 "$@"\n')
    chatty.chmod(0o755)
    launcher = SshLauncher(connection, pod.model_copy(update={"python": str(chatty)}))
    runner = Runner(launcher, connection, tmp_path)
    with pytest.raises(InfraError, match="Welcome!"):
        runner.run(runner.spec("true"))


def test_the_telemetry_is_pulled_and_its_name_is_the_agent_s(runner):
    ended = runner.run(runner.spec('echo mine >"$ORCH_OUT/telemetry.csv"'))
    (runner.dir() / "telemetry.csv").write_text("timestamp_ms\n")
    artifacts, refused = runner.collect(
        Ended(ended.outcome, runner.launcher.manifest("j"), ended.log_bytes, ended.log_pulled)
    )
    assert [artifact.path for artifact in artifacts] == ["telemetry.csv"]
    assert (runner.into / "telemetry.csv").read_text() == "timestamp_ms\n"
    assert refused == ["'telemetry.csv': offered twice"]


def test_names_that_no_disk_takes_are_refused_and_the_rest_is_pulled(runner):
    ended = runner.run(runner.spec('cd "$ORCH_OUT"; touch good; touch "back\\\\slash"'))
    (runner.into / "good").mkdir(parents=True)
    assert runner.collect(ended)[1] == [
        "'back\\\\slash': not a name that every system can hold",
        f"'good': something else is at {runner.into / 'good'}",
    ]


def test_a_file_that_never_rests_is_refused_and_the_rest_is_pulled(runner):
    script = """cd "$ORCH_OUT"; echo good >a; echo good >zzz
        setsid sh -c 'while sleep 0.002; do echo x >>zz.log; done' >/dev/null 2>&1 &
        echo $! >../pid; until [ -s zz.log ]; do sleep 0.01; done"""
    ended = runner.run(runner.spec(script))
    try:
        artifacts, refused = runner.collect(ended)
    finally:
        os.killpg(int((runner.dir() / "pid").read_text()), signal.SIGKILL)
    assert [artifact.path for artifact in artifacts] == ["a", "zzz"]
    (line,) = refused
    assert line.startswith("'zz.log': changed while it was pulled: ")
    assert sorted(path.name for path in runner.into.iterdir()) == ["a", "zzz"]


def test_a_file_that_changed_since_it_was_listed_is_listed_again(runner):
    ended = runner.run(runner.spec('echo old >"$ORCH_OUT/file"; echo x >"$ORCH_OUT/gone"'))
    (runner.dir() / "out" / "file").write_text("newer")
    (runner.dir() / "out" / "gone").unlink()
    artifacts, refused = runner.collect(ended)
    assert [(artifact.path, artifact.size) for artifact in artifacts] == [("file", 5)]
    assert (runner.into / "file").read_text() == "newer"
    (line,) = refused
    assert "'gone': changed while it was pulled" in line


def test_what_a_job_puts_in_place_of_the_telemetry_is_refused(runner):
    for number, what in enumerate(("ln -s /etc/passwd", "mkfifo", "mkdir")):
        name = f"t{number}"
        put = f'cd "$ORCH_JOB_DIR"; rm -f telemetry.csv; {what} telemetry.csv; echo x >out/file'
        runner.log = runner.log.with_name(name)
        ended = runner.run(runner.spec(put, name))
        assert ended.outcome.state.value == "SUCCEEDED"
        assert ended.manifest.telemetry is None
        assert [item.path for item in ended.manifest.refused] == ["telemetry.csv"]
        assert [file.path for file in ended.manifest.files] == ["file"]


TOKEN = "tok'en\\" + '"7Yq+\u00e9?>'
TELL = r"""
import base64, json, os, pathlib
out, token = pathlib.Path(os.environ["ORCH_OUT"]), os.environ["TOKEN"]
(out / "plain").write_text("x" * 262140 + token)  # across two reads
(out / "json").write_text(json.dumps([token]))
for n in range(3):
    (out / f"base64-{n}").write_bytes(base64.b64encode(b"abc"[:n] + token.encode() + b"more"))
(out / f"named {token}").write_text("fine")
(out / f"link {token}").symlink_to("/etc/passwd")
(out / "innocent").write_text("fine")
print(token, json.dumps(token), base64.b64encode(token.encode()).decode(), sep="\n")
"""


@pytest.mark.parametrize("known", [TOKEN, "another-value", None], ids=["same", "other", "unset"])
def test_what_has_a_secret_stays_on_the_pod_whatever_the_secret_is_now(runner, known):
    command = Command(("python3", "-c", TELL))
    runner.run(JobSpec("j", command, secrets={"TOKEN": Secret(TOKEN)}))
    found = collect(
        runner.launcher,
        runner.connection,
        "j",
        runner.into,
        lambda _artifact: None,
        secrets={"TOKEN": Secret(known)} if known else {},
    )
    assert [path.name for path in runner.into.iterdir()] == ["innocent"]
    names = ["base64-0", "base64-1", "base64-2", "json", "named ***", "plain"]
    assert found.quarantined == [f"{name!r}: the value of TOKEN is in it" for name in names]
    assert found.refused == ["'link ***': symbolic link"]
    result = (runner.dir() / "result.json").read_text()
    for form in (TOKEN, json.dumps(TOKEN)[1:-1], repr(TOKEN)[1:-1]):
        assert form not in result + runner.log.read_text()
    assert base64.b64encode(TOKEN.encode()).decode()[:12] not in runner.log.read_text()


def test_a_job_with_secrets_that_was_never_searched_shows_no_files(runner):
    script = 'echo "$TOKEN" >"$ORCH_OUT/file"; echo up; sleep 60'
    runner.launcher.submit(runner.spec(script, secrets={"TOKEN": Secret(TOKEN)}))
    assert eventually(lambda: (runner.dir() / "log").read_text() == "up\n")
    process = json.loads((runner.dir() / "process.json").read_text())
    os.kill(process["supervisor"]["pid"], signal.SIGKILL)
    os.killpg(process["command"]["pid"], signal.SIGKILL)
    manifest = runner.launcher.manifest("j")
    assert manifest.files == []
    assert "never searched" in manifest.refused[0].reason


def test_a_refused_name_is_masked_before_it_is_quoted(runner):
    os_takes = TOKEN.replace('"', "")
    ended = runner.run(runner.spec(f"ln -s /etc {shlex.quote(f'out/l{os_takes}')}"))
    secrets = {"TOKEN": Secret(os_takes)}
    found = collect(
        *(runner.launcher, runner.connection, "j", runner.into, lambda _a: None, ended.manifest),
        secrets,
    )
    assert found.refused == ["'l***': symbolic link"]


# -- an agent that is not what it should be


def agent_folder(runner: Runner) -> Path:
    (found,) = runner.dir().parents[1].glob("agent-*")
    return found


def empty(folder: Path) -> None:
    for module in (folder / "agent").glob("*.py"):
        module.write_bytes(b"")


def cut_the_compiled(folder: Path) -> None:
    for module in (folder / "agent" / "__pycache__").iterdir():
        module.write_bytes(module.read_bytes()[:40])


DAMAGES = [
    empty,
    lambda folder: [module.unlink() for module in (folder / "agent").glob("*.py")],
    lambda folder: (folder / "agent" / "verbs.py").write_text("import nothing_like_it"),
    cut_the_compiled,
    lambda folder: shutil.rmtree(folder.parent),
]


@pytest.mark.parametrize(
    "damage", DAMAGES, ids=["empty", "no-modules", "one-wrong", "compiled", "pod-emptied"]
)
@pytest.mark.parametrize("fresh", [True, False], ids=["another-controller", "the-same"])
@pytest.mark.parametrize("pod", ["openssh"], indirect=True)
def test_a_damaged_agent_is_put_there_anew(runner, pod, damage, fresh):
    runner.run(runner.spec("true", "first"))
    for use in ("run", "status", "follow"):
        damage(agent_folder(runner))
        if fresh:
            runner.launcher = SshLauncher(runner.connection, pod)
        if use == "run":
            runner.log.unlink(missing_ok=True)
            assert runner.run(runner.spec("echo hello")).outcome.state.value == "SUCCEEDED"
        elif use == "status":
            assert runner.launcher.status("j").state in ("SUCCEEDED", "ABSENT")
        else:
            runner.launcher.submit(runner.spec("echo hello"))
            damage(agent_folder(runner))
            outcome = follow(runner.launcher, "j", runner.log, lambda _data: None)
            assert outcome.state.value in ("SUCCEEDED", "LOST")
        assert [path.name for path in agent_folder(runner).iterdir()] == ["agent"]


def test_what_a_killed_installer_left_is_in_nobody_s_way(runner):
    runner.run(runner.spec("true", "first"))
    place = agent_folder(runner)
    place.rename(place.with_name(f"{place.name}.{os.getpid()}"))
    assert runner.launcher.status("first").state == "SUCCEEDED"


def test_an_agent_that_is_whole_is_asked_once(runner, tmp_path):
    dumb = tmp_path / "python"
    dumb.write_text(
        f"#!/bin/sh\nfor word; do case $word in */agent) echo x >>{tmp_path}/asked; exit 1;; esac\n"
        'done; exec python3 "$@"\n'
    )
    dumb.chmod(0o755)
    runner.launcher._pod = runner.launcher._pod.model_copy(update={"python": str(dumb)})
    with pytest.raises(InfraError, match="no answer"):
        runner.launcher.status("j")
    assert (tmp_path / "asked").read_text() == "x\n"


# -- pulling in parts


def listed(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_partial(path.name)]


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, bytes]:
    data = os.urandom(20 << 20)
    (tmp_path / "remote").write_bytes(data)
    return tmp_path / "remote", data


@pytest.mark.parametrize("after", [8 << 20, 10 << 20], ids=["between windows", "within one"])
def test_a_pull_goes_on_where_the_link_broke(connection, big, tmp_path, after):
    remote, data = big
    local = tmp_path / "new" / "local"

    def cut(seen: bytes) -> None:
        nonlocal received
        received += len(seen)
        if received >= after:
            connection.transport.sock.inner.shutdown(2)
            connection.transport.join(10)  # so that the next window is asked for on a dead link

    received = 0
    with pytest.raises(ConnectionLost):
        connection.download(str(remote), local, **listed(data), inspect=cut)
    assert not local.exists()
    (partial,) = partials(local.parent)
    kept = partial.stat().st_size
    assert after - (1 << 20) <= kept < len(data)
    assert data.startswith(partial.read_bytes())
    connection.close()
    connection.open()
    # What is on the pod in place of the part that is here shows that it is not pulled again.
    with remote.open("r+b") as file:
        file.write(bytes(kept))
    connection.download(str(remote), local, **listed(data))
    assert local.read_bytes() == data
    assert partials(local.parent) == []


def test_a_part_that_is_not_its_beginning_is_pulled_anew(connection, big, tmp_path):
    remote, data = big
    local = tmp_path / "new" / "local"
    local.parent.mkdir()
    for wrong in (b"something else", bytes(len(data)), data + b"more"):
        (local.parent / f".{listed(data)['sha256']}.part").write_bytes(wrong)
        connection.download(str(remote), local, **listed(data))
        assert local.read_bytes() == data
        assert partials(local.parent) == []
        local.unlink()


def test_a_part_that_is_a_link_is_not_followed(connection, tmp_path):
    (tmp_path / "remote").write_bytes(b"data")
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / f".{listed(b'data')['sha256']}.part").symlink_to(tmp_path / "victim")
    local = tmp_path / "local"
    connection.download(str(tmp_path / "remote"), local, **listed(b"data"))
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not local.is_symlink()
    assert local.read_bytes() == b"data"


def test_a_file_that_is_here_already_is_not_asked_for(connection, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(b"data")
    connection.download("/nowhere", local, **listed(b"data"))
    with pytest.raises(PullError, match="/nowhere"):
        connection.download("/nowhere", local, **listed(b"atad"))
    assert local.read_bytes() == b"data"


def test_a_checksum_is_never_taken_for_a_path(connection, tmp_path):
    with pytest.raises(PullError, match="no file has"):
        connection.download("/etc/hostname", tmp_path / "local", size=1, sha256="../../x")


def test_a_part_of_a_file_that_has_changed_since_does_not_stay(runner):
    ended = runner.run(runner.spec('echo x >"$ORCH_OUT/file"'))
    runner.into.mkdir()
    (runner.into / f".{'0' * 64}.part").write_bytes(b"left")
    assert len(runner.collect(ended)[0]) == 1
    assert [path.name for path in runner.into.iterdir()] == ["file"]


def test_a_full_disk_here_says_what_fills_it(runner, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (small / "ballast").write_bytes(bytes(1 << 20))
        runner.log, runner.into = small / "log", small / "artifacts"
        with pytest.raises(
            OSError, match=r"0\.0 MiB are free, log has 1\.0 MiB and its folder 2\.0"
        ):
            runner.run(runner.spec("yes | head -c 3000000"))
        assert runner.log.stat().st_size <= 1 << 20
        (small / "ballast").unlink()
        (small / "log").unlink()
        ended = runner.run(
            runner.spec('head -c 3000000 /dev/zero >"$ORCH_OUT/f"', "k"), log_limit=10
        )
        with pytest.raises(OSError, match=r"No space left.*are free"):
            collect(
                runner.launcher,
                runner.connection,
                "k",
                runner.into,
                lambda _a: None,
                ended.manifest,
            )
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)

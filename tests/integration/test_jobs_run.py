"""A job in one call, as the controller makes it, on both kinds of pod."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InfraError
from orchestrator.jobs.follow import Ended, follow, run
from orchestrator.jobs.job import AgentResult, JobSpec, JobStatus, Manifest
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command
from orchestrator.models.run import JobState
from tests.integration.agents import eventually
from tests.integration.runners import Runner


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

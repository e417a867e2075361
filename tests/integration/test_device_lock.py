"""One measuring job per device: agents side by side, and a session that finds it taken."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import InfraError
from orchestrator.jobs.job import JobSpec
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command
from orchestrator.models.playbook import JobStep, Playbook
from orchestrator.models.pod import Pod
from orchestrator.steps.base import Session, run_job
from orchestrator.store.events import EventLog, read_events
from orchestrator.store.paths import RunPaths
from orchestrator.transport.connection import Connection
from tests.integration.agents import LEAVES, Agent, eventually, every_python, none_of, processes_of
from tests.integration.intervals import assert_apart, interval

TIMES = (
    "date +%s.%N >out/began; until [ -e ../../go ]; do sleep 0.05; done; "
    "sleep 0.3; date +%s.%N >out/ended"
)
"""Ends some time after `go` has come, so that no slow machine is through with it before."""


class Bench:
    """Agents whose jobs share a device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = sys.executable
        self.lock = folder / "device.lock"

    def __call__(self, name: str) -> Agent:
        return Agent(self.python, self.folder / "jobs" / name)

    def submit(self, name: str, script: str = "sleep 60", **fields: Any) -> dict[str, Any]:
        settings = {"job_id": name, "lock": str(self.lock), **fields}
        answer: dict[str, Any] = self(name).submit(script, **settings)
        return answer

    def taken(self, device: int = 0) -> bool:
        argv = ["flock", "--nonblock", f"{self.lock}.{device}", "true"]
        return subprocess.run(argv, check=False).returncode == 1


@pytest.fixture
def bench(tmp_path, python):
    made = Bench(tmp_path)
    made.python = python
    yield made
    for job in (tmp_path / "jobs").iterdir():
        made(job.name)("cancel")
        errors = job / "agent.log"
        assert not errors.exists() or not errors.read_text()
    assert none_of(tmp_path), processes_of(tmp_path)


# -- the agent


@every_python
def test_jobs_on_one_device_run_one_after_the_other(bench):
    names = [f"j{number}" for number in range(3)]
    states = [bench.submit(name, TIMES)["state"] for name in names]
    assert states == ["RUNNING", "SUBMITTED", "SUBMITTED"]
    (bench.folder / "go").touch()
    assert [bench(name).wait()["state"] for name in names] == ["SUCCEEDED"] * 3
    assert_apart([interval(bench(name).dir / "out") for name in names])
    assert not bench.taken()


def test_a_wait_is_visible_and_names_the_holder(bench):
    began = time.time()
    first = bench.submit("first")
    answer = bench.submit("second", "echo mine", timeout_s=2)
    assert (answer["state"], answer["created"], answer["result"]) == ("SUBMITTED", True, None)
    holder = bench("second")("status")["waiting_for"]
    assert (holder["job_id"], holder["pid"]) == ("first", first["pid"])
    assert holder["user"] == getpass.getuser()
    assert began <= holder["since"] <= time.time()
    again = bench.submit("second", "echo mine", timeout_s=2, min_free_bytes=1 << 60)
    assert (again["state"], again["created"]) == ("SUBMITTED", False)
    time.sleep(2.1)  # its timeout does not run yet
    assert not (bench("second").dir / "log").exists()
    with subprocess.Popen(bench("second").command("follow", 0), stdout=-1) as follower:
        time.sleep(0.3)
        assert follower.poll() is None
        bench("first")("cancel")
        assert follower.stdout.read() == b"mine\n"
    done = bench("second")("status")
    assert (done["state"], done["waiting_for"]) == ("SUCCEEDED", None)
    assert done["result"]["duration_s"] < 2


@every_python
def test_a_killed_supervisor_keeps_the_device_until_its_command_is_dead(bench):
    first = bench.submit("first")
    os.kill(first["supervisor_pid"], signal.SIGKILL)
    assert eventually(lambda: bench("first")("status")["state"] == "LOST")
    bench.submit("second", "true")
    time.sleep(0.5)
    assert bench("second")("status")["waiting_for"]["pid"] == first["pid"]
    os.kill(first["pid"], signal.SIGKILL)
    assert bench("second").wait()["state"] == "SUCCEEDED"


def test_what_left_the_group_does_not_keep_the_device(bench):
    bench.submit("first", f"{LEAVES} >/dev/null 2>&1 & until [ -s pid ]; do sleep 0.05; done")
    bench("first").wait()
    assert bench.submit("second", "true")["state"] in ("RUNNING", "SUCCEEDED")
    os.kill(int((bench("first").dir / "pid").read_text()), signal.SIGKILL)


def test_who_does_not_wait_is_told_who_has_it(bench, tmp_path):
    first = bench.submit("first")
    bench.submit("second", f"touch {tmp_path}/ran", lock_wait=False)
    result = bench("second").wait()["result"]
    assert (result["state"], result["reason"], result["started_at"]) == ("FAILED", "busy", None)
    said = f"job first of {getpass.getuser()} (process {first['pid']})"
    assert said in result["hint"]
    assert not (tmp_path / "ran").exists()
    bench("first")("cancel")
    bench.submit("third", "true", lock_wait=False)
    assert bench("third").wait()["state"] == "SUCCEEDED"


def test_a_waiting_job_is_cancelled_without_a_start(bench, tmp_path):
    bench.submit("first")
    bench.submit("second", f"touch {tmp_path}/ran")
    began = time.monotonic()
    cancelled = bench("second")("cancel")
    assert time.monotonic() - began < 20
    assert (cancelled["state"], cancelled["result"]["started_at"]) == ("CANCELLED", None)
    assert bench("first")("cancel")["state"] == "CANCELLED"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_a_wait_that_was_ended_from_outside_is_taken_up_again(bench, tmp_path, number):
    bench.submit("first")
    script = f"echo started >>{tmp_path}/starts"
    waiting = bench.submit("second", script)
    os.kill(waiting["supervisor_pid"], number)
    stopped = bench("second").wait()
    assert (stopped["state"], stopped["waiting_for"]) == ("SUBMITTED", None)
    assert bench.submit("second", script)["created"]
    bench("first")("cancel")
    assert bench("second").wait()["state"] == "SUCCEEDED"
    assert (tmp_path / "starts").read_text() == "started\n"


def test_devices_named_by_number_are_apart(bench):
    bench.submit("zero", env={"CUDA_VISIBLE_DEVICES": "0"})
    assert bench.submit("one", env={"CUDA_VISIBLE_DEVICES": "1"})["state"] == "RUNNING"
    both = bench.submit("both", "true", env={"CUDA_VISIBLE_DEVICES": "1,0"})
    assert both["waiting_for"]["job_id"] == "zero"
    unnamed = bench.submit("unnamed", "true", env={"CUDA_VISIBLE_DEVICES": "GPU-1234"})
    assert unnamed["waiting_for"]["job_id"] == "zero"
    bench("zero")("cancel")
    assert bench("unnamed").wait()["state"] == "SUCCEEDED"
    assert eventually(lambda: bench("both")("status")["waiting_for"]["job_id"] == "one")
    assert not bench.taken(0)  # nothing is held while waiting for the rest
    bench("one")("cancel")
    assert bench("both").wait()["state"] == "SUCCEEDED"


def test_a_job_without_a_lock_waits_for_nobody(bench):
    bench.submit("first")
    assert bench.submit("second", "true", lock=None)["state"] in ("RUNNING", "SUCCEEDED")


def test_the_lock_file_is_for_every_user(bench):
    old = os.umask(0o077)
    try:
        bench.submit("first", "true")
    finally:
        os.umask(old)
    assert bench("first").wait()["state"] == "SUCCEEDED"
    assert Path(f"{bench.lock}.0").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory"])
def test_a_trap_in_place_of_the_lock_file_is_not_touched(bench, tmp_path, kind):
    victim, trap = tmp_path / "victim", Path(f"{bench.lock}.0")
    victim.write_text("precious")
    {"symlink": lambda: trap.symlink_to(victim), "hard link": lambda: trap.hardlink_to(victim),
     "fifo": lambda: os.mkfifo(trap), "directory": trap.mkdir}[kind]()  # fmt: skip
    bench.submit("first")
    result = bench("first").wait()["result"]
    assert (result["state"], result["reason"]) == ("FAILED", "busy")
    assert str(trap) in result["hint"]
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "note", [b"", b"[1]", b"\xff{", b'{"job_id": {"a": 1}, "pid": "x"}', b"[" * 5000]
)
def test_nonsense_in_the_lock_file_is_no_holder(bench, note):
    path = Path(f"{bench.lock}.0")
    path.write_bytes(note)
    with path.open() as file:
        argv = ["flock", "--exclusive", str(file.fileno())]
        subprocess.run(argv, check=True, pass_fds=[file.fileno()])
        nobody = {"job_id": None, "pid": None, "user": None, "since": None}
        assert bench.submit("first", "true")["waiting_for"] == nobody
    assert bench("first").wait()["state"] == "SUCCEEDED"


# -- the controller's side, on both kinds of pod


@pytest.fixture
def session(pod: Pod, connection: Connection, tmp_path: Path) -> Session:
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    return Session(
        run_id="r",
        paths=paths,
        playbook=Playbook.model_validate(
            {
                "version": 1,
                "name": "p",
                "title": "P",
                "phases": [{"id": 1, "name": "a", "title": "A"}],
            }
        ),
        pod=pod,
        root=str(tmp_path),
        connection=connection,
        launcher=SshLauncher(connection, pod),
        events=EventLog(paths.events),
        on_log=lambda _data: None,
        conclude=lambda: pytest.fail("nothing to judge here"),
    )


def spec(name: str, script: str, folder: Path, **fields: Any) -> JobSpec:
    return JobSpec(name, Command(("sh", "-c", script)), lock=str(folder / "lock"), **fields)


def test_a_run_that_does_not_wait_names_the_holder(session, tmp_path):
    session.launcher.submit(spec("first", "sleep 60", tmp_path))
    log = tmp_path / "log"
    try:
        with pytest.raises(InfraError, match=r"taken by job first of \w+ \(process \d+\)") as busy:
            run_job(session, spec("second", "true", tmp_path, lock_wait=False), log)
        assert "--no-wait" in str(busy.value)
    finally:
        session.launcher.cancel("first")
    run_job(session, spec("third", "true", tmp_path, lock_wait=False), log)
    states = [e.data["state"] for e in read_events(session.paths.events) if e.name == "job.state"]
    assert states == ["FAILED", "RUNNING", "SUCCEEDED"]


def test_too_little_space_is_infrastructure(session, tmp_path):
    with pytest.raises(InfraError, match=r"MiB free at .* MiB wanted: nothing was started"):
        run_job(session, spec("first", "true", tmp_path, min_free_bytes=1 << 60), tmp_path / "log")


def test_the_lock_of_a_pod_is_common_to_its_users(session, pod):
    lock = session.launcher.device_lock()
    assert lock == (
        f"{Path(pod.workdir).parent}/device.lock"
        if pod.embedded
        else "/tmp/orchestrate-device.lock"
    )


@pytest.mark.parametrize(
    ("written", "size"),
    [("1GiB", 1 << 30), ("20 MiB", 20 << 20), ("7", 7), (0, 0), ("3B", 3)],
    ids=str,
)
def test_sizes_are_written_as_people_do(written, size):
    step = {"id": "j", "action": "job", "command": ["true"], "min_free": written}
    assert JobStep.model_validate(step).min_free == size


@pytest.mark.parametrize("written", ["1GB", "-1", "1.5GiB", -1, ""])
def test_other_sizes_are_refused(written):
    with pytest.raises(ValidationError):
        JobStep.model_validate(
            {"id": "j", "action": "job", "command": ["true"], "min_free": written}
        )

"""Starting a job, once and only once; stopping it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from .directory import Job
from .files import fsync_directory, read_json
from .processes import group_alive, is_alive, signal_group, wait_until
from .room import require_room
from .spec import IDENTITY, Refused, Spec
from .supervisor import Supervisor


def submit(job: Job, spec: Spec) -> dict[str, Any]:
    """Start the job, unless it has been started before."""
    before = job.status()
    if before["state"] in ("ABSENT", "SUBMITTED") and before["waiting_for"] is None:
        require_room(job, spec.min_free_bytes)
    if not job.spec.exists():
        job.create(lambda draft: draft.describe(spec.record()))
    recorded, record = read_json(job.spec), spec.record()
    if recorded is None and job.result.exists():  # cancelled before it came
        return {"created": False, **job.status()}
    if recorded is None:
        raise Refused(f"{job.dir} exists and is not a job directory")
    differing = [name for name in IDENTITY if recorded.get(name) != record[name]]
    if differing:
        raise Refused(f"{job.dir} holds another job: {', '.join(differing)} differ")
    lock: int | None = None

    def settled() -> bool:
        nonlocal lock
        lock = job.try_lock()
        return lock is not None or _is_under_way(job.status())

    if not wait_until(settled, 30):
        raise Refused("another submission holds the lock and does not start the job")
    created = False
    if lock is not None:
        try:
            created = job.status()["state"] == "SUBMITTED"
            if created:
                _launch(job, spec, lock)
        finally:
            os.close(lock)  # the supervisor has its own copy, and its end must be seen
    status = job.status()
    if not _is_under_way(status):
        raise Refused(f"the supervisor did not start; see {job.agent_log}")
    return {"created": created, **status}


def _is_under_way(status: dict[str, Any]) -> bool:
    return status["state"] != "SUBMITTED" or status["waiting_for"] is not None


def _launch(job: Job, spec: Spec, lock: int) -> None:
    """Fork the supervisor away from this session; return when the command runs, waits or failed."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _become_supervisor(job, spec, lock, tell)
    os.close(tell)
    os.waitpid(child, 0)
    os.read(ready, 1)  # nothing is written: it ends when the supervisor closes it, or dies
    os.close(ready)


def _become_supervisor(job: Job, spec: Spec, lock: int, tell: int) -> NoReturn:
    exit_code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(job.agent_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, source in enumerate((null, null, errors)):
            os.dup2(source, fd)
        for path in Path("/proc/self/fd").iterdir():  # a session waits for all that it passed on
            if int(path.name) > 2 and int(path.name) not in (lock, tell):
                with contextlib.suppress(OSError):
                    os.close(int(path.name))
        Supervisor(job, spec).run(tell_ready=os.fdopen(tell, "w").close)  # twice does no harm
        exit_code = 0
    except BaseException:  # noqa: BLE001 - last frame of a daemon: agent.log is all there is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(exit_code)


def cancel(job: Job) -> dict[str, Any]:
    """Stop the job, or keep it from starting; return when it is over.

    One that nobody knows may be on its way here: what is left in its place keeps it from starting.
    """
    found = job.status()
    if found["state"] == "ABSENT":
        job.create(lambda draft: _bury(draft, job.dir.name))
        found = job.status()
        if found["state"] == "ABSENT":
            raise Refused(f"{job.dir} exists and is not a job directory")
    if found["result"]:
        return found
    os.close(os.open(job.cancelled, os.O_WRONLY | os.O_CREAT, 0o600))
    fsync_directory(job.dir)
    spec = read_json(job.spec) or {}
    patience_s = float(spec["kill_after_s"])
    told: set[int] = set()

    def is_over() -> bool:
        lock = job.try_lock()
        process = read_json(job.process) or {}
        if lock is None:  # the supervisor lives, or is about to
            supervisor = process.get("supervisor")
            if supervisor and supervisor["pid"] not in told:
                told.add(supervisor["pid"])
                if is_alive(supervisor, process["boot_id"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(supervisor["pid"], signal.SIGTERM)
                        os.kill(supervisor["pid"], signal.SIGCONT)
            return False  # it lets go of the lock when it has written the result
        state = job.status()["state"]
        if state == "SUBMITTED":
            Supervisor(job, Spec(spec["job_id"], [])).record("CANCELLED")
        elif state == "LOST":
            _stop_orphans(process, patience_s)
        os.close(lock)
        return True

    wait_until(is_over, patience_s + 5)
    return job.status()


def _bury(draft: Job, job_id: str) -> None:
    """Write what a job amounts to that was cancelled before it came."""
    draft.cancelled.touch(mode=0o600)
    Supervisor(draft, Spec(job_id, [])).record("CANCELLED")


def _stop_orphans(process: dict[str, Any], patience_s: float) -> None:
    """Stop the command of a supervisor that is gone."""
    command = process.get("command")
    if command and is_alive(command, process["boot_id"]):
        signal_group(command["pid"], signal.SIGTERM)
        wait_until(lambda: not group_alive(command["pid"]), patience_s)
        signal_group(command["pid"], signal.SIGKILL)

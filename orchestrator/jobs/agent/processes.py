"""Processes, told apart by pid and start time, and their groups."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Callable, NamedTuple


class ProcStat(NamedTuple):
    """The part of /proc/PID/stat that tells processes apart."""

    state: str
    pgid: int
    session: int
    start_ticks: int


def _proc_stat(pid: int) -> ProcStat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # the name before it may hold anything
    return ProcStat(fields[0].decode(), int(fields[2]), int(fields[3]), int(fields[19]))


def this_boot() -> str:
    """Return what tells this run of the machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identity_of(pid: int) -> dict[str, int]:
    """Return what `is_alive` knows the process by."""
    found = _proc_stat(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return {"pid": pid, "pgid": found.pgid, "start_ticks": found.start_ticks}


def is_alive(identity: dict[str, int] | None, boot_id: str | None) -> bool:
    """Say whether this very process runs; a zombie does not, and a reused pid is another one."""
    if identity is None or boot_id != this_boot():
        return False
    found = _proc_stat(identity["pid"])
    return (
        found is not None
        and found.state not in "ZX"
        and found.start_ticks == identity["start_ticks"]
    )


def belongs(pid: int, session: int, job_dir: Path) -> bool:
    """Say whether a process is the job's: of its session, or with its environment.

    A daemon leaves the session, and keeps the environment.
    """
    found = _proc_stat(pid)
    if found is not None and found.session == session:
        return True
    with contextlib.suppress(OSError):
        return os.fsencode(f"ORCH_JOB_DIR={job_dir}\0") in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def group_alive(pgid: int) -> bool:
    """Say whether any process of the group runs."""
    members = (_proc_stat(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return any(found and found.pgid == pgid and found.state not in "ZX" for found in members)


def signal_group(pgid: int, number: int) -> None:
    """Signal all of a group, if there is one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, number)
        if number == signal.SIGTERM:
            os.killpg(pgid, signal.SIGCONT)  # a stopped process gets its TERM only then


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; False if it took longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True

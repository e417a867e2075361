"""One job directory: its paths, and what can be read from them."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any, Callable

from .device import try_flock
from .files import fsync_directory, read_json, write_whole
from .processes import is_alive, wait_until

RESERVE_BYTES = 1 << 16
ENDS_S = 1.0  # for a supervisor that has written the result


class Job:
    """One job directory: its paths, and what can be read from them."""

    def __init__(self, directory: str) -> None:
        self.dir = Path(directory).absolute()
        self.spec = self.dir / "job.json"
        self.reserve = self.dir / "reserve"
        self.out = self.dir / "out"
        self.lock = self.dir / "lock"
        self.agent_log = self.dir / "agent.log"
        self.process = self.dir / "process.json"
        self.started = self.dir / "started"
        self.log = self.dir / "log"
        self.telemetry = self.dir / "telemetry.csv"
        self.cancelled = self.dir / "cancelled"
        self.result = self.dir / "result.json"

    def create(self, fill: Callable[[Job], None]) -> None:
        """Bring the directory into being with what `fill` writes, or leave the one that is there.

        It appears all at once, so that of a submission and a cancellation one is first.
        """
        self.dir.parent.mkdir(parents=True, exist_ok=True)
        draft = Job(str(self.dir.with_name(f".{self.dir.name}.{os.getpid()}.{time.time_ns()}")))
        try:
            draft.dir.mkdir(mode=0o700)
            draft.out.mkdir(mode=0o700)
            fill(draft)
            draft.dir.rename(self.dir)
            fsync_directory(self.dir.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                for path in draft.dir.iterdir():
                    path.rmdir() if path.is_dir() else path.unlink()
                draft.dir.rmdir()
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # somebody else was first
                raise

    def describe(self, record: dict[str, Any]) -> None:
        """Write job.json, and set aside what the result will need."""
        # Random, because a compressing filesystem would keep no blocks for zeros.
        self.reserve.touch(mode=0o600)
        self.reserve.write_bytes(os.urandom(RESERVE_BYTES))
        write_whole(self.spec, {**record, "created_at": time.time()})

    def try_lock(self) -> int | None:
        """Return a descriptor that holds the lock until every copy of it is closed, or None."""
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        if try_flock(fd):
            return fd
        os.close(fd)
        return None

    def status(self) -> dict[str, Any]:
        """Return what is true now, by files and live processes."""
        # In the reverse of the order of writing, so that no step between two looks misleads:
        # `started` implies a process.json, and a supervisor that is gone has left its result.
        started = self.started.exists()
        process = read_json(self.process) or {}
        supervisor, command = process.get("supervisor"), process.get("command")
        supervised = is_alive(supervisor, process.get("boot_id"))
        result = read_json(self.result)
        if result is not None and supervised:
            # It is the last that a supervisor does. Where it lives on, the job wrote that file.
            ended = wait_until(lambda: not is_alive(supervisor, process.get("boot_id")), ENDS_S)
            supervised, result = not ended, read_json(self.result) if ended else None
        if result is not None and "state" in result:
            state = str(result["state"])
        elif not self.spec.exists():
            state = "ABSENT"
        elif not started:
            state = "SUBMITTED"
        else:
            state = "RUNNING" if supervised else "LOST"
        waits = state == "SUBMITTED" and supervised
        return {
            "job_id": (read_json(self.spec) or {}).get("job_id"),
            "state": state,
            "pid": command and command["pid"],
            "supervisor_pid": supervisor and supervisor["pid"],
            "command_alive": is_alive(command, process.get("boot_id")),
            "cancel_requested": self.cancelled.exists(),
            "waiting_for": process.get("waiting_for") if waits else None,
            "log_bytes": self.log.stat().st_size if self.log.exists() else 0,
            "result": result,
        }

"""Handing over the log as it grows, to somebody who may leave at any time."""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any, Callable

from .directory import Job
from .files import CHUNK, write_all

SHORTEST_S, LONGEST_S = 0.004, 0.2  # between two looks at the job


class Reader:
    """Who reads standard output."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()
        self._parent = os.getppid()
        self._hangup = select.poll()
        self._hangup.register(self._fd, 0)  # errors and hang-ups only

    def write(self, data: bytes) -> None:
        """Hand over raw bytes.

        Raises:
            BrokenPipeError: nobody reads.
        """
        write_all(self._fd, data)

    def say(self, **answer: Any) -> None:
        """Hand over a line of JSON."""
        self.write(json.dumps(answer).encode() + b"\n")

    def frame(self, data: bytes) -> None:
        """Hand over bytes of the log among lines of JSON."""
        self.write(b'{"log": %d}\n' % len(data) + data)

    def leaves(self, seconds: float) -> bool:
        """Wait that long; say whether nobody reads any more."""
        return bool(self._hangup.poll(1000 * seconds)) or os.getppid() != self._parent


def copy_log(
    job: Job, position: int, limit: float, write: Callable[[bytes], None], reader: Reader
) -> bool:
    """Copy the log from byte `position` to byte `limit` until the job is over.

    Returns:
        False if the reader left before that.
    """
    log: int | None = None
    over, pause_s = False, SHORTEST_S
    while True:
        if log is None and job.log.exists():
            log = os.open(job.log, os.O_RDONLY)
        wanted = int(max(0, min(CHUNK, limit - position)))
        data = os.pread(log, wanted, position) if log is not None else b""
        if data:
            write(data)
            position, pause_s = position + len(data), SHORTEST_S
        elif over:
            return True
        else:
            over = _is_over(job)  # then read once more, for what came before the end
            if not over and reader.leaves(pause_s):
                return False
            pause_s = min(LONGEST_S, 1.5 * pause_s)


def _is_over(job: Job) -> bool:
    state = job.status()["state"]
    if state == "SUBMITTED":  # worth waiting only if somebody is about to start it
        lock = job.try_lock()
        if lock is not None:
            os.close(lock)
        return lock is not None
    return bool(state != "RUNNING")

"""One writer per run directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import StoreError
from orchestrator.store.events import now
from orchestrator.store.paths import RunPaths


@contextmanager
def writing(paths: RunPaths) -> Iterator[None]:
    """Hold the run directory for writing.

    The kernel drops the lock when the holder dies, however it dies: there are no stale locks.

    Raises:
        StoreError: another process holds it; says which.
    """
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"run {paths.run_id} is being written by {_holder(descriptor)}",
                remedy=f"watch it: orchestrate logs -f {paths.run_id}",
            ) from None
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_written(paths: RunPaths) -> bool:
    """Whether some process holds the run directory for writing."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

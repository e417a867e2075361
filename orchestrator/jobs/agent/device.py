"""The device: a file that stands for it, locked for as long as a job has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import time
from pathlib import Path
from typing import Any

NOTE_BYTES = 2048  # what the holder of a device writes into the lock file, padded


class Device:
    """The devices a job has to itself, each stood for by a file that is locked."""

    def __init__(self, lock: str | None, devices: str) -> None:
        named = devices.split(",")  # as in CUDA_VISIBLE_DEVICES
        if all(name.strip().isdigit() for name in named):
            numbers = set(map(int, named))
        else:  # not set, or set to something else than numbers: any may be meant
            numbers = set(range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or 1))
        self._paths = [f"{lock}.{number}" for number in sorted(numbers)] if lock else []
        self.locks: list[int] = []

    def take(self) -> dict[str, Any] | None:
        """Take every lock and return None; or take none and return who has one."""
        for path in self._paths:
            fd = _open_shared(path)
            self.locks.append(fd)
            if not try_flock(fd) or not _is_at(fd, path):
                holder = _holder(fd)
                self.leave()
                return holder
        return None

    def leave(self) -> None:
        """Unlock, also for processes that left the command's group with the descriptors."""
        for fd in self.locks:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
        self.locks = []

    def sign(self, job_id: str, pid: int) -> None:
        """Say in the files who has it, each in one write that nobody sees half of."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        note = {"job_id": job_id, "pid": pid, "user": user, "since": time.time()}
        for fd in self.locks:
            with contextlib.suppress(OSError):  # a full disk; the lock is what counts
                os.pwrite(fd, json.dumps(note).encode().ljust(NOTE_BYTES), 0)


def try_flock(fd: int) -> bool:
    """Lock an open file, unless somebody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_shared(path: str) -> int:
    """Open a file that every user may lock, in a directory where anybody may have put something."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            # Without O_CREAT, which fs.protected_regular refuses on a file of somebody else.
            fd = os.open(path, flags)
        except FileNotFoundError:
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            os.fchmod(fd, 0o666)  # whatever the umask
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:  # 0: removed just now
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file with one name", path)


def _is_at(fd: int, path: str) -> bool:
    """Say whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> dict[str, Any]:
    """Read who says to hold the lock; anybody can write there, so only what makes sense counts."""
    try:
        note = json.loads(os.pread(fd, NOTE_BYTES, 0))
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        note = {}
    kinds: dict[str, Any] = {"job_id": str, "pid": int, "user": str, "since": (int, float)}
    return {key: note.get(key) if isinstance(note.get(key), kinds[key]) else None for key in kinds}


def describe(holder: dict[str, Any]) -> str:
    """Name who has the device."""
    if holder["job_id"] is None:
        return "another process"
    return f"job {holder['job_id']} of {holder['user']} (process {holder['pid']})"

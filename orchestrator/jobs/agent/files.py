"""Files: written whole or not at all, listed and hashed without following a link."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from .spec import Refused

CHUNK = 1 << 18


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; None if there is no file, or something else in it."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_all(fd: int, data: bytes) -> None:
    """Write every byte."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_whole(
    path: Path, content: dict[str, Any], via: Path | None = None, *, durably: bool = True
) -> None:
    """Write `via`, keeping the blocks it has, and rename it to `path`.

    What need not outlive the machine's next crash is spared the wait for the disk.
    """
    via = via or path.with_name(f"{path.name}.tmp")
    data = json.dumps(content).encode() + b"\n"
    fd = os.open(via, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        write_all(fd, data)
        os.ftruncate(fd, len(data))
        if durably:
            os.fsync(fd)
    finally:
        os.close(fd)
    via.replace(path)
    if durably:
        fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make names in it last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def walk(top: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """Return the regular files below `top` and the entries refused; follows no link."""
    files: list[Path] = []
    refused: list[dict[str, str]] = []
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                pending.extend(path.iterdir())
            elif stat.S_ISREG(mode):
                files.append(path)
            else:
                kinds = {"l": "symbolic link", "p": "fifo", "s": "socket"}
                reason = kinds.get(stat.filemode(mode)[0], "device")
                refused.append({"path": relative(path, top), "reason": reason})
        except OSError as error:
            refused.append({"path": relative(path, top), "reason": str(error.strerror)})
    return files, refused


def relative(path: Path, top: Path) -> str:
    """Return the path below `top`; what is not UTF-8 in it as backslashes and digits."""
    return os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")


def checksum(path: Path, limit: int | None) -> tuple[int, str]:
    """Hash what is read, so that size and checksum agree even if the file still grows."""
    digest, size = hashlib.sha256(), 0
    # O_NONBLOCK: it may have become a FIFO since it was listed.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("not a regular file any more")
        if limit is not None and found.st_size > limit:
            raise Refused(f"{found.st_size} bytes, more than {limit}")
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()

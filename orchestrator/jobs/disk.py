"""A full disk on this side, and what fills it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_what_fills(file: Path) -> Iterator[None]:
    """Have the error for a full disk say what is left, and what the file's folder takes of it.

    Raises:
        OSError: as raised within, with more to read.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(file.parent).free
        said = (
            f"{error.strerror}; {_mib(free)} are free, {file.name} has {_mib(_size(file))} "
            f"and its folder {_mib(_size_of_tree(file.parent))}"
        )
        raise OSError(error.errno, said, str(file)) from error


def _size_of_tree(folder: Path) -> int:
    return sum(_size(path) for path in folder.rglob("*"))


def _size(path: Path) -> int:
    with suppress(OSError):
        return 512 * path.lstat().st_blocks
    return 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"

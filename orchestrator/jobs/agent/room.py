"""Room on the disk, and what takes it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .directory import Job
from .files import walk
from .spec import Refused


def free_bytes(path: Path) -> int:
    """Return what this user may still write on the disk of `path`."""
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def mib(size: float) -> str:
    """Write a size as people read it."""
    return f"{size / (1 << 20):.1f} MiB"


def tree_bytes(top: Path) -> int:
    """Bytes on the disk of the files below `top`; some may go away meanwhile."""
    total = 0
    for path in walk(top)[0]:
        with contextlib.suppress(OSError):
            total += 512 * path.lstat().st_blocks
    return total


def require_room(job: Job, wanted: float) -> None:
    """See that the job may begin.

    Raises:
        Refused: there is less than `wanted`; says which jobs hold the disk.
    """
    place = next(path for path in (job.dir, *job.dir.parents) if path.exists())
    free = free_bytes(place)
    if free < wanted:
        why = f"{mib(free)} free at {place}, {mib(wanted)} wanted: nothing was started"
        raise Refused(why + _jobs_in(job.dir.parent))


def disk_use(job: Job) -> str:
    """Say how full the disk is, and with what, as far as it is ours."""
    log = job.log.stat().st_size if job.log.exists() else 0
    return (
        f"{mib(free_bytes(job.dir))} free at {job.dir}; log has {mib(log)}, "
        f"out/ {mib(tree_bytes(job.out))}{_jobs_in(job.dir.parent)}"
    )


def _jobs_in(folder: Path) -> str:
    jobs = folder.iterdir() if folder.is_dir() else ()
    sizes = sorted((tree_bytes(path), path.name) for path in jobs if (path / "job.json").exists())
    if not sizes:
        return ""
    total = mib(sum(size for size, _ in sizes))
    size, name = sizes[-1]
    return f"; {len(sizes)} jobs in {folder} hold {total}, {name} {mib(size)} of it"

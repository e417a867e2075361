"""How often the kernel has killed for want of memory: in our cgroup, and on the whole host."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class OomKills(NamedTuple):
    """Two counters of the kernel; what they rose by during a job is what counts."""

    cgroup: int
    host: int


def oom_kills(root: Path = ROOT) -> OomKills:
    """Read both, below `root`; a counter that cannot be read is 0."""
    return OomKills(_cgroup(root), _counter(root / "proc/vmstat", "oom_kill") or 0)


def _cgroup(root: Path) -> int:
    """Read how often the OOM killer struck in our cgroup, v2 or v1."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = mount, "memory.events"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.oom_control"
        else:
            continue
        for directory in (top / path.lstrip("/"), top):  # in a container the path may not be ours
            kills = _counter(directory / name, "oom_kill")
            if kills is not None:
                return kills
    return 0


def _counter(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None

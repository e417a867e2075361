"""Whether `~/.ssh/config` has a word as a Host. What it says about it is read when connecting."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterator
from pathlib import Path

CONFIG_FILES = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))
_MAX_DEPTH = 16  # OpenSSH's own limit for nested Include


def is_ssh_host(name: str) -> bool:
    """Whether a Host line names it; `Host *` is meant for every host and so names none."""
    lines = (line for file in CONFIG_FILES for line in _host_lines(_home(file), 0))
    return any(_matches(name, patterns) for patterns in lines)


def _matches(name: str, patterns: list[str]) -> bool:
    found = False
    for pattern in patterns:
        # `[` opens a character class for fnmatch, and is nothing special for ssh
        plain = pattern.removeprefix("!").lower().replace("[", "[[]")
        if fnmatch.fnmatchcase(name.lower(), plain):
            if pattern.startswith("!"):
                return False
            found = found or plain.strip("*") != ""
    return found


def _host_lines(file: Path, depth: int) -> Iterator[list[str]]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for raw in text.splitlines():
        keyword, _, rest = re.sub(r"[\s=]+", " ", raw.strip(), count=1).partition(" ")
        words = [word.strip('"') for word in rest.split()]
        if keyword.lower() == "host":
            yield words
        elif keyword.lower() == "include" and depth < _MAX_DEPTH:
            for pattern in words:
                path = _home(Path("~/.ssh") / _home(Path(pattern)))
                for found in sorted(glob.glob(str(path))):  # noqa: PTH207 - absolute
                    yield from _host_lines(Path(found), depth + 1)


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # a user that does not exist
        return path

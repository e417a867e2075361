"""The user's ssh configuration, less everything that would open a way back to this machine."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

import paramiko

# First value wins, as in OpenSSH, hence the user's file first.
CONFIG_FILES = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))

# A pod is not trusted: no agent, socket, display or command of this machine is for it.
_DROPPED = frozenset(
    {
        "clearallforwardings",
        "dynamicforward",
        "forwardagent",
        "forwardx11",
        "forwardx11trusted",
        "localcommand",
        "localforward",
        "permitlocalcommand",
        "permitremoteopen",
        "remotecommand",
        "remoteforward",
        "tunnel",
    }
)
_MAX_DEPTH = 16  # OpenSSH's own limit for nested Include


def load(files: tuple[Path, ...] = CONFIG_FILES) -> paramiko.SSHConfig:
    """Read ssh configuration files; missing ones count as empty."""
    lines: list[str] = []
    for file in files:
        # a file's last Host block ends with the file
        lines += ["Host *", *_lines(file.expanduser(), "Host *", 0)]
    return paramiko.SSHConfig.from_text("\n".join(lines))


def _lines(file: Path, block: str, depth: int) -> Iterator[str]:
    """The lines of a file that count, with Include (which Paramiko does not know) carried out."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for raw in text.splitlines():
        line = raw.strip()
        keyword, _, rest = re.sub(r"[\s=]+", " ", line, count=1).partition(" ")
        keyword = keyword.lower()
        if keyword in _DROPPED:
            continue
        if keyword in ("host", "match"):
            block = line
        if keyword == "include" and depth < _MAX_DEPTH:
            for included in _included(rest):
                yield from _lines(included, block, depth + 1)
            yield block  # the included file may have ended in a block of its own
            continue
        yield line


def _included(patterns: str) -> Iterator[Path]:
    for pattern in patterns.split():
        path = Path(pattern.strip('"')).expanduser()
        if not path.is_absolute():
            path = Path("~/.ssh").expanduser() / path
        yield from (Path(name) for name in sorted(glob.glob(str(path))))  # noqa: PTH207 - absolute

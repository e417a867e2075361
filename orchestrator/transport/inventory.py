"""What is here, what is on the pod, and what to do about the difference."""

from __future__ import annotations

import fnmatch
import functools
import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import SyncError
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection

# The pod's own: environments, jobs, results, caches. Neither looked into nor deleted.
_PODS_OWN = (
    ".git",
    "/.venv*",
    "/.orchestrate",
    "/runs",
    "__pycache__",
    ".pytest_cache",
    "*.egg-info",
)
_PROTECTED = "P"
_FORMAT = r"\0%s\0%T@\0%m\0%p\0%l\0"  # after the kind
_FIELDS = 6
# Kept by file systems that store times in units of 1 ns, 100 ns, 1 us, 1 s.
_GRANULARITIES = (1, 100, 1_000, 1_000_000_000)


class Item(NamedTuple):  # made by the ten thousand
    """A file or link; times tell whether it changed, as for rsync."""

    kind: str
    """`find`'s letter: f, l, d or another."""
    size: int = 0
    mtime_ns: int = 0
    executable: bool = False
    target: str = ""

    def same_as(self, other: Item | None) -> bool:
        """Whether the pod's item `other` needs nothing sent."""
        if other is None or self.kind != other.kind:
            return False
        if self.kind == "l":
            return self.target == other.target
        return (
            self.size == other.size
            and self.executable == other.executable
            and any(self.mtime_ns // unit * unit == other.mtime_ns for unit in _GRANULARITIES)
        )


@dataclass(frozen=True)
class Remote:
    """What is on the pod."""

    has_rsync: bool
    items: Mapping[str, Item]
    protected: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """What to send and what to delete; deleting comes first, to make way."""

    send: Sequence[str]
    delete: Sequence[str]
    delete_folders: Sequence[str] = field(default=())
    """Deepest first."""

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.send or self.delete or self.delete_folders)


@dataclass(frozen=True)
class _Pattern:
    """A protected name: with a `/` before its end it starts at the root, else it is met anywhere.

    Wildcards match `/` too, in `find -path` and in `fnmatch` alike.
    """

    text: str
    folders_only: bool

    @property
    def anchored(self) -> bool:
        return "/" in self.text.rstrip("/")

    @property
    def plain(self) -> str:
        return self.text.strip("/")

    def find_terms(self) -> list[str]:
        test = ["-path", f"./{self.plain}"] if self.anchored else ["-name", self.plain]
        # a link may stand for an environment on another disk
        return ["(", "-type", "d", "-o", "-type", "l", ")", *test] if self.folders_only else test

    def matches(self, path: str) -> bool:
        name = path if self.anchored else posixpath.basename(path)
        return fnmatch.fnmatchcase(name, self.plain)


def _patterns(pod: Pod, protect: Iterable[str]) -> list[_Pattern]:
    own = list(_PODS_OWN)
    venv = posixpath.relpath(pod.venv_path, pod.workdir)
    if venv != ".." and not venv.startswith("../"):
        own.append("/" + re.sub(r"([*?\[\\])", _literally, venv))
    patterns = [_Pattern(text, folders_only=True) for text in own]
    return patterns + [_Pattern(text, folders_only=False) for text in protect if text.strip("/")]


def _literally(match: re.Match[str]) -> str:
    return r"[\\]" if match[0] == "\\" else f"[{match[0]}]"


def local(root: Path, paths: Iterable[str]) -> dict[str, Item]:
    """The items at `paths`.

    Raises:
        SyncError: a link leads out of `root`: on the pod it would lead to something else.
    """
    items: dict[str, Item] = {}
    for path in paths:
        try:
            found = os.lstat(f"{root}/{path}")
            target = str((root / path).readlink()) if stat.S_ISLNK(found.st_mode) else None
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted since it was listed
        if target is None:
            executable = bool(found.st_mode & stat.S_IXUSR)
            items[path] = Item("f", found.st_size, found.st_mtime_ns, executable)
            continue
        _refuse_leaving(root, path, target)
        items[path] = Item("l", target=target)
    return items


def _refuse_leaving(root: Path, path: str, target: str) -> None:
    said = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    real = Path(os.path.realpath(root / path))
    if (
        posixpath.isabs(target)
        or said.split("/")[0] == ".."
        or not real.is_relative_to(os.path.realpath(root))
    ):
        raise SyncError(
            f"{path!r} is a symbolic link that leads out of the repository, to {target!r}",
            remedy="replace it by a relative link or the file, or name it in .orchignore",
        )


def remote(connection: Connection, protect: Iterable[str], wanted: Mapping[str, Item]) -> Remote:
    """What the pod has in its workdir, which is made if there is none; one or two round trips."""
    pod = connection.pod
    patterns = _patterns(pod, protect)
    terms = [term for pattern in patterns for term in ("-o", *pattern.find_terms())][1:]
    script = (
        'mkdir -p -- "$1" && cd -- "$1" && shift || exit; '
        "if command -v rsync >/dev/null 2>&1; then printf 'rsync\\0'; else printf 'tar\\0'; fi; "
        'exec find . -mindepth 1 -ignore_readdir_race "$@"'
    )
    find = ["(", *terms, ")", "-prune", "-printf", _PROTECTED + _FORMAT, "-o", "-printf"]
    output = _query(connection, ("sh", "-c", script, "sh", pod.workdir, *find, "%y" + _FORMAT))
    method, _, listing = output.partition(b"\0")
    items = dict(_parse(pod, listing))
    protected = frozenset(path for path, item in items.items() if item.kind == _PROTECTED)
    items = {path: item for path, item in items.items() if item.kind != _PROTECTED}
    # Tracked files within protected folders are pushed as well, only never deleted.
    hidden = _protected_among(wanted, patterns)
    if hidden:
        script = 'cd -- "$1" && xargs -0 sh -c "$2" sh 2>/dev/null; :'  # missing ones are no error
        each = f'exec find "$@" -maxdepth 0 -printf "%y{_FORMAT}"'
        listing = _query(
            connection, ("sh", "-c", script, "sh", pod.workdir, each), stdin=[_joined(hidden)]
        )
        items |= dict(_parse(pod, listing))
    return Remote(method == b"rsync", items, protected)


def _protected_among(wanted: Mapping[str, Item], patterns: Sequence[_Pattern]) -> list[str]:
    """Those of `wanted` that a pattern covers, by themselves or by a folder they are in."""

    @functools.cache  # most files share their folders
    def covered(folder: str) -> bool:
        return folder != "" and (
            any(pattern.matches(folder) for pattern in patterns)
            or covered(posixpath.dirname(folder))
        )

    anywhere = [pattern for pattern in patterns if not pattern.folders_only]

    def named(path: str, item: Item) -> bool:
        considered = patterns if item.kind == "l" else anywhere
        return any(pattern.matches(path) for pattern in considered)

    return [
        path
        for path, item in wanted.items()
        if covered(path.rpartition("/")[0]) or named(path, item)
    ]


def _joined(paths: Iterable[str]) -> bytes:
    # "./": no name may look like an option
    return b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)


def _query(
    connection: Connection, argv: tuple[str, ...], stdin: Iterable[bytes] | None = None
) -> bytes:
    output, errors = bytearray(), bytearray()
    status = connection.stream(
        Command(argv), output.extend, stdin=stdin, on_stderr=errors.extend, timeout=600
    )
    if status != 0:
        said = errors.decode("utf-8", "replace").strip()[-2000:]
        raise SyncError(
            f"pod {connection.pod.name}: cannot work in {connection.pod.workdir}: {said}",
            remedy="GNU find is needed on the pod: apt-get install findutils"
            if "printf" in said or "not found" in said
            else None,
        )
    return bytes(output)


def _parse(pod: Pod, listing: bytes) -> Iterator[tuple[str, Item]]:
    fields = os.fsdecode(listing).split("\0")[:-1]
    if len(fields) % _FIELDS:
        raise SyncError(f"pod {pod.name}: the listing of {pod.workdir} is cut short")
    for start in range(0, len(fields), _FIELDS):
        kind, size, mtime, mode, path, target = fields[start : start + _FIELDS]
        seconds, _, fraction = mtime.partition(".")
        try:
            mtime_ns = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
            executable = bool(int(mode, 8) & stat.S_IXUSR)
            item = Item(kind, int(size), mtime_ns, executable, target)
        except ValueError as error:
            raise SyncError(f"pod {pod.name}: find said {mtime!r} {size!r} {mode!r}") from error
        yield path.removeprefix("./"), item


def pushed(connection: Connection) -> frozenset[str]:
    """What earlier pushes have put into the workdir: all that a push may ever delete.

    A folder on the pod may hold a person's own files, and a workdir may be named wrongly.
    """
    script = 'cat -- "$1" 2>/dev/null; :'
    listing = _query(connection, ("sh", "-c", script, "sh", _record(connection)))
    return frozenset(os.fsdecode(path) for path in listing.split(b"\0") if path)


def remember(connection: Connection, paths: Iterable[str]) -> None:
    """Note what the workdir holds of ours."""
    record = _record(connection)
    _query(connection, ("mkdir", "-p", "-m", "700", "--", posixpath.dirname(record)))
    listing = b"".join(os.fsencode(path) + b"\0" for path in sorted(paths))
    connection.upload(listing, record)


def _record(connection: Connection) -> str:
    return f"{connection.pod.state_dir}/pushed"


def plan(here: Mapping[str, Item], there: Remote, ours: Collection[str]) -> Plan:
    """What makes the pod hold our files; of what else is there, only `ours` is deleted."""
    needed = _folders(here)
    kept = _folders(there.protected)
    stale = [
        path
        for path, item in there.items.items()
        if item.kind != "d" and path not in here and (path in ours or path in needed)
    ]
    emptied = _folders(stale)
    # a folder where a file of ours goes must make way, if it can
    folders = [
        path
        for path, item in there.items.items()
        if item.kind == "d"
        and path not in needed
        and path not in kept
        and (path in emptied or path in here)
    ]
    return Plan(
        send=sorted(path for path, item in here.items() if not item.same_as(there.items.get(path))),
        delete=sorted(stale),
        delete_folders=sorted(folders, reverse=True),
    )


def _folders(paths: Iterable[str]) -> set[str]:
    """All folders that the paths are in; most share theirs."""
    found: set[str] = set()
    left = {path.rpartition("/")[0] for path in paths}
    while left:
        found |= left
        left = {folder.rpartition("/")[0] for folder in left} - found
    return found - {""}


def delete(connection: Connection, todo: Plan) -> None:
    """Remove what the plan says, folders only once they are empty."""
    workdir = connection.pod.workdir
    for paths, remove in (
        (todo.delete, ("rm", "-f", "--")),
        (todo.delete_folders, ("rmdir", "--ignore-fail-on-non-empty", "--")),
    ):
        if paths:
            script = 'cd -- "$1" && shift && exec xargs -0 "$@"'
            _query(connection, ("sh", "-c", script, "sh", workdir, *remove), stdin=[_joined(paths)])

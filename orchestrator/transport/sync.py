"""Push the repository to a pod: only what changed, and nothing of the pod's own is deleted.

One listing of the pod decides what is sent and what is deleted, so that rsync and tar, the two
carriers, cannot differ in that. Where nothing changed neither is started.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import SyncError
from orchestrator.models.command import Command
from orchestrator.transport import inventory, source
from orchestrator.transport.border import connection_lost
from orchestrator.transport.connection import Connection

Method = Literal["rsync", "tar"]

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK")
_STALLED = 60  # seconds without a byte
_LIMIT = 3600.0
_BROKEN_LINK = frozenset({10, 12, 30, 35, 255})  # rsync(1), EXIT VALUES; 255 is ssh's
_NOT_THE_LINK = re.compile(rb"Permission denied|Host key verification|command not found|code 127\)")
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 256 * 1024
_STDERR_TAIL = 2000


@dataclass(frozen=True)
class SyncReport:
    """What a push did. All counts are of files and links."""

    method: Method
    files: int
    """in the repository, as pushed"""
    sent_bytes: int
    """on the wire, compressed"""
    deleted: int
    changed: int
    """sent, being new or different"""
    seconds: float

    def counts(self) -> dict[str, str | int]:
        """Everything but the time, for records."""
        return {
            "method": self.method,
            "files": self.files,
            "changed": self.changed,
            "deleted": self.deleted,
            "sent_bytes": self.sent_bytes,
        }

    @property
    def nothing_to_do(self) -> bool:
        """Whether the pod already had it all."""
        return self.changed == 0 and self.deleted == 0


def push(connection: Connection, root: Path, *, protect: Sequence[str] = ()) -> SyncReport:
    """Make the pod's workdir hold the files of the repository at `root`.

    Times and the executable bit are kept, links stay links. Files that an
    earlier push put there and the repository no longer has are deleted; a file that is not ours
    never is, nor anything in environments, `.orchestrate`, `runs`, caches, and what `protect`
    names: `name` anywhere or `/path` from the workdir, with wildcards.

    Raises:
        SyncError: the files could not be listed, sent or deleted; nothing is lost by trying again.
        ConnectionLost: the link broke.
    """
    started = time.monotonic()
    root = root.absolute()
    here = inventory.local(root, source.files(root))
    with ThreadPoolExecutor(1) as beside:  # one round trip less to wait for
        pushed = beside.submit(inventory.pushed, connection)
        there = inventory.remote(connection, protect, here)
        ours = pushed.result()
    todo = inventory.plan(here, there, ours)
    method: Method = "rsync" if there.has_rsync and _local_rsync() else "tar"
    sent = 0
    if todo.delete or todo.delete_folders:
        inventory.delete(connection, todo)
    if todo.send:
        sent = (_rsync if method == "rsync" else _tar)(connection, root, todo.send)
    if ours != here.keys():
        inventory.remember(connection, here)
    return SyncReport(
        method=method,
        files=len(here),
        sent_bytes=sent,
        deleted=len(todo.delete),
        changed=len(todo.send),
        seconds=time.monotonic() - started,
    )


# -- rsync --------------------------------------------------------------------------------------


def _local_rsync() -> bool:
    """Whether rsync 3.1 or newer and ssh are here and can be used by this user."""
    rsync = shutil.which("rsync")
    if rsync is None or shutil.which("ssh") is None:
        return False
    try:
        pwd.getpwuid(os.getuid())  # ssh refuses to work for a user without a name
    except KeyError:
        return False
    return _version(rsync) >= (3, 1)


@functools.cache
def _version(rsync: str) -> tuple[int, int]:
    # openrsync, on recent macOS, says "openrsync: protocol version 29" and lacks what we use
    try:
        said = subprocess.run([rsync, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.match(rb"rsync\s+version v?(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _rsync(connection: Connection, root: Path, paths: Sequence[str]) -> int:
    """Send files by rsync's delta transfer; returns the bytes sent."""
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    argv = [
        "rsync",
        # The names come from a list, so no wildcard, option or comment is read into any of them.
        *("--files-from=-", "--from0", "--no-recursive"),
        # They are known to differ. Left to itself rsync would compare whole seconds, and pass over
        # an edit of equal length right after the last push.
        "--ignore-times",
        *("--links", "--times", "--omit-dir-times", "--executability", "--no-implied-dirs"),
        *("--compress", "--protect-args"),
        *("--stats", "--no-human-readable", f"--timeout={_STALLED}"),
        f"--rsh={' '.join(_rsh_word(word) for word in connection.ssh_command())}",
        f"{root}/",
        f"{host}:{connection.pod.workdir}/",
    ]
    names = b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
    status, output, errors = _run(argv, names, connection)
    if status == 0:
        match = re.search(rb"Total bytes sent: ([\d,]+)", output)
        return int(match[1].replace(b",", b"")) if match else 0
    said = errors[-_STDERR_TAIL:].decode("utf-8", "replace").strip()
    if status in _BROKEN_LINK and not _NOT_THE_LINK.search(errors):
        raise connection_lost(connection.pod, f"rsync exit {status}: {said}")
    raise SyncError(f"pod {connection.pod.name}: rsync failed with exit {status}: {said}")


def _rsh_word(word: str) -> str:
    """Quote for rsync's own splitting of --rsh: a quote within quotes is written twice."""
    return "'" + word.replace("'", "''") + "'"


def _run(argv: Sequence[str], stdin: bytes, connection: Connection) -> tuple[int, bytes, bytes]:
    """Run rsync and the ssh it starts; neither outlives this call, nor the session beside them.

    That one notices a cut link sooner than ssh does.
    """
    deadline = time.monotonic() + _LIMIT
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # ssh runs a ProxyCommand with $SHELL
    environment |= {"LC_ALL": "C", "SHELL": "/bin/sh"}
    # A file, not a pipe: `communicate` forgets what it has not yet written when its time is over.
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            argv,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    with process:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=1)
                    break
                if not connection.is_open:
                    raise connection_lost(connection.pod, "during rsync")
                if time.monotonic() > deadline:
                    raise SyncError(f"rsync did not finish within {_LIMIT:g} s")
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors


# -- tar ----------------------------------------------------------------------------------------


def _tar(connection: Connection, root: Path, paths: Sequence[str]) -> int:
    """Send files as one compressed tar stream; returns the bytes sent."""
    errors = bytearray()
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for data in _compressed(_archive(root, paths)):
            sent += len(data)
            yield data

    # As rsync without --perms: the pod's umask and user apply.
    extract = ("tar", "-xzf", "-", "--no-same-owner", "--no-same-permissions")
    status = connection.stream(
        Command(extract, cwd=connection.pod.workdir),
        lambda _: None,
        stdin=counted(),
        on_stderr=errors.extend,
        timeout=_LIMIT,
    )
    if status != 0:
        said = errors[-_STDERR_TAIL:].decode("utf-8", "replace").strip()
        raise SyncError(f"pod {connection.pod.name}: tar failed with exit {status}: {said}")
    return sent


def _compressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    gzip = zlib.compressobj(level=1, wbits=31)
    for block in blocks:
        if data := gzip.compress(block):
            yield data
    yield gzip.flush()


def _archive(root: Path, paths: Sequence[str]) -> Iterator[bytes]:
    """A tar archive, block by block: `tarfile` wants a file to write to, a channel wants chunks."""
    for path in paths:
        full = root / path
        try:
            found = full.lstat()
            member = tarfile.TarInfo(path)
            if stat.S_ISLNK(found.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, str(full.readlink())
                yield _header(member, found)
                continue
            member.size = found.st_size
            member.mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
            yield _header(member, found)
            left = found.st_size
            with full.open("rb") as stream:
                while left and (data := stream.read(min(_CHUNK, left))):
                    left -= len(data)
                    yield data
        except OSError as error:
            raise SyncError(f"cannot read {full}: {error.strerror}") from error
        if left:
            raise SyncError(f"{full} became shorter while it was pushed")
        yield bytes(-found.st_size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _header(member: tarfile.TarInfo, found: os.stat_result) -> bytes:
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    member.mtime = seconds
    # a float would lose the nanoseconds, and every later push would find the file changed
    member.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

"""Files over SFTP: small uploads, and downloads that trust nothing the pod says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import paramiko

from orchestrator.errors import InfraError, PullError
from orchestrator.models.pod import Pod
from orchestrator.transport.border import connection_lost, map_ssh_errors, still_up
from orchestrator.transport.process import chunks

_READ = 32 * 1024  # what every SFTP server serves in one request
_WINDOW = 8 * 1024 * 1024  # asked for at once: 80 MB/s where a round trip takes 100 ms
_STALLED = 30.0
_SHA256 = re.compile("[0-9a-f]{64}")
_PARTIAL = ".part"


def is_partial(name: str) -> bool:
    """Whether a file of this name is one that `download` has not got all of."""
    return name.endswith(_PARTIAL) and _SHA256.fullmatch(name[1 : -len(_PARTIAL)]) is not None


class _Fetched(NamedTuple):
    digest: str
    resumed: bool


class RemoteFiles:
    """The files of a pod, over one SFTP channel."""

    def __init__(self, transport: paramiko.Transport, pod: Pod) -> None:
        self._pod = pod
        with map_ssh_errors(pod):
            try:
                client = transport.open_sftp_client()
            except paramiko.ChannelException:
                raise
            except (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError) as error:
                if not still_up(transport):
                    raise EOFError(str(error)) from error
                raise _no_sftp(pod, str(error)) from error
        if client is None:
            raise connection_lost(pod, "no SFTP channel")
        self._client = client
        channel = client.get_channel()
        if channel is not None:
            channel.settimeout(_STALLED)

    @property
    def is_open(self) -> bool:
        """Whether the channel is still there."""
        channel = self._client.get_channel()
        return channel is not None and not channel.closed

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def upload(self, data: bytes, remote_path: str, mode: int) -> None:
        """Write beside the target, then rename over it."""
        folder, name = posixpath.split(remote_path)
        temporary = posixpath.join(folder, f".{name}.{secrets.token_hex(6)}")
        with self._naming(remote_path, InfraError, "cannot be written"):
            try:
                with self._client.open(temporary, "wx") as stream:
                    stream.chmod(mode)  # while it is empty: the content may be private
                    stream.set_pipelined(True)
                    for chunk in chunks(data):
                        stream.write(chunk)
                self._client.posix_rename(temporary, remote_path)
            except OSError:
                self._discard(temporary)
                raise

    def _discard(self, path: str) -> None:
        # never made, or out of reach now
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._client.remove(path)

    def download(
        self,
        remote_path: str,
        local_path: Path,
        *,
        size: int,
        sha256: str,
        inspect: Callable[[bytes], None],
    ) -> None:
        """Fetch a regular file of exactly this size and hash, from where an earlier try stopped.

        What has come so far lies beside the target, under a name that holds the hash. `inspect` is
        shown all of it in order, each piece before it is written; its PullError ends the fetch.
        """
        if size < 0 or not _SHA256.fullmatch(sha256):
            raise PullError(
                f"{self._name(remote_path)}: no file has {size} bytes and SHA-256 {sha256!r}"
            )
        if _is_whole(local_path, size, sha256):
            return
        local_path.parent.mkdir(parents=True, exist_ok=True)
        partial = local_path.with_name(f".{sha256}{_PARTIAL}")
        if partial.is_symlink():  # not of our making
            partial.unlink()
        try:
            found = self._continue(remote_path, partial, size, inspect)
            if found.digest != sha256 and found.resumed:  # what was here was not its beginning
                partial.unlink()
                found = self._continue(remote_path, partial, size, inspect)
            if found.digest != sha256:
                raise PullError(
                    f"{self._name(remote_path)}: SHA-256 is {found.digest}, "
                    f"the manifest says {sha256}"
                )
        except PullError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(local_path)

    def _continue(
        self, remote_path: str, partial: Path, size: int, inspect: Callable[[bytes], None]
    ) -> _Fetched:
        """Bring a file that is here in part to its full size."""
        digest = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(partial, flags, 0o666), "a+b") as stream:
            if partial.stat().st_size > size:
                stream.truncate(0)
            stream.seek(0)
            for data in iter(lambda: stream.read(_WINDOW), b""):
                inspect(data)
                digest.update(data)
            start = stream.tell()
            with self._opened(remote_path, size) as remote:
                for data in self._read(remote, remote_path, start, size):
                    inspect(data)
                    digest.update(data)
                    stream.write(data)
        return _Fetched(digest.hexdigest(), resumed=start > 0)

    @contextmanager
    def _opened(self, remote_path: str, size: int) -> Iterator[paramiko.SFTPFile]:
        with self._naming(remote_path, PullError, "cannot be read"):
            found = self._client.lstat(remote_path)
            # lstat, not stat: a link could name any file, and opening a FIFO would hang
            if found.st_mode is None or not stat.S_ISREG(found.st_mode):
                raise PullError(f"{self._name(remote_path)}: not a regular file")
            if found.st_size != size:
                raise self._wrong_size(remote_path, found.st_size, size)
            remote = self._client.open(remote_path, "rb")
            _send_quietly(remote)
        try:
            yield remote
        finally:
            with self._naming(remote_path, PullError, "cannot be closed"):
                remote.close()

    def _read(
        self, remote: paramiko.SFTPFile, remote_path: str, start: int, size: int
    ) -> Iterator[bytes]:
        received = start
        for window in range(start, size, _WINDOW):
            for data in self._window(remote, remote_path, window, size):
                received += len(data)
                yield data
        if received != size:
            raise self._wrong_size(remote_path, f"only {received}", size)

    def _window(
        self, remote: paramiko.SFTPFile, path: str, start: int, size: int
    ) -> Iterator[bytes]:
        """Read one window, all of its requests on their way at once."""
        # Not prefetch(): its thread would never end if the link broke in the middle of a file.
        end = min(start + _WINDOW, size)
        chunks = [(offset, min(_READ, end - offset)) for offset in range(start, end, _READ)]
        reads = iter(remote.readv(chunks))
        while True:
            with self._naming(path, PullError, "cannot be read"):
                try:
                    data = next(reads, None)
                except EOFError as error:
                    raise PullError(f"{self._name(path)} became shorter while read") from error
            if data is None:
                return
            yield data

    def _wrong_size(self, path: str, found: object, expected: int) -> PullError:
        return PullError(f"{self._name(path)}: {found} bytes, the manifest says {expected}")

    def _name(self, path: str) -> str:
        return f"pod {self._pod.name}: {path!r}"

    @contextmanager
    def _naming(self, path: str, kind: type[InfraError], what: str) -> Iterator[None]:
        """SFTP's refusals name the file; everything else about the channel is a lost link."""
        try:
            with map_ssh_errors(self._pod):
                try:
                    yield
                except OSError as error:
                    # The server's refusals have an errno or its own words; these two are ours.
                    if isinstance(error, TimeoutError) or str(error) == "Socket is closed":
                        raise
                    raise kind(f"{self._name(path)} {what}: {error.strerror or error}") from error
        except paramiko.SFTPError as error:  # an answer that makes no sense
            raise kind(f"{self._name(path)} {what}: {error}") from error


def _send_quietly(remote: paramiko.SFTPFile) -> None:
    """Have the thread that sends `readv`'s requests end quietly where the link breaks.

    Paramiko lets it end with a traceback on the terminal. Whoever reads the answers is told of the
    link anyway.
    """
    send = remote._prefetch_thread  # type: ignore[attr-defined]

    def quietly(*args: object) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            send(*args)

    remote._prefetch_thread = quietly  # type: ignore[attr-defined]


def _no_sftp(pod: Pod, said: str) -> InfraError:
    return InfraError(
        f"pod {pod.name}: {pod.address} has no SFTP: {said or 'its server ended at once'}",
        remedy="enable it there: `Subsystem sftp internal-sftp` in sshd_config; and nothing that "
        "a login shell prints may come before it",
    )


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    """Whether a plain file of this size and hash is there already."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        return False
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        for data in iter(lambda: stream.read(_WINDOW), b""):
            digest.update(data)
    return digest.hexdigest() == sha256

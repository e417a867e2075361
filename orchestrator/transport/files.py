"""Files over SFTP: small uploads, and downloads that trust nothing the pod says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import paramiko

from orchestrator.errors import InfraError, PullError
from orchestrator.models.pod import Pod
from orchestrator.transport.border import connection_lost, map_ssh_errors
from orchestrator.transport.process import chunks

_READ = 32 * 1024  # what every SFTP server serves in one request
_WINDOW = 8 * 1024 * 1024  # asked for at once: 80 MB/s where a round trip takes 100 ms
_STALLED = 30.0


class RemoteFiles:
    """The files of a pod, over one SFTP channel."""

    def __init__(self, transport: paramiko.Transport, pod: Pod) -> None:
        self._pod = pod
        with map_ssh_errors(pod):
            client = transport.open_sftp_client()
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

    def download(self, remote_path: str, local_path: Path, *, size: int, sha256: str) -> None:
        """Fetch a regular file of exactly this size and hash, or raise and leave nothing."""
        if size < 0:
            raise PullError(f"{self._name(remote_path)}: a size of {size} bytes is impossible")
        local_path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{local_path.name}.", dir=local_path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                digest = self._fetch(remote_path, stream, size)
            if digest != sha256.lower():
                raise PullError(
                    f"{self._name(remote_path)}: SHA-256 is {digest}, the manifest says {sha256}"
                )
            Path(temporary).replace(local_path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _fetch(self, remote_path: str, stream: BinaryIO, size: int) -> str:
        with self._naming(remote_path, PullError, "cannot be read"):
            found = self._client.lstat(remote_path)
            # lstat, not stat: a link could name any file, and opening a FIFO would hang
            if found.st_mode is None or not stat.S_ISREG(found.st_mode):
                raise PullError(f"{self._name(remote_path)}: not a regular file")
            if found.st_size != size:
                raise self._wrong_size(remote_path, found.st_size, size)
            remote = self._client.open(remote_path, "rb")
        digest = hashlib.sha256()
        received = 0
        try:
            for start in range(0, size, _WINDOW):
                for data in self._window(remote, remote_path, start, size):
                    received += len(data)
                    digest.update(data)
                    stream.write(data)
        finally:
            with self._naming(remote_path, PullError, "cannot be closed"):
                remote.close()
        if received != size:
            raise self._wrong_size(remote_path, f"only {received}", size)
        return digest.hexdigest()

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

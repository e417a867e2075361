"""A session with a pod: short commands, streams, small uploads, verified downloads.

Fabric resolves what the user configured (address, keys, jump hosts) and opens the session. Data
moves through Paramiko's channels: Fabric's `run` takes time quadratic in the output.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import fabric
import paramiko
from paramiko.proxy import ProxyCommand

from orchestrator.errors import InfraError
from orchestrator.models.command import Command, CommandResult
from orchestrator.models.pod import Pod
from orchestrator.transport import hops, sshconfig
from orchestrator.transport.auth import KeyAuthentication
from orchestrator.transport.border import connection_lost, map_connect_errors
from orchestrator.transport.files import RemoteFiles
from orchestrator.transport.hostkeys import HostKey, HostKeys
from orchestrator.transport.process import STDERR, STDOUT, RemoteProcess, chunks
from orchestrator.transport.watch import HeardSocket, watch

OUTPUT_LIMIT = 16 * 1024 * 1024
"""Most bytes that `run` returns; `stream` has no limit."""


class _CheckHostKey(paramiko.MissingHostKeyPolicy):
    """Hands every host key to our own store: Paramiko is given none, so that all are missing."""

    def __init__(self, pod: Pod, host_keys: HostKeys, name: str) -> None:
        self._pod, self._host_keys, self._name = pod, host_keys, name

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client, hostname
        presented = HostKey(key.get_name(), key.asbytes())
        self._host_keys.check(self._pod, self._name, presented)


class Connection:
    """A session with a pod; a context manager.

    Args:
        pod: where to; what it leaves open comes from the user's ssh configuration.
        host_keys: decides whether the pod is who it should be.
        connect_timeout: seconds for each of: connecting, the server's greeting, logging in.
    """

    def __init__(self, pod: Pod, *, host_keys: HostKeys, connect_timeout: float = 15.0) -> None:
        self.pod = pod
        self._host_keys = host_keys
        self._timeout = connect_timeout
        self._transports: list[tuple[paramiko.Transport, HeardSocket]] = []
        self._files: RemoteFiles | None = None
        self._files_lock = threading.Lock()
        with map_connect_errors(pod, pod.address, timeout=connect_timeout):
            # The embedded pod is ours: a `Host *` with a jump host is not meant for it.
            config = paramiko.SSHConfig() if pod.embedded else sshconfig.load()
            self._fabric = fabric.Connection(
                pod.host,
                user=pod.user,
                port=pod.port,
                # lazy: fabric.yml and its kin have no say
                config=fabric.Config(lazy=True, ssh_config=config),
                gateway=hops.gateway_override(config, pod),
                forward_agent=False,
                connect_timeout=max(1, round(connect_timeout)),
            )

    # -- opening and closing --------------------------------------------------------------------

    def open(self) -> Connection:
        """Connect, jump hosts first.

        Raises:
            ConnectError: says which of name, port, host key or key was the matter.
        """
        if self.is_open:
            return self
        try:
            for hop in reversed(hops.chain(self._fabric)):
                with map_connect_errors(self.pod, hops.address(hop), timeout=self._timeout):
                    self._open_hop(hop)
        except BaseException:
            self.close()
            raise
        return self

    def _open_hop(self, hop: Any) -> None:
        hop.client.set_missing_host_key_policy(
            _CheckHostKey(self.pod, self._host_keys, hops.known_name(hop))
        )
        hop.connect_kwargs = {
            "banner_timeout": self._timeout,
            "auth_timeout": self._timeout,
            "channel_timeout": self._timeout,
            "transport_factory": lambda sock, **options: self._transport_for(hop, sock, options),
            "auth_strategy": KeyAuthentication(
                self.pod.name, hop.user, hops.address(hop), self._identities(hop)
            ),
        }
        sock: socket.socket | None = None
        if not hop.gateway:
            # Paramiko gives up at the first address that times out; this tries all.
            sock = socket.create_connection((hop.host, hop.port), timeout=self._timeout)
            hop.connect_kwargs["sock"] = sock
        try:
            hop.open()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        watch(
            hop.transport,
            hop.transport.sock,
            ask_every=hops.KEEPALIVE,
            silent_for=hops.LINK_TIMEOUT,
        )

    def _transport_for(
        self, hop: Any, sock: socket.socket, options: dict[str, Any]
    ) -> paramiko.Transport:
        """A transport that notices a cut link and asks for the kind of host key that is known."""
        if isinstance(sock, socket.socket):
            hops.tune(sock)
        heard: Any = HeardSocket(sock)  # as good as a socket to Paramiko
        transport = paramiko.Transport(heard, **options)
        self._transports.append((transport, heard))
        known = {key.type for key in self._host_keys.known(self.pod, hops.known_name(hop))}
        if "ssh-rsa" in known:  # the key's type; its signatures go by these names
            known |= {"rsa-sha2-512", "rsa-sha2-256"}
        security = transport.get_security_options()
        plain = [name for name in security.key_types if "-cert-" not in name]
        # Without this a server with several keys would show one nobody has seen.
        security.key_types = sorted(plain, key=lambda name: name not in known)
        # as OpenSSH would: one pass over the bytes in place of two, half as long for a large log
        security.ciphers = sorted(security.ciphers, key=lambda name: "-gcm@" not in name)
        return transport

    def close(self) -> None:
        """End the session; does nothing if there is none."""
        if self._files is not None:
            self._files.close()
            self._files = None
        for hop in hops.chain(self._fabric):
            hop.client.close()
            hop.transport = None
        for transport, heard in reversed(self._transports):
            # Closed here as well: Paramiko forgets a transport whose handshake failed.
            transport.close()
            if transport.is_alive():
                transport.join(timeout=2)
            if isinstance(heard.inner, ProxyCommand):
                hops.reap(heard.inner)
        self._transports.clear()

    @property
    def is_open(self) -> bool:
        """Whether the session is up, as far as is known."""
        return bool(self._fabric.is_connected)

    def __enter__(self) -> Connection:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- who and where --------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """Host name or address that is really connected to."""
        return str(self._fabric.host)

    @property
    def port(self) -> int:
        """Port that is really connected to."""
        return int(self._fabric.port)

    @property
    def user(self) -> str:
        """User on the pod."""
        return str(self._fabric.user)

    @property
    def address(self) -> str:
        """`user@host:port`, resolved."""
        return f"{self.user}@{hops.address(self._fabric)}"

    def ssh_command(self) -> list[str]:
        """Argv of an OpenSSH client for the very same session, less the host name.

        Same address, user, keys, jump hosts and known-hosts file; nothing else of the user's
        configuration (`-F none`), nothing forwarded, no question asked.
        """
        return hops.ssh_argv(
            self._fabric,
            known_hosts=self._host_keys.file_for(self.pod),
            identities=self._identities,
            timeout=self._timeout,
        )

    def _identities(self, hop: Any) -> list[Path]:
        """Keys named for a hop: by the pod, else by the ssh configuration."""
        if hop is self._fabric and self.pod.identity_file is not None:
            return [self.pod.identity_file.expanduser().absolute()]
        named = [Path(name).expanduser() for name in hop.ssh_config.get("identityfile", [])]
        # OpenSSH passes over configured keys that do not exist; one must be left to complain about
        return [path for path in named if path.exists()] or named

    # -- commands -------------------------------------------------------------------------------

    @property
    def transport(self) -> paramiko.Transport:
        """The open session."""
        transport: paramiko.Transport | None = self._fabric.transport
        if transport is None or not transport.is_active():
            raise connection_lost(self.pod, "the session is not open")
        return transport

    def run(self, command: Command, *, stdin: bytes = b"", timeout: float = 60) -> CommandResult:
        """Run a short command and return what it wrote; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ConnectionLost: the link broke; the command may still run.
            InfraError: not finished in time, or more than 16 MiB of output.
        """
        streams: dict[int, bytearray] = {}
        size = 0
        with self._start(
            command, stdin=chunks(stdin) if stdin else None, timeout=timeout
        ) as process:
            for stream, data in process.output():
                streams.setdefault(stream, bytearray()).extend(data)
                size += len(data)
                if size > OUTPUT_LIMIT:
                    raise InfraError(
                        f"pod {self.pod.name}: {command.argv[0]} wrote more than "
                        f"{OUTPUT_LIMIT // 2**20} MiB"
                    )
            status = process.wait()
        out, err = (streams.get(s, b"").decode("utf-8", "replace") for s in (STDOUT, STDERR))
        return CommandResult(exit_code=status, stdout=out, stderr=err)

    def stream(
        self,
        command: Command,
        sink: Callable[[bytes], object],
        *,
        stdin: Iterable[bytes] | None = None,
        on_stderr: Callable[[bytes], object] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Hand the output to `sink` as it comes, in constant memory; return the exit status.

        Standard error goes to `on_stderr`, or nowhere. A command that dies of a signal has status
        128 plus the signal.

        Raises:
            ConnectionLost: the link broke, whatever was received before; never a status then.
        """
        with self._start(command, stdin=stdin, timeout=timeout) as process:
            for stream, data in process.output():
                if stream == STDOUT:
                    sink(data)
                elif on_stderr is not None:
                    on_stderr(data)
            return process.wait()

    def _start(
        self, command: Command, *, stdin: Iterable[bytes] | None, timeout: float | None
    ) -> RemoteProcess:
        return RemoteProcess(
            self.transport,
            self.pod,
            command,
            stdin=stdin,
            timeout=timeout,
            open_timeout=self._timeout,
        )

    # -- files ----------------------------------------------------------------------------------

    def upload(self, data: bytes, remote_path: str, mode: int = 0o600) -> None:
        """Write a small file: beside the target, then renamed over it.

        Raises:
            InfraError: names the file.
        """
        self._remote_files().upload(data, remote_path, mode)

    def download(
        self,
        remote_path: str,
        local_path: Path,
        *,
        size: int,
        sha256: str,
        inspect: Callable[[bytes], None] = lambda _data: None,
    ) -> None:
        """Fetch a file as listed: never a link or device, never more than `size` bytes.

        `local_path` is written only if size and SHA-256 (lower case) are right; keeping it within a
        directory is the caller's part. What a broken link left is continued by the next call.
        `inspect` is shown the content, each piece before it is written, and may raise a PullError.

        Raises:
            PullError: names the file.
        """
        self._remote_files().download(
            remote_path, local_path, size=size, sha256=sha256, inspect=inspect
        )

    def _remote_files(self) -> RemoteFiles:
        with self._files_lock:
            if self._files is None or not self._files.is_open:
                self._files = RemoteFiles(self.transport, self.pod)
            return self._files

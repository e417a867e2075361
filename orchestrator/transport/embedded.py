"""The embedded pod: a private SSH server on loopback, for a machine that has no sshd.

The same session, sync and jobs run against it as against a rented machine. It accepts one key, made
for it, forwards nothing, and is gone with everything it started when the `with` block ends, however
that ends. Jobs that detached themselves (`setsid`) are not its own, just as with sshd.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConnectError
from orchestrator.models.pod import Pod
from orchestrator.transport.hostkeys import known_as

if TYPE_CHECKING:  # 0.4 s to import, and only a run on the embedded pod needs it
    import asyncssh

_PASSED_ON = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "XDG_CACHE_HOME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    )
)
_PASSED_ON_PREFIXES = ("LC_", "PIP_")
_CHUNK = 256 * 1024
_GRACE = 2.0  # seconds between TERM and KILL
_START_TIMEOUT = 15.0
_PREFIX = "orchestrate-pod-"
_YOUNG = 60.0  # seconds


def pod_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What commands on the embedded pod see of the controller's environment: no secrets."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }


@contextmanager
def embedded_pod(workdir: Path, venv: Path, python: str) -> Iterator[Pod]:
    """Start a private SSH server on loopback and yield the pod that it serves.

    Args:
        workdir: repository on the pod.
        venv: environment on the pod; lives as long as the caller wants it to.
        python: interpreter that makes it.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
    server = _Server(folder)
    owner = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX)
        port = server.start()
        yield Pod(
            name="embedded",
            host="127.0.0.1",
            port=port,
            user=_user(),
            identity_file=folder / "id_ed25519",
            known_hosts_file=folder / "known_hosts",
            workdir=str(workdir.absolute()),
            venv=str(venv.absolute()),
            python=python,
            embedded=True,
        )
    finally:
        try:
            server.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(owner)


def _sweep() -> None:
    """Remove the folders, with keys in them, of controllers that were killed.

    The kernel drops a lock with its holder. One that is just being made has none yet: it is young.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by now
            owner = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(owner)
                if found.st_uid == os.getuid() and time.time() - found.st_mtime > _YOUNG:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(owner)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "pod"  # a container's user without a name; the key is what counts


class _Server:
    """An asyncssh server with an event loop and a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="embedded-pod", daemon=True)
        self._commands: set[asyncio.Task[None]] = set()
        self._children: set[asyncio.subprocess.Process] = set()
        self._environment = pod_environment(os.environ)

    def start(self) -> int:
        """Serve; returns the port."""
        self._thread.start()
        return self._started.result(timeout=_START_TIMEOUT)

    def stop(self) -> None:
        """End connections and commands, then the thread."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join(timeout=_START_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - belongs to the thread that waits
            if not self._started.done():
                self._started.set_exception(
                    ConnectError(f"the embedded pod's SSH server did not start: {error}")
                )

    async def _serve(self) -> None:
        import asyncssh

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        user_key = asyncssh.generate_private_key("ssh-ed25519", comment="orchestrate embedded pod")
        connections: set[asyncssh.SSHServerConnection] = set()

        class Server(asyncssh.SSHServer):
            """Remembers its connections; forwarding is refused by the base class."""

            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self._connection = conn
                connections.add(conn)

            def connection_lost(self, exc: Exception | None) -> None:
                del exc
                connections.discard(self._connection)

        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                user_key.export_public_key().decode("ascii")
            ),
            process_factory=self._command,
            sftp_factory=True,
            encoding=None,
            allow_pty=False,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            gss_host=None,
            compression_algs=None,
            config=None,
        )
        try:
            port = acceptor.get_port()
            public = host_key.export_public_key().decode("ascii")
            _write_private(self._folder / "id_ed25519", user_key.export_private_key())
            _write_private(
                self._folder / "known_hosts", f"{known_as('127.0.0.1', port)} {public}".encode()
            )
            self._started.set_result(port)
            await self._stop.wait()
        finally:
            acceptor.close()
            for connection in list(connections):
                connection.abort()
            await self._end_commands()
            await acceptor.wait_closed()

    async def _command(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        # A task of ours: asyncssh's own would end with the connection, and the child with no one
        # to look after it.
        task = asyncio.create_task(self._serve_command(process))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _serve_command(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if process.command is None:
            process.stderr.write(
                b"this server runs commands, and has no shell or other subsystem\n"
            )
            process.exit(1)
            return
        command: str | bytes = process.command
        home = self._environment.get("HOME", "/")
        out_end, out = os.pipe()
        err_end, err = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                command,
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=self._environment,
                cwd=home if Path(home).is_dir() else "/",
                start_new_session=True,
            )
        except BaseException:
            os.close(out_end)
            os.close(err_end)
            raise
        finally:
            os.close(out)
            os.close(err)
        self._children.add(child)
        feed = asyncio.create_task(_feed(process, child))
        try:
            # Both to their end before exit() closes the channel, or output would be cut short.
            await asyncio.gather(
                _pump(out_end, process.stdout.write, process.stdout.drain),
                _pump(err_end, process.stderr.write, process.stderr.drain),
            )
            status = await child.wait()
            if status < 0:
                process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
            else:
                process.exit(status)
        except (OSError, _ssh_error()):
            await child.wait()  # the client left; the child runs on, as under sshd
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            if child.stdin is not None:
                child.stdin.close()
            if child.returncode is not None:
                self._children.discard(child)

    async def _end_commands(self) -> None:
        """Terminate what commands left running in their own process group, then kill it."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for child in self._children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, sent)
            if self._commands:
                await asyncio.wait(set(self._commands), timeout=_GRACE)
        for task in self._commands:
            task.cancel()
        await asyncio.gather(*self._commands, return_exceptions=True)


def _ssh_error() -> type[Exception]:
    import asyncssh

    return asyncssh.Error


async def _pump(source: int, write: Any, drain: Any) -> None:
    """Copy a pipe to a channel until all writers have closed it.

    When the client leaves, the pipe is closed, and the child's next write ends it with SIGPIPE.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", buffering=0)
    )
    try:
        while data := await reader.read(_CHUNK):
            write(data)
            await drain()
    finally:
        transport.close()


async def _feed(
    process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process
) -> None:
    """Copy the channel to the child's standard input, the end included; pass signals on."""
    import asyncssh

    assert child.stdin is not None  # noqa: S101 - opened as a pipe above
    broken = False
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.SignalReceived as error:
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.killpg(child.pid, getattr(signal, f"SIG{error.signal}"))
            continue
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
            continue
        except (OSError, asyncssh.Error):
            break
        if not data:
            break
        if broken:
            continue  # read on: the client must not wait for ever for room to send
        try:
            child.stdin.write(data)
            await child.stdin.drain()
        except OSError:
            broken = True
    child.stdin.close()


def _write_private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)

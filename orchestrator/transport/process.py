"""One command on one Paramiko channel, with all three streams moving at once."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

import paramiko

from orchestrator.errors import InfraError
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.border import connection_lost, map_ssh_errors, still_up

CHUNK = 256 * 1024
STDOUT, STDERR = 1, 2


def chunks(data: bytes) -> Iterator[bytes]:
    """Cut data up: Paramiko's `sendall` copies what is left of its argument for every packet."""
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


class _Wakeup(threading.Event):
    """Set by either stream when there is something to read; cleared by the reader alone.

    Paramiko clears the event of a stream that has been read empty, and the event of one stream
    must not hide what the other has. Its own answer, `Channel.fileno()`, ends the whole session
    when a channel is closed at the moment data arrives: it writes to the closed end of a pipe.
    """

    def clear(self) -> None:
        """Called by Paramiko, to no effect."""

    def rearm(self) -> None:
        """Clear it, before looking at the streams."""
        super().clear()


class RemoteProcess:
    """A running command. Use as a context manager: leaving it closes the channel.

    The command line runs under `/bin/sh -c`, as a child of that shell: Paramiko ignores SSH's
    `exit-signal`, so a command that dies of a signal would look like a broken link. This way it
    has a status, 128 plus the signal. The user's login shell only sees two quoted words.
    """

    def __init__(
        self,
        transport: paramiko.Transport,
        pod: Pod,
        command: Command,
        *,
        stdin: Iterable[bytes] | None = None,
        timeout: float | None = None,
        open_timeout: float = 15.0,
    ) -> None:
        self._transport = transport
        self._pod = pod
        self._command = command
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._wakeup = _Wakeup()
        self._stdin_error: BaseException | None = None
        self._feeder: threading.Thread | None = None
        line = shlex.join(["/bin/sh", "-c", f"{command.shell()}\nexit $?"])
        with map_ssh_errors(pod):
            self._channel = transport.open_session(timeout=open_timeout)
            try:
                self._channel.in_buffer.set_event(self._wakeup)
                self._channel.in_stderr_buffer.set_event(self._wakeup)
                self._channel.exec_command(line.encode("utf-8", "surrogateescape"))
            except BaseException as error:
                self._channel.close()
                if isinstance(error, paramiko.SSHException) and still_up(transport):
                    raise InfraError(
                        f"pod {pod.name}: {pod.address} runs no commands: {error}",
                        remedy="see what its sshd_config and the key's line in authorized_keys "
                        "allow this user",
                    ) from error
                raise
        if stdin is None:
            with map_ssh_errors(pod):
                self._channel.shutdown_write()
        else:
            # A thread, for a command may write before it has read all of its input.
            self._feeder = threading.Thread(
                target=self._feed, args=(stdin,), name=f"stdin-{pod.name}", daemon=True
            )
            self._feeder.start()

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield `(STDOUT or STDERR, data)` until both have ended, in constant memory.

        Raises:
            ConnectionLost: the link broke.
            InfraError: the time is over.
        """
        channel = self._channel
        while True:
            self._wakeup.rearm()
            # Looked at before draining: what came before the end is in the buffers by then.
            ended = channel.eof_received or channel.closed
            while channel.recv_ready():
                with map_ssh_errors(self._pod):
                    data = channel.recv(CHUNK)
                if data:
                    yield STDOUT, data
                self._check_deadline()
            while channel.recv_stderr_ready():
                with map_ssh_errors(self._pod):
                    data = channel.recv_stderr(CHUNK)
                if data:
                    yield STDERR, data
                self._check_deadline()
            if ended:
                return
            self._check_deadline()
            self._wakeup.wait(self._remaining())

    def wait(self) -> int:
        """Exit status, once `output()` is through.

        A status counts only with the end of the output: sshd may report it while data is still on
        its way. Without either, Paramiko says -1 or nothing at all, and never raises.
        """
        channel = self._channel
        if not channel.status_event.wait(self._remaining()):
            self._check_deadline(force=True)
        whole = channel.eof_received or self._transport.is_active()
        if channel.exit_status == -1 or not whole:
            raise connection_lost(self._pod, "the command ended without an exit status")
        if self._stdin_error is not None:
            raise self._stdin_error
        return int(channel.exit_status)

    def close(self) -> None:
        """Close the channel; a command that still runs is left to itself."""
        # where the link is gone, so is the channel
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        if self._feeder is not None:
            self._feeder.join(timeout=5)

    def __enter__(self) -> RemoteProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _feed(self, stdin: Iterable[bytes]) -> None:
        chunks = iter(stdin)
        while True:
            try:
                data = next(chunks, None)
            except BaseException as error:  # noqa: BLE001 - raised again by wait()
                self._stdin_error = error
                self._channel.close()  # no EOF: half an input must not pass for a whole one
                return
            try:
                if data is None:
                    self._channel.shutdown_write()
                    return
                self._channel.sendall(data)
            except (OSError, EOFError, paramiko.SSHException):
                # The command ended without reading everything, its right; or the link broke, which
                # the reading side notices.
                return

    def _remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def _check_deadline(self, *, force: bool = False) -> None:
        if force or self._remaining() == 0:
            if not self._transport.is_active():
                raise connection_lost(self._pod, "no answer")
            program = self._command.argv[0]
            raise InfraError(
                f"pod {self._pod.name}: {program} did not finish within {self._timeout:g} s",
                remedy="it may still run on the pod",
            )

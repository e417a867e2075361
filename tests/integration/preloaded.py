"""`orchestrate` as a process of its own, without the second that its imports take.

A server beside each test worker has imported everything, compiled the report's template, and done
nothing more; every command is a fork of it, with its own arguments, environment and standard
streams, and ends as any Python process ends. It may be stopped, signalled and killed like one. What
acts before or on the imports, such as a clock put in place of the true one, starts afresh instead.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.config.resources import resource
from orchestrator.reporting.render import TEMPLATE, shipped

CHECKOUT = Path(__file__).parents[2]
_COMMANDS = ("after", "app", "inspect", "pods", "run")
_IMPORTED = ("asyncssh", *(f"orchestrator.cli.{command}" for command in _COMMANDS))


class Forked:
    """A command that runs, with as much of `subprocess.Popen` as the tests use."""

    def __init__(self, arguments: Sequence[str], status: int) -> None:
        self._arguments = list(arguments)
        self._status = status  # says the process id, and in the end the exit code
        self.pid = self._number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._number()
            os.close(self._status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs for longer, and goes on.
        """
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        data = os.read(self._status, 4)  # written at once, so never in parts
        if not data:
            raise EOFError("the preloaded server is gone")
        return int.from_bytes(data, "big", signed=True)


class Preloaded:
    """The server, from the side of the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=CHECKOUT,
        )
        theirs.close()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> Forked:
        """`python -m MODULE ARGUMENTS`, with nothing to read."""
        request = json.dumps(
            {"module": module, "argv": list(arguments), "env": dict(env), "cwd": str(Path.cwd())}
        ).encode()
        status, theirs = os.pipe()
        with Path(os.devnull).open("rb") as stdin:
            streams = [*(file.fileno() for file in (stdin, stdout, stderr)), theirs]
            socket.send_fds(self._socket, [len(request).to_bytes(4, "big")], streams)
        os.close(theirs)
        self._socket.sendall(request)
        return Forked(arguments, status)


@functools.cache
def preloaded() -> Preloaded:
    """The one server of this test worker; it ends with the worker."""
    return Preloaded()


def _serve(connection: socket.socket) -> None:
    for module in _IMPORTED:
        importlib.import_module(module)
    shipped(resource("reports", "templates")).get_template(TEMPLATE)
    gc.freeze()  # what is there stays, so that no fork looks through it, and copies it by that
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the watchers below leave nothing to be asked
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
        if not head:
            return
        size = int.from_bytes(head, "big")
        request = json.loads(connection.recv(size, socket.MSG_WAITALL))
        if os.fork() == 0:
            connection.close()
            _watch(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(request: dict[str, Any], descriptors: list[int]) -> None:
    """Fork the command, and say who it is and how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, status = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _become(request, streams)
    os.write(status, pid.to_bytes(4, "big", signed=True))
    _, ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(status, code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = [request["module"], *request["argv"]]
    tempfile.tempdir = None  # TMPDIR may have changed
    random.seed()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

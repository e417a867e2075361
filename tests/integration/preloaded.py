"""`orchestrate` as a process of its own, without the second that its imports take.

A server beside each test worker has imported everything and nothing more; every command is a fork
of it, with its own arguments, environment and standard streams, and ends as any Python process
ends. Tests that signal or kill the controller start it in the ordinary way instead.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_COMMANDS = ("after", "app", "inspect", "pods", "run")
_IMPORTED = ("asyncssh", *(f"orchestrator.cli.{command}" for command in _COMMANDS))


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

    def run(
        self, arguments: Sequence[str], env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `orchestrate ARGUMENTS` to its end.

        Raises:
            subprocess.TimeoutExpired: it took longer, and was killed.
        """
        request = json.dumps(
            {"argv": ["orchestrate", *arguments], "env": dict(env), "cwd": str(Path.cwd())}
        ).encode()
        with (
            Path(os.devnull).open("rb") as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            streams = [file.fileno() for file in (stdin, stdout, stderr)]
            socket.send_fds(self._socket, [len(request).to_bytes(4, "big")], streams)
            self._socket.sendall(request)
            pid = _number(self._socket)
            self._socket.settimeout(timeout)
            try:
                code = _number(self._socket)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(None)
                _number(self._socket)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
            finally:
                self._socket.settimeout(None)
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(list(arguments), code, *texts)


@functools.cache
def preloaded() -> Preloaded:
    """The one server of this test worker; it ends with the worker."""
    return Preloaded()


def _number(connection: socket.socket) -> int:
    return int.from_bytes(_exactly(connection, 4), "big", signed=True)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the preloaded server is gone")
        data += more
    return data


def _serve(connection: socket.socket) -> None:
    for module in _IMPORTED:
        importlib.import_module(module)
    while True:
        head, streams, _, _ = socket.recv_fds(connection, 4, 3)
        if not head:
            return
        size = int.from_bytes(head + _exactly(connection, 4 - len(head)), "big")
        request = json.loads(_exactly(connection, size))
        pid = os.fork()
        if pid == 0:
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            sys.argv = request["argv"]
            tempfile.tempdir = None  # TMPDIR may have changed
            random.seed()
            importlib.import_module("orchestrator.cli.app").main()  # raises SystemExit
        for stream in streams:
            os.close(stream)
        connection.sendall(pid.to_bytes(4, "big", signed=True))
        _, status = os.waitpid(pid, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

"""Starts the process that measures, listens to it, and says what it died of.

Standard library only, like everything on this side of the pipe: the parent holds no memory of the
device, and whatever a compiler or a kernel does to its process does not happen here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

COMMAND = (sys.executable, "-m", "kernels.bench.child")
ROOT = Path(__file__).parents[2]
COMPILE_ALONE = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""Several processes compile at once: none needs a pool of its own."""
WAIT_S = 0.2
"""How long to wait for a message before looking at the clock and the process."""
TELLING = ("assert", "error", "exception", "terminate", "out of memory")
"""Words of the line that says why a process died; others may follow it."""


class Child:
    """A process with a request, as a context manager. It is killed if it is left early."""

    def __init__(self, request: Mapping[str, Any], command: Sequence[str] = COMMAND) -> None:
        self._request = request
        self._command = command
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._overdue = False

    def __enter__(self) -> Child:
        self._pipe, write_end = os.pipe()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*self._command, str(write_end)],
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            pass_fds=[write_end],
            env={**COMPILE_ALONE, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        os.close(write_end)
        self._write(json.dumps(self._request))
        return self

    def ready(self, deadline: float | None = None) -> bool:
        """Wait until it has prepared itself, as its request asks; False if it ended instead."""
        return any("ready" in message for message in self.messages(lambda: deadline))

    def go(self) -> None:
        """Have one that is ready begin."""
        self._write("go")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; `death` says of what
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def messages(
        self, deadline: Callable[[], float | None] = lambda: None
    ) -> Iterator[dict[str, Any]]:
        """What it tells, until it ends.

        Args:
            deadline: asked again and again when to kill it, as `time.monotonic()` tells the time.
        """
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while True:
                end = deadline()
                if end is not None and time.monotonic() >= end:
                    self._overdue = True
                    self._process.kill()
                    return
                ended = self._process.poll() is not None
                if not selector.select(0 if ended else WAIT_S):
                    if ended:  # something that it has started still holds the pipe
                        return
                    continue
                data = os.read(self._pipe, 65536)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                yield from map(json.loads, lines)

    def death(self) -> str | None:
        """Wait for its end: None if it ended well, else what became of it, in one line."""
        code = self._process.wait()
        if self._overdue:
            return "it took too long"
        if code == 0:
            return None
        end = f"the process ended with exit code {code}"
        if code < 0:
            end = f"the process died of {_signal(-code)}"
        last = _telling_line(self.stderr())
        return f"{end}: {last}" if last else end

    def stderr(self) -> str:
        """What it has printed so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._pipe)
        self._stderr.close()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _telling_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line.lower() for word in TELLING)]
    return (telling or lines or [""])[-1][:300]

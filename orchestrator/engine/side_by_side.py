"""Pure work on several large things at once, each share of it in a process of its own.

Threads would not do: Python runs one at a time. A child is a copy of this process, so the work and
what it is done on need no copying; what it found comes back through a pipe.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Generic, NoReturn, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LARGE = 2**19
"""Bytes from which on work takes longer than to start a process and to hear from it."""


def side_by_side(
    work: Callable[[T], R], things: Sequence[T], size: Callable[[T], int]
) -> Sequence[R]:
    """What `work` makes of each thing, in their order. It must have no effect but that.

    `size` is in bytes. A share whose process cannot start, or ends early, is worked on here.
    """
    mine, *others = _shares([size(thing) for thing in things])
    children: list[_Child[R]] = []
    try:
        for share in others:
            child = _Child.start(work, share, things)
            if child is None:
                mine += share
            else:
                children.append(child)
        found = {number: work(things[number]) for number in mine}
        for child in children:
            results = child.results() or [work(things[number]) for number in child.share]
            found.update(zip(child.share, results, strict=True))
    finally:
        for child in children:
            child.end()
    return [found[number] for number in range(len(things))]


def _shares(sizes: Sequence[int]) -> list[list[int]]:
    """Which things each process works on, by number; the first is this one."""
    large = [number for number, size in enumerate(sizes) if size >= LARGE]
    # the largest is worked on here: a child has to tell what it found, too
    large.sort(key=sizes.__getitem__, reverse=True)
    # a copy of a process with threads may wait for ever for what one of them held
    alone = hasattr(os, "fork") and threading.active_count() == 1
    processes = min(len(large), os.cpu_count() or 1) if alone else 1
    others = [large[first::processes] for first in range(1, processes)]
    taken = {number for share in others for number in share}
    return [[number for number in range(len(sizes)) if number not in taken], *others]


@dataclass(frozen=True)
class _Child(Generic[R]):
    share: Sequence[int]
    """Which things it works on, by number."""
    pid: int
    pipe: BinaryIO

    @classmethod
    def start(
        cls, work: Callable[[T], R], share: Sequence[int], things: Sequence[T]
    ) -> _Child[R] | None:
        """None where the system has no process, memory or file descriptors for one more."""
        try:
            reading, writing = os.pipe()
        except OSError:
            return None
        # an interruption right after the fork would come twice, or leave a child that nobody knows
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            pid = os.fork()
            if pid == 0:
                _tell(work, [things[number] for number in share], reading, writing)
            os.close(writing)
            return cls(share, pid, os.fdopen(reading, "rb"))
        except OSError:
            os.close(reading)
            os.close(writing)
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def results(self) -> list[R] | None:
        """What it found; None where it ended before it had said all."""
        try:
            found: list[R] = pickle.load(self.pipe)  # noqa: S301 - of our own process
        except (EOFError, pickle.UnpicklingError):
            return None
        return found

    def end(self) -> None:
        """Kill it, unless it has ended. Where SIGCHLD is ignored the system has forgotten it."""
        with suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        self.pipe.close()


def _tell(work: Callable[[T], R], things: Sequence[T], reading: int, writing: int) -> NoReturn:
    """Be the child: whatever happens, it ends here, and says nothing but what it found."""
    with suppress(BaseException):
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump([work(thing) for thing in things], pipe, pickle.HIGHEST_PROTOCOL)
    os._exit(0)

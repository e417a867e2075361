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
from typing import BinaryIO, Generic, TypeVar

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
    children = [_Child.start(work, [things[number] for number in share]) for share in others]
    try:
        found = {number: work(things[number]) for number in mine}
        for child, share in zip(children, others, strict=True):
            results = child.results() if child else None
            results = results or [work(things[number]) for number in share]
            found.update(zip(share, results, strict=True))
    finally:
        for child in filter(None, children):
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
    pid: int
    pipe: BinaryIO

    @classmethod
    def start(cls, work: Callable[[T], R], things: Sequence[T]) -> _Child[R] | None:
        """None where the system has no process, or no memory, for one more."""
        reading, writing = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            return None
        if pid:
            os.close(writing)
            return cls(pid, os.fdopen(reading, "rb"))
        # whatever happens, a child ends here, and says nothing but what it found
        with suppress(BaseException):
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump([work(thing) for thing in things], pipe, pickle.HIGHEST_PROTOCOL)
        os._exit(0)

    def results(self) -> list[R] | None:
        """What it found; None where it ended before it had said all."""
        try:
            found: list[R] = pickle.load(self.pipe)  # noqa: S301 - of our own process
        except (EOFError, pickle.UnpicklingError):
            return None
        return found

    def end(self) -> None:
        self.pipe.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

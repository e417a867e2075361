"""The stopwatch of `timing`: CUDA events, or wall time on a CPU."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels.capture import captured

Calls = Sequence[Callable[[], Tensor]]

MIN_FLUSH_BYTES = 64 * 2**20
MIN_SPIN, MAX_SPIN = 2**18, 2**23
"""Cycles, some 0.15 to 5 ms: a call that waits for the device is late however long that spins."""
WARM_UPS = 2
PROBE_PASSES = 5
"""Of a probe of the device, or of a reference that is tried, in one graph."""

Parts = tuple[Tensor, ...]
"""What one call of each stream returned; together they are the rows of one pass."""


class Clock(Protocol):
    """Runs iterations and keeps their times."""

    timer: str
    """`events` or `wall`."""
    flush_bytes: int
    """Overwritten before each pass; 0 for none."""
    captures: bool
    """Whether there are graphs."""
    late: int
    """Iterations since `clear` in which the device waited for Python."""

    def run(self, calls: Any) -> tuple[Parts, ...]:
        """Run one iteration, each call on a stream of its own, or what `capture` made of them.

        Returns:
            Of each pass, copies of what was returned, taken behind the timed region in the order
            of the main stream. What was returned is NaN afterwards.
        """
        ...

    def capture(self, calls: Calls, passes: int) -> Any:
        """That many passes of the calls as one CUDA graph, for `run`.

        Raises:
            RuntimeError: they cannot be captured.
        """
        ...

    def milliseconds(self) -> list[float]:
        """Times of all iterations since `clear`, in order, each per pass."""
        ...

    def clear(self) -> None:
        """Forget all iterations."""
        ...


def clock_for(device: torch.device, streams: int, *, flush: bool = True) -> Clock:
    """The clock of a device, for iterations on up to `streams` streams."""
    if device.type == "cuda":
        return _CudaClock(device, streams, flush=flush)
    return _WallClock()


def ready(clock: Clock, calls: Calls) -> Any:
    """The calls, warmed up and captured if they can be, for `clock.run`; forgets those runs."""
    if not clock.captures:
        return calls
    for _ in range(WARM_UPS):
        clock.run(calls)
    found: Any = calls
    with contextlib.suppress(RuntimeError):
        found = clock.capture(calls, PROBE_PASSES)
        clock.run(found)  # the first replay uploads the graph
    clock.clear()
    return found


def l2_bytes(device: torch.device) -> int:
    """Size of the device's L2 cache; 0 where it is not known."""
    if device.type != "cuda":
        return 0
    properties = torch.cuda.get_device_properties(device)
    # named l2_cache_size or L2_cache_size by the torch version
    return int(getattr(properties, "L2_cache_size", getattr(properties, "l2_cache_size", 0)))


def _taken(outputs: Sequence[Tensor]) -> Parts:
    """Copies of the outputs, which are then spoiled: nothing may be found there a second time."""
    copies = tuple(out.clone() for out in outputs)
    for out in outputs:
        out.fill_(math.nan)
    return copies


class _WallClock:
    timer = "wall"
    flush_bytes = 0
    captures = False
    late = 0

    def __init__(self) -> None:
        self._times: list[float] = []

    def run(self, calls: Any) -> tuple[Parts, ...]:
        began = time.perf_counter()
        made = [call() for call in calls]
        self._times.append((time.perf_counter() - began) * 1e3)
        return (_taken(made),)

    def capture(self, calls: Calls, passes: int) -> Any:
        raise NotImplementedError("no graphs on a CPU")

    def milliseconds(self) -> list[float]:
        return list(self._times)

    def clear(self) -> None:
        self._times.clear()


class _Graph:
    """Passes in one CUDA graph, the L2 flushed before each, and the outputs of a replay."""

    def __init__(
        self, graph: torch.cuda.CUDAGraph, outputs: Sequence[Sequence[Tensor]], calls: Calls
    ) -> None:
        self.replay = graph.replay
        self.calls = calls
        """Kept: with them goes what they read, and a graph knows addresses only."""
        self.outputs = outputs
        self.passes = len(outputs)


class _CudaClock:
    """Device time of a pass, whatever Python takes to start it.

    A graph is timed as a whole, right after one of its flushes alone, whose time is taken off:
    what is left of a pass includes one gap between kernels, no launch. Calls that are not captured
    are queued behind a kernel that spins until all of them are, so that the device never waits
    for Python in the timed region; `late` counts where it did.
    """

    timer = "events"
    captures = True

    def __init__(self, device: torch.device, streams: int, *, flush: bool) -> None:
        # a single stream is the current one: nothing to fork or join
        self._streams = [torch.cuda.Stream(device) for _ in range(streams)] if streams > 1 else []
        self._device = device
        self._samples: list[_Sample] = []
        # twice the cache, to evict all of it
        self.flush_bytes = max(2 * l2_bytes(device), MIN_FLUSH_BYTES) if flush else 0
        self._flush = torch.empty(self.flush_bytes, dtype=torch.int8, device=device)
        self._flushes: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()  # graphs are replayed one after the other
        self._spin = MIN_SPIN
        self.late = 0

    def run(self, calls: Any) -> tuple[Parts, ...]:
        return self._replayed(calls) if isinstance(calls, _Graph) else self._called(calls)

    def _called(self, calls: Calls) -> tuple[Parts, ...]:
        torch.cuda._sleep(self._spin)
        if self.flush_bytes:
            self._flush.zero_()
        start = self._mark()
        made = self._forked(calls)
        self._keep(_Sample((start, self._mark())))
        return (_taken(made),)

    def _replayed(self, graph: _Graph) -> tuple[Parts, ...]:
        for outputs in graph.outputs:
            for out in outputs:
                out.fill_(math.nan)
        torch.cuda._sleep(self._spin)
        flushes = None
        if self.flush_bytes:
            began = self._mark()
            self._flushes[graph.passes].replay()
            flushes = (began, self._mark())
        start = self._mark()
        graph.replay()
        self._keep(_Sample((start, self._mark()), flushes, graph.passes))
        return tuple(_taken(outputs) for outputs in graph.outputs)

    def _keep(self, sample: _Sample) -> None:
        self._samples.append(sample)
        if (sample.flushes or sample.whole)[0].query():  # the spin was over before all was queued
            self.late += 1
            self._spin = min(2 * self._spin, MAX_SPIN)

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _forked(self, calls: Calls) -> list[Tensor]:
        if len(calls) == 1:
            return [calls[0]()]
        main = torch.cuda.current_stream(self._device)
        made = []
        for stream, call in zip(self._streams, calls, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                made.append(call())
        for stream, out in zip(self._streams, made, strict=True):
            main.wait_stream(stream)
            out.record_stream(main)  # it is read there, and must not be reused before
        return made

    def capture(self, calls: Calls, passes: int) -> Any:
        graph, outputs = self._captured(lambda: self._forked(calls), passes)
        if self.flush_bytes and passes not in self._flushes:
            self._flushes[passes], _ = self._captured(list, passes)
        return _Graph(graph, outputs, calls)

    def _captured(
        self, work: Callable[[], list[Tensor]], passes: int
    ) -> tuple[torch.cuda.CUDAGraph, list[list[Tensor]]]:
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        outputs = []
        with captured(graph, pool=self._pool):
            for _ in range(passes):
                if self.flush_bytes:
                    self._flush.zero_()
                outputs.append(work())
        return graph, outputs

    def milliseconds(self) -> list[float]:
        torch.cuda.synchronize(self._device)
        return [sample.milliseconds() for sample in self._samples]

    def clear(self) -> None:
        torch.cuda.synchronize(self._device)
        self._samples.clear()
        self.late = 0


Span = tuple[torch.cuda.Event, torch.cuda.Event]


@dataclass(frozen=True)
class _Sample:
    """One iteration."""

    whole: Span
    flushes: Span | None = None
    """As many of them alone, right before: what slows one down slows both."""
    passes: int = 1

    def milliseconds(self) -> float:
        """Of a pass; the device must have passed all events."""
        flushes = _elapsed(self.flushes) if self.flushes else 0.0
        return (_elapsed(self.whole) - flushes) / self.passes


def _elapsed(span: Span) -> float:
    start, end = span
    return start.elapsed_time(end)

"""The stopwatch of `timing`: CUDA events, or wall time on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Calls = Sequence[Callable[[], Tensor]]

MIN_FLUSH_BYTES = 64 * 2**20


class Clock(Protocol):
    """Runs iterations and keeps their times."""

    timer: str
    """`events` or `wall`."""
    flush_bytes: int
    """Overwritten before each iteration; 0 for none."""

    def run(self, calls: Any) -> tuple[Tensor, ...]:
        """Run one iteration, each call on a stream of its own, or what `capture` made of them.

        Returns:
            Copies of what was returned, taken behind the timed region in the order of the main
            stream. What was returned is NaN afterwards.
        """
        ...

    def capture(self, calls: Calls) -> Any:
        """The calls as a CUDA graph, for `run`."""
        ...

    def milliseconds(self) -> list[float]:
        """Times of all iterations since `clear`, in order."""
        ...

    def clear(self) -> None:
        """Forget all iterations."""
        ...


def clock_for(device: torch.device, streams: int, *, flush: bool = True) -> Clock:
    """The clock of a device, for iterations on up to `streams` streams."""
    if device.type == "cuda":
        return _CudaClock(device, streams, flush=flush)
    return _WallClock()


def l2_bytes(device: torch.device) -> int:
    """Size of the device's L2 cache; 0 where it is not known."""
    if device.type != "cuda":
        return 0
    properties = torch.cuda.get_device_properties(device)
    # named l2_cache_size or L2_cache_size by the torch version
    return int(getattr(properties, "L2_cache_size", getattr(properties, "l2_cache_size", 0)))


def _taken(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies of the outputs, which are then spoiled: nothing may be found there a second time."""
    copies = tuple(out.clone() for out in outputs)
    for out in outputs:
        out.fill_(math.nan)
    return copies


class _WallClock:
    timer = "wall"
    flush_bytes = 0

    def __init__(self) -> None:
        self._times: list[float] = []

    def run(self, calls: Any) -> tuple[Tensor, ...]:
        began = time.perf_counter()
        made = [call() for call in calls]
        self._times.append((time.perf_counter() - began) * 1e3)
        return _taken(made)

    def capture(self, calls: Calls) -> Any:
        raise NotImplementedError("no graphs on a CPU")

    def milliseconds(self) -> list[float]:
        return list(self._times)

    def clear(self) -> None:
        self._times.clear()


class _Graph:
    """Captured calls, and the outputs that each replay writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Sequence[Tensor]) -> None:
        self.replay = graph.replay
        self.outputs = outputs


class _CudaClock:
    timer = "events"

    def __init__(self, device: torch.device, streams: int, *, flush: bool) -> None:
        # a single stream is the current one: nothing to fork or join
        self._streams = [torch.cuda.Stream(device) for _ in range(streams)] if streams > 1 else []
        self._device = device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        # twice the cache, to evict all of it
        self.flush_bytes = max(2 * l2_bytes(device), MIN_FLUSH_BYTES) if flush else 0
        self._flush = torch.empty(self.flush_bytes, dtype=torch.int8, device=device)

    def run(self, calls: Any) -> tuple[Tensor, ...]:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        main = torch.cuda.current_stream(self._device)
        if isinstance(calls, _Graph):
            for out in calls.outputs:
                out.fill_(math.nan)
        if self.flush_bytes:
            self._flush.zero_()
        start.record(main)
        if isinstance(calls, _Graph):
            calls.replay()
            made = calls.outputs
        else:
            made = self._forked(calls)
        end.record(main)
        self._events.append((start, end))
        return _taken(made)

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

    def capture(self, calls: Calls) -> Any:
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._forked(calls)
        return _Graph(graph, made)

    def milliseconds(self) -> list[float]:
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) for start, end in self._events]

    def clear(self) -> None:
        torch.cuda.synchronize(self._device)
        self._events.clear()

"""Times two sides of a comparison in one go, and says how sure the ratio is.

Both sides get the same number of streams. Iterations alternate between them, so that a clock that
drifts drifts for both. On a GPU the L2 is overwritten before each iteration, outside the timed
region, and times are CUDA events; nothing is read back until the end, so launches stay ahead of
the device. On a CPU times are `perf_counter`, and streams run one after the other.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Call = Callable[[], object]

RESAMPLES = 1000
CONFIDENCE = 0.95
MIN_PAIRS = 10
"""Fewest pairs for an interval: the bootstrap of fewer is far narrower than it claims to be."""
MIN_FLUSH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PairedTimes:
    """Milliseconds of each iteration; `triton[i]` and `reference[i]` ran next to each other."""

    triton: tuple[float, ...]
    reference: tuple[float, ...]
    triton_out: tuple[Any, ...] = field(default=(), repr=False)
    """What the calls of the last timed iteration returned, one for each stream."""
    reference_out: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def triton_ms(self) -> float:
        """Median."""
        return statistics.median(self.triton)

    @property
    def reference_ms(self) -> float:
        """Median."""
        return statistics.median(self.reference)

    @property
    def speedup(self) -> float:
        """Median of the reference over median of Triton."""
        return self.reference_ms / self.triton_ms

    def speedup_interval(self, seed: int = 0) -> tuple[float, float]:
        """Bounds of the 95 % bootstrap interval of `speedup`; the point itself below `MIN_PAIRS`.

        Resamples pairs, because neighbours share whatever disturbed them.
        """
        if len(self.triton) < MIN_PAIRS:
            return self.speedup, self.speedup
        rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
        pairs = list(zip(self.triton, self.reference, strict=True))
        ratios = []
        for _ in range(RESAMPLES):
            triton, reference = zip(*rng.choices(pairs, k=len(pairs)), strict=True)
            ratios.append(statistics.median(reference) / statistics.median(triton))
        ratios.sort()
        tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
        return ratios[tail], ratios[-1 - tail]


def time_pair(
    triton: Sequence[Call],
    reference: Sequence[Call],
    *,
    iters: int,
    warmup: int,
    device: torch.device,
) -> PairedTimes:
    """Time two sides that do the same work.

    Args:
        triton: one call per stream; together they are one iteration.
        reference: as many calls as `triton`.
        iters: timed iterations of each side.
        warmup: untimed iterations of each side before them.
        device: where the calls run.

    Raises:
        ValueError: the sides differ in their number of streams, or `iters < 1`.
    """
    if len(triton) != len(reference):
        raise ValueError(f"{len(triton)} streams against {len(reference)}: not a comparison")
    if iters < 1:
        raise ValueError(f"iters must be at least 1, got {iters}")
    clock = _CudaClock(device, len(triton)) if device.type == "cuda" else _CpuClock()
    for _ in range(warmup):
        clock.run(triton)
        clock.run(reference)
    clock.clear()
    for i in range(iters):
        # the side that goes first may find a busier or a colder device: take turns
        # an earlier iteration's outputs are let go, so that this one's cannot be taken for them
        last: dict[bool, tuple[Any, ...]] = {}
        for first in (True, False) if i % 2 == 0 else (False, True):
            last[first] = clock.run(triton if first else reference)
    times = clock.milliseconds()
    # undo the turns: of each two times, the odd iterations hold the reference's first
    pairs = [times[i : i + 2][:: 1 if i % 4 == 0 else -1] for i in range(0, len(times), 2)]
    return PairedTimes(
        tuple(a for a, _ in pairs), tuple(b for _, b in pairs), last[True], last[False]
    )


class _CpuClock:
    def __init__(self) -> None:
        self._times: list[float] = []

    def run(self, calls: Sequence[Call]) -> tuple[Any, ...]:
        began = time.perf_counter()
        made = tuple(call() for call in calls)
        self._times.append((time.perf_counter() - began) * 1e3)
        return made

    def clear(self) -> None:
        self._times.clear()

    def milliseconds(self) -> list[float]:
        return list(self._times)


class _CudaClock:
    def __init__(self, device: torch.device, streams: int) -> None:
        # a single stream is the current one: nothing to fork or join
        self._streams = [torch.cuda.Stream(device) for _ in range(streams)] if streams > 1 else []
        self._device = device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        properties = torch.cuda.get_device_properties(device)
        # named l2_cache_size or L2_cache_size by the torch version; twice, to evict all of it
        size = getattr(properties, "L2_cache_size", getattr(properties, "l2_cache_size", 0))
        flush_bytes = max(2 * size, MIN_FLUSH_BYTES)
        self._flush = torch.empty(flush_bytes, dtype=torch.int8, device=device)

    def run(self, calls: Sequence[Call]) -> tuple[Any, ...]:
        made = []
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        main = torch.cuda.current_stream(self._device)
        self._flush.zero_()
        start.record(main)
        if not self._streams:
            made.append(calls[0]())
        else:
            for stream, call in zip(self._streams, calls, strict=True):
                stream.wait_stream(main)
                with torch.cuda.stream(stream):
                    made.append(call())
            for stream in self._streams:
                main.wait_stream(stream)
        end.record(main)
        self._events.append((start, end))
        return tuple(made)

    def clear(self) -> None:
        torch.cuda.synchronize(self._device)
        self._events.clear()

    def milliseconds(self) -> list[float]:
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) for start, end in self._events]

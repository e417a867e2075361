"""Times several implementations of the same work in one go.

What makes the numbers mean something:

- All take turns, A B C C B A ..., so that a clock that drifts drifts for each.
- Inputs rotate among copies, and the L2 is overwritten before each iteration, outside the timed
  region, so that nothing is found in a cache or remembered from the iteration before.
- Every output is copied on the main stream right behind the timed region, then overwritten with
  NaN. What is not there yet (work on a stream of its own), not written, or returned a second time
  is NaN in the copy, and the caller compares the copies with the truth.
- Each has the same number of streams.
- Warm-up goes on until it is stable, timing until the intervals are narrow; what does not settle
  is said in `Timed.settled`.

On a CUDA device all are replayed from CUDA graphs, short ones several times in each, and timed with
events: what Python and the driver take to launch is no property of a kernel. What cannot be
captured is timed call by call, queued ahead of the device, as are then all others. On a CPU times
are `perf_counter`, and streams run one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kernels.bench.clock import Clock, Parts
from kernels.bench.contract import MIN_ITERS
from kernels.bench.intervals import median, ratio_interval

Call = Callable[[], Tensor]
Copies = Sequence[Sequence[Call]]
"""Of each copy of the inputs, one call per stream; together they are one iteration."""

STABLE = 0.02
"""Largest change of every median between two batches of warm-up that counts as stable."""
MAX_WARMUPS = 5
ENOUGH = 0.01
"""Width of the widest interval, relative to its middle, at which timing stops ..."""
NARROW = 0.02
"""... and at which it is said that it did not settle, where that many iterations did not do."""
MAX_FACTOR = 3
"""Timing stops after this many times the iterations asked for, settled or not."""
REPLAY_MS = 0.2
"""What the shortest graph should take, flushes aside, by passes repeated in it ..."""
MAX_PASSES = 10
"""... but at most this many."""
MOSTLY = 0.95
"""Share of the timed iterations that must not have waited for Python."""


@dataclass(frozen=True)
class Timed:
    """What became of `time_all`."""

    samples: Mapping[str, tuple[float, ...]]
    """Milliseconds; the i-th of each name ran in the same round."""
    outputs: Mapping[str, Mapping[int, tuple[Parts, ...]]]
    """Of each copy of the inputs, what each pass of its last timed iteration returned."""
    streams: Mapping[str, int]
    """Streams that an iteration of each was spread over."""
    started: Mapping[str, int]
    """Passes of each that Python started: warm-up, captured or timed, but not replayed."""
    timer: str
    """`events`, `graph` or `wall`."""
    settled: str
    """`yes`, or what did not settle."""
    again: Callable[[str, int], tuple[Parts, ...]]
    """Runs one iteration of a name on a copy of the inputs once more, as it was timed."""

    @property
    def rounds(self) -> int:
        """Timed iterations of each."""
        return len(next(iter(self.samples.values())))


def time_all(
    contenders: Mapping[str, Copies],
    ratios: Sequence[tuple[str, str]],
    *,
    clock: Clock,
    iters: int,
    warmup: int,
    on_batch: Callable[[], object] = lambda: None,
) -> Timed:
    """Time contenders that do the same work.

    Args:
        contenders: by name, the calls of each copy and stream.
        ratios: pairs of names; timing goes on until the interval of each ratio is narrow.
        clock: of the device that the calls run on.
        iters: timed iterations of each, at least.
        warmup: untimed iterations of each, at least.
        on_batch: called before each batch of timed iterations.

    Raises:
        ValueError: they differ in their copies or streams, or `iters < 1`.
    """
    shapes = {name: [len(calls) for calls in copies] for name, copies in contenders.items()}
    if len({tuple(shape) for shape in shapes.values()}) != 1:
        raise ValueError(f"streams of each copy differ, this is no comparison: {shapes}")
    if iters < 1:
        raise ValueError(f"iters must be at least 1, got {iters}")
    rounds = _Rounds(contenders, clock)
    doubts = rounds.capture() if warmup else []
    doubts += _warm_up(rounds, warmup)
    rounds.clear()
    began = rounds.done
    while True:
        on_batch()
        rounds.run(iters)
        timed = rounds.done - began
        samples = rounds.times()
        widest = _widest(samples, ratios)
        if widest <= ENOUGH or timed < MIN_ITERS or timed >= MAX_FACTOR * iters:
            break
    if timed < MIN_ITERS:
        doubts.append(f"{timed} iterations are too few for an interval")
    elif widest > NARROW:
        doubts.append(f"after {timed} iterations the widest interval is still {widest:.1%}")
    waited = clock.late / (timed * len(contenders))
    if waited > 1 - MOSTLY:
        doubts.append(f"the device waited for Python in {waited:.0%} of the iterations")
    return Timed(
        {name: tuple(times) for name, times in samples.items()},
        rounds.outputs,
        {name: len(copies[0]) for name, copies in contenders.items()},
        rounds.started,
        "graph" if rounds.captured else clock.timer,
        "; ".join(doubts) or "yes",
        rounds.again,
    )


def _warm_up(rounds: _Rounds, warmup: int) -> list[str]:
    """At least `warmup` rounds, then as many again until their times stop changing."""
    before: dict[str, float] | None = None
    for _ in range(MAX_WARMUPS if warmup else 0):
        rounds.clear()
        rounds.run(warmup)
        now = {name: median(times) for name, times in rounds.times().items()}
        if before and all(abs(now[n] - before[n]) <= STABLE * before[n] for n in now):
            return []
        before = now
    if not warmup:
        return ["no warm-up"]
    return [f"still warming up after {MAX_WARMUPS * warmup} iterations"]


def _widest(samples: Mapping[str, Sequence[float]], ratios: Sequence[tuple[str, str]]) -> float:
    widest = 0.0
    for above, below in ratios:
        low, high = ratio_interval(samples[above], samples[below])
        widest = max(widest, 2 * (high - low) / (high + low))
    return widest


class _Rounds:
    """Rounds in which every contender runs once, on the same copy of the inputs."""

    def __init__(self, contenders: Mapping[str, Copies], clock: Clock) -> None:
        self._contenders: dict[str, Sequence[Any]] = {
            name: [[*calls[:-1], self._counted(name, calls[-1])] for calls in copies]
            for name, copies in contenders.items()
        }
        self._clock = clock
        self._order: list[str] = []
        self.done = 0
        self.captured = False
        self.started = dict.fromkeys(contenders, 0)
        self.outputs: dict[str, dict[int, tuple[Parts, ...]]] = {n: {} for n in contenders}

    def run(self, count: int) -> None:
        for _ in range(count):
            # who goes first may find a busier or a colder device: take turns, there and back
            first = self.done // 2 % len(self._contenders)
            names = list(self._contenders)
            names = names[first:] + names[:first]
            for name in names if self.done % 2 == 0 else reversed(names):
                copies = self._contenders[name]
                copy = self.done % len(copies)
                self.outputs[name][copy] = self._clock.run(copies[copy])
                self._order.append(name)
            self.done += 1

    def again(self, name: str, copy: int) -> tuple[Parts, ...]:
        return self._clock.run(self._contenders[name][copy])

    def times(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in self._contenders}
        for name, ms in zip(self._order, self._clock.milliseconds(), strict=True):
            found[name].append(ms)
        return found

    def clear(self) -> None:
        self._clock.clear()
        self._order.clear()
        for outputs in self.outputs.values():
            outputs.clear()

    def capture(self) -> list[str]:
        """Replace all calls by graphs; if one cannot be captured, keep them and say which."""
        if not self._clock.captures:
            return []
        made: dict[str, list[Any]] = {}
        name = ""
        passes = self._passes()
        try:
            for name, copies in self._contenders.items():
                made[name] = [self._clock.capture(calls, passes) for calls in copies]
        except RuntimeError as error:
            # what stopped it lies behind what the capture says of being stopped
            reason = " ".join(str(error.__context__ or error).split())[:120]
            return [f"timed without graphs, because {name} cannot be captured: {reason}"]
        finally:
            self.clear()
        self._contenders = dict(made)
        self.captured = True
        return []

    def _counted(self, name: str, call: Call) -> Call:
        """A call that counts as a pass once it has returned, in a graph that is made too."""

        def counted() -> Tensor:
            out = call()
            self.started[name] += 1
            return out

        return counted

    def _passes(self) -> int:
        """So many that the shortest graph takes `REPLAY_MS`, by the second of two calls.

        The same for all: what a graph takes as a whole, whatever is in it, then weighs alike.
        """
        shortest = math.inf
        for copies in self._contenders.values():
            for _ in range(2):
                self._clock.run(copies[0])
            shortest = min(shortest, self._clock.milliseconds()[-1])
        return max(1, min(MAX_PASSES, round(REPLAY_MS / max(shortest, REPLAY_MS / MAX_PASSES))))


def now_ms() -> int:
    """Wall clock, milliseconds since the epoch."""
    return time.time_ns() // 10**6

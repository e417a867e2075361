"""Two measurements of the same cell: is one faster, or is it noise? And of all cells together?

Absolute times mean something only on equal machines; a speedup is a ratio of two times of one
machine, and may be compared across them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Literal

from kernels.bench.contract import DIGITS
from orchestrator.evidence.bench import Basis, BenchRow, Level
from orchestrator.gates.steadiness import DRIFT
from orchestrator.gates.timing import believed

Known = str | float | None
Fingerprint = Mapping[str, Known]
"""What must be equal before absolute times are. Numbers are a canary's, and equal within the drift
that its gate allows; None is what is unknown, or not one thing throughout the run."""

What = Literal["speedup", "tri_ms", "ref_ms"]

_SIGNIFICANT = 0.05
_OF_MEDIAN = 1.96 * math.sqrt(math.pi / 2)
"""Half of a median's 95 % interval, in standard deviations by the root of the number of times: that
of normal times. Four fifths of an H200's bootstraps of speedups were 0.9 to 1.4 times as wide."""


class Change(str, Enum):
    """What became of a quantity from A to B."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    UNKNOWN = "no interval"
    NONE = "not measured"


@dataclass(frozen=True)
class Quantity:
    """A median with its 95 % interval, where there is one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Compared:
    """One quantity of one cell, in A and in B."""

    family: str
    L: int
    what: What
    a: Quantity | None
    b: Quantity | None
    change: Change

    @property
    def ratio(self) -> float | None:
        """B over A."""
        if self.a is None or self.b is None or not self.a.value:
            return None
        ratio = self.b.value / self.a.value
        return ratio if math.isfinite(ratio) else None


@dataclass(frozen=True)
class Pooled:
    """One quantity over all cells that were measured in both runs."""

    what: What
    cells: int
    better: int
    worse: int
    """Cells in which B's is, if only by a hair."""
    ratio: Quantity
    """Median of B over A, with the interval that follows from the sign test; of fewer than six
    cells there is none."""
    p: float
    """Of a two-sided sign test, cells without any change counted against one."""
    change: Change


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[Known, Known]]:
    """What keeps absolute times from being compared; what either side does not know differs."""
    return {
        name: (a.get(name), b.get(name))
        for name in dict.fromkeys((*a, *b))
        if not _equal(a.get(name), b.get(name))
    }


def _equal(a: Known, b: Known) -> bool:
    if a is None or b is None:
        return False
    if isinstance(a, float) and isinstance(b, float):
        return max(a, b) <= min(a, b) * (1 + DRIFT)
    return a == b


def compare_cell(
    family: str,
    length: int,
    a: BenchRow | None,
    b: BenchRow | None,
    *,
    absolute: bool,
    level: Level = "operator",
    basis: Basis = "strongest",
) -> list[Compared]:
    """The cell's speedup; its times too where `absolute`. An interpreter's times are none.

    Both are taken at one level, over one reference: what a row calls its own may differ from run to
    run. Where neither row says what its own is, they are all there is.
    """
    told = any(row is not None and row.basis is not None for row in (a, b))
    at = (level, basis) if told else None
    quantities: tuple[What, ...] = ("speedup", "tri_ms", "ref_ms") if absolute else ("speedup",)
    compared = []
    for what in quantities:
        before, after = _quantity(a, what, at), _quantity(b, what, at)
        change = _change(what, before, after)
        compared.append(Compared(family, length, what, before, after, change))
    return compared


def pool(what: What, cells: Iterable[Compared]) -> Pooled | None:
    """That quantity over all cells; None where none was measured in both runs.

    What is too small to show in any cell may be plain in all of them.
    """
    found = (cell.ratio for cell in cells if cell.what == what)
    # one number written twice, or worked out from others, is not two
    ratios = sorted(
        1 if abs(ratio - 1) <= DIGITS else ratio for ratio in found if ratio is not None
    )
    if not ratios:
        return None
    count = len(ratios)
    more, less = sum(ratio > 1 for ratio in ratios), sum(ratio < 1 for ratio in ratios)
    levels = _sign_tests(count)
    p = levels[count - max(more, less)]
    # Beyond either bound lie no more cells than may be against what a sign test shows.
    beyond = sum(level <= _SIGNIFICANT for level in levels) - 1
    low, high = (ratios[beyond], ratios[-1 - beyond]) if beyond >= 0 else (None, None)
    ratio = Quantity(statistics.median(ratios), low, high)
    better, worse = (more, less) if what == "speedup" else (less, more)
    return Pooled(what, count, better, worse, ratio, p, _change(what, Quantity(1, 1, 1), ratio))


def _sign_tests(count: int) -> list[float]:
    """Two-sided p of a sign test over so many cells: of none against it, of one, and so on."""
    every = math.lgamma(count + 1) - count * math.log(2)
    just = (
        math.exp(every - math.lgamma(against + 1) - math.lgamma(count - against + 1))
        for against in range(count + 1)
    )
    return [min(1.0, 2 * at_most) for at_most in accumulate(just)]


def _quantity(row: BenchRow | None, what: What, at: tuple[Level, Basis] | None) -> Quantity | None:
    if row is None or not row.ok or row.interpreted:
        return None
    value: float | None
    bounds: tuple[float | None, float | None] | None = None
    if at is None or at == (row.level, row.basis):
        value = getattr(row, what)
        if what == "speedup":
            bounds = row.speedup_lo, row.speedup_hi
        elif value is not None:
            bounds = _of_median(value, row.tri_cv if what == "tri_ms" else row.ref_cv, row.iters)
    elif what == "speedup":
        value, bounds = row.speedup_of(*at), row.interval(*at)
    else:  # how much times vary is known of the row's own level and reference
        value = row.ms(at[0], "tri" if what == "tri_ms" else at[1])
    if value is None or not math.isfinite(value):
        return None
    low, high = bounds or (None, None)
    known = None if low is None or high is None else believed(row, (low, high))
    return Quantity(value, *(known or (None, None)))


def _of_median(ms: float, cv: float | None, iters: int | None) -> tuple[float, float] | None:
    """From how much the times vary; those that do not were not taken on a device."""
    if not cv or not iters:
        return None
    half = _OF_MEDIAN * cv / math.sqrt(iters)
    return ms * max(0.0, 1 - half), ms * (1 + half)


def _change(what: What, a: Quantity | None, b: Quantity | None) -> Change:
    """Better or worse only where the intervals do not overlap."""
    if a is None or b is None:
        return Change.NONE
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Change.UNKNOWN
    if a.low <= b.high and b.low <= a.high:
        return Change.NOISE
    return Change.BETTER if (b.low > a.high) is (what == "speedup") else Change.WORSE

"""Two measurements of the same cell: is one faster, or is it noise?

Absolute times mean something only on equal machines; a speedup is a ratio of two times of one
machine, and may be compared across them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from orchestrator.evidence.bench import Basis, BenchRow, Level
from orchestrator.gates.timing import believed

Fingerprint = Mapping[str, str | None]
"""What must be equal before absolute times are: device, driver, versions; None is unknown."""


What = Literal["speedup", "tri_ms", "ref_ms"]


class Change(str, Enum):
    """What became of a quantity from A to B."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    UNKNOWN = "no interval"
    NONE = "not measured"


@dataclass(frozen=True)
class Quantity:
    """A measured value with its interval, where one was recorded."""

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
        return self.b.value / self.a.value if self.a and self.b and self.a.value else None


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[str | None, str | None]]:
    """What keeps absolute times from being compared; what either side does not know differs."""
    return {
        name: (a.get(name), b.get(name))
        for name in dict.fromkeys((*a, *b))
        if a.get(name) is None or a.get(name) != b.get(name)
    }


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
    quantities: list[tuple[What, bool]] = [("speedup", True)]
    if absolute:
        quantities += [("tri_ms", False), ("ref_ms", False)]
    compared = []
    for what, more_is_better in quantities:
        before, after = _quantity(a, what, at), _quantity(b, what, at)
        change = _change(before, after, more_is_better=more_is_better)
        compared.append(Compared(family, length, what, before, after, change))
    return compared


def _quantity(row: BenchRow | None, what: What, at: tuple[Level, Basis] | None) -> Quantity | None:
    if row is None or not row.ok or row.interpreted:
        return None
    value: float | None
    low: float | None = None
    high: float | None = None
    if at is None or at == (row.level, row.basis):
        value = getattr(row, what)
        low, high = {
            "speedup": (row.speedup_lo, row.speedup_hi),
            "tri_ms": (row.tri_p10, row.tri_p90),
            "ref_ms": (row.ref_p10, row.ref_p90),
        }[what]
    elif what == "speedup":
        value = row.speedup_of(*at)
        low, high = row.interval(*at) or (None, None)
    else:  # the quantiles are those of the row's own level and reference
        value = row.ms(at[0], "tri" if what == "tri_ms" else at[1])
    if value is None:
        return None
    bounds = None if low is None or high is None else believed(row, (low, high))
    return Quantity(value, *(bounds or (None, None)))


def _change(a: Quantity | None, b: Quantity | None, *, more_is_better: bool) -> Change:
    """Better or worse only where the intervals do not overlap."""
    if a is None or b is None:
        return Change.NONE
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Change.UNKNOWN
    if a.low <= b.high and b.low <= a.high:
        return Change.NOISE
    return Change.BETTER if (b.low > a.high) is more_is_better else Change.WORSE

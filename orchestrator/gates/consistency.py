"""Do the numbers of a row agree with each other: times, ratios, intervals, quantiles and names?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter, truediv

from kernels.bench.contract import DIGITS, RATIO_SLACK
from orchestrator.evidence.bench import BASES, LEVELS, SIDES, BenchRow
from orchestrator.evidence.rows import Rows, ascending
from orchestrator.gates.findings import Finding, invalid

_PRINTED_MS = 0.0005
"""The source project prints three decimals; our own files carry six significant digits."""
_TIMES = ("tri_ms", "ref_ms", *(f"{level}_{side}_ms" for level in LEVELS for side in SIDES))
BOUNDS = {"speedup": ("speedup_lo", "speedup_hi", "tri_ms", "ref_ms")} | {
    f"speedup at {level} level over the {basis} reference": (
        f"{level}_{basis}_lo", f"{level}_{basis}_hi", f"{level}_tri_ms", f"{level}_{basis}_ms",
    )
    for level in LEVELS
    for basis in BASES
}  # fmt: skip
"""Columns of each speedup's interval, and of its times."""
_OWN = ("tri_ms", "ref_ms", "speedup_lo", "speedup_hi")
_NAMED = {
    (level, basis): (
        f"{level}_tri_ms", f"{level}_{basis}_ms", f"{level}_{basis}_lo", f"{level}_{basis}_hi",
    )
    for level in LEVELS
    for basis in BASES
}  # fmt: skip
"""What `_OWN` repeats, by level and basis."""
_SPREAD = ("tri", "ref")


def ratio_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Whether times, speedups and intervals agree. Holds for the interpreter's too."""
    timeless = [rows.where(_no_time, name) for name in _TIMES if _no_time(_least(rows, name))]
    if timeless:
        first = min((some[0] for some in timeless), key=attrgetter("line"))
        yield invalid(f"{first.where}: a time that is not above zero.")
        return
    for found in (
        _inconsistent(rows),
        _untied(rows),
        _otherwise_named(rows),
        _outside(rows),
        _off_middle(rows),
        _too_varied(rows),
        _not_strongest(rows),
    ):
        if found:
            yield invalid(found)


def _no_time(ms: float | None) -> bool:
    return ms is not None and ms <= 0


def _least(rows: Rows[BenchRow], name: str) -> float | None:
    return min(rows.told(name), default=None)


def _inconsistent(rows: Rows[BenchRow]) -> str | None:
    """A speedup that is not the ratio of its row's own times."""
    columns = rows.columns("tri_ms", "ref_ms", "speedup", "contract")
    for number, (ours, theirs, told, version) in enumerate(columns):
        if not (ours and theirs):
            continue
        slack = RATIO_SLACK
        if version is None:
            slack += _PRINTED_MS / ours + _PRINTED_MS / theirs
        ratio = theirs / ours
        if abs((told or 0) - ratio) > slack * ratio:
            swapped = told and abs(told * ratio - 1)
            tail = (
                "; it is tri_ms / ref_ms: the sides are swapped"
                if swapped is not None and swapped < RATIO_SLACK
                else ""
            )
            return (
                f"{rows[number].where}: speedup {told:g} is not ref_ms / tri_ms = {theirs:g} / "
                f"{ours:g}{tail}."
            )
    return None


def _outside(rows: Rows[BenchRow]) -> str | None:
    """A speedup that lies outside its own interval: of the rows' own, and of all four."""
    looked_at: list[list[Sequence[float]]] = []
    for name, bounds in BOUNDS.items():
        some = rows.telling(*bounds)
        columns = [some.column(column) for column in bounds]
        if columns in looked_at:
            continue  # the rows' own are one of the four
        looked_at.append(columns)
        lows, highs, *times = columns
        if (
            ascending(lows, list(map(truediv, *reversed(times))), highs)
            and min(lows, default=1) > 0
        ):
            continue
        for number, (low, high, ours, theirs) in enumerate(zip(*columns, strict=True)):
            value = theirs / ours
            slack = RATIO_SLACK * value
            if low - slack <= value <= high + slack and 0 < low <= high:
                continue
            where = some[number].where
            if low <= 0:
                return f"{where}: the lower bound of the {name}, {low:g}, is not above zero."
            return f"{where}: {name} {value:g} lies outside its own interval [{low:g}, {high:g}]."
    return None


def _untied(rows: Rows[BenchRow]) -> str | None:
    """A row whose own times are not those that its level and basis name: one of them is a lie."""
    for (level, basis), some in rows.by("level", "basis").items():
        if (level, basis) not in _NAMED:
            continue
        for name, column in zip(_OWN, _NAMED[level, basis], strict=True):
            if some.column(name) == some.column(column):
                continue
            for number, (own, other) in enumerate(some.columns(name, column)):
                if own == other or own is None or other is None:
                    continue
                if abs(own - other) > DIGITS * max(abs(own), abs(other)):
                    return (
                        f"{some[number].where}: {name} is {own:g} and {column} {other:g}; with "
                        f"level={level} and basis={basis} they are the same number."
                    )
    return None


def _otherwise_named(rows: Rows[BenchRow]) -> str | None:
    """A row that calls its own two sides otherwise than its level and basis do."""
    for (level, basis), some in rows.by("level", "basis").items():
        if (level, basis) not in _NAMED:
            continue
        for own, column in (("reference", f"{level}_{basis}"), ("kernel", f"{level}_launched")):
            for row in some.where(lambda name, other: name != other, own, column):
                name, other = getattr(row, own), getattr(row, column)
                if None not in (name, other):
                    return (
                        f"{row.where}: {own} is {name[:40]} and {column} {other[:40]}: the same "
                        "side."
                    )
    return None


def _too_varied(rows: Rows[BenchRow]) -> str | None:
    """Times that vary more than so many of one mean can, or not at all between quantiles."""
    for side in _SPREAD:
        for row in rows.where(_odd, f"{side}_cv", "iters"):
            varied, iters = getattr(row, f"{side}_cv"), row.iters
            low, high = getattr(row, f"{side}_p10"), getattr(row, f"{side}_p90")
            if varied:
                return (
                    f"{row.where}: {side}_cv is {varied:g}; {iters} times of one mean "
                    f"cannot vary by more than {math.sqrt(iters or 0):.3g}."
                )
            if None not in (low, high) and high > low * (1 + DIGITS):
                return (
                    f"{row.where}: {side}_cv is 0, yet {side}_p10 and {side}_p90 are "
                    f"{low:g} and {high:g}."
                )
    return None


def _odd(varied: float | None, iters: int | None) -> bool:
    """More than so many times of one mean can vary, or not at all."""
    if varied is None:
        return False
    return varied == 0 or bool(iters and varied > math.sqrt(iters) * (1 + DIGITS))


def _off_middle(rows: Rows[BenchRow]) -> str | None:
    """A median that does not lie between the quantiles of its own times."""
    for side in _SPREAD:
        some = rows.telling(f"{side}_p10", f"{side}_ms", f"{side}_p90")
        columns = [some.column(name) for name in (f"{side}_p10", f"{side}_ms", f"{side}_p90")]
        if ascending(*columns) and min(columns[0], default=1) > 0:
            continue
        for number, (low, middle, high) in enumerate(zip(*columns, strict=True)):
            if not 0 < low * (1 - DIGITS) <= middle <= high * (1 + DIGITS):
                return (
                    f"{some[number].where}: {side}_ms, the median {middle:g}, does not lie between "
                    f"{side}_p10 and {side}_p90, {low:g} and {high:g}."
                )
    return None


def _not_strongest(rows: Rows[BenchRow]) -> str | None:
    """A strongest reference that is slower than the shipped one, which is among the candidates."""
    for level in LEVELS:
        both = rows.column(f"{level}_strongest_ms"), rows.column(f"{level}_shipped_ms")
        if ascending(*both):
            continue
        for number, (strongest, shipped) in enumerate(zip(*both, strict=True)):
            if shipped and strongest and strongest > shipped * (1 + DIGITS):
                return (
                    f"{rows[number].where}: {level}_strongest_ms {strongest:g} is above "
                    f"{level}_shipped_ms {shipped:g}: the strongest reference is the fastest, and "
                    "the shipped one may be it."
                )
    return None

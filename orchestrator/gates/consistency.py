"""Do the numbers of a row agree with each other: times, ratios, intervals, quantiles and names?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from kernels.bench.contract import DIGITS, RATIO_SLACK
from orchestrator.evidence.bench import BASES, LEVELS, SIDES, BenchRow
from orchestrator.gates.findings import Finding, invalid

_PRINTED_MS = 0.0005
"""The source project prints three decimals; our own files carry six significant digits."""
_times = attrgetter(
    "tri_ms", "ref_ms", *(f"{level}_{side}_ms" for level in LEVELS for side in SIDES)
)
BOUNDS = {
    "speedup": attrgetter("speedup_lo", "speedup_hi", "tri_ms", "ref_ms"),
} | {
    f"speedup at {level} level over the {basis} reference": attrgetter(
        f"{level}_{basis}_lo", f"{level}_{basis}_hi", f"{level}_tri_ms", f"{level}_{basis}_ms"
    )
    for level in LEVELS
    for basis in BASES
}
_OWN = ("tri_ms", "ref_ms", "speedup_lo", "speedup_hi")
_own = attrgetter(*_OWN)
_NAMED: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    (level, basis): (
        f"{level}_tri_ms", f"{level}_{basis}_ms", f"{level}_{basis}_lo", f"{level}_{basis}_hi",
    )
    for level in LEVELS
    for basis in BASES
}  # fmt: skip
"""What `_OWN` repeats, by level and basis."""
_named = {key: attrgetter(*columns) for key, columns in _NAMED.items()}
_REFERENCES = {
    level: attrgetter(f"{level}_shipped_ms", f"{level}_strongest_ms") for level in LEVELS
}
_SIDES: dict[tuple[str | None, str | None], Callable[[BenchRow], tuple[str, ...]]] = {
    (level, basis): attrgetter("reference", f"{level}_{basis}", "kernel", f"{level}_launched")
    for level in LEVELS
    for basis in BASES
}
_VARIED = {side: attrgetter(f"{side}_cv", f"{side}_p10", f"{side}_p90") for side in ("tri", "ref")}
_MIDDLES = {side: attrgetter(f"{side}_p10", f"{side}_ms", f"{side}_p90") for side in ("tri", "ref")}


def ratio_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Whether times, speedups and intervals agree. Holds for the interpreter's too."""
    zero = _first(rows, _timeless)
    if zero:
        yield invalid(f"{zero.where}: a time that is not above zero.")
        return
    if odd := _first(rows, _inconsistent):
        swapped = odd.speedup and abs(odd.speedup * (odd.ref_ms or 0) / (odd.tri_ms or 1) - 1)
        tail = (
            "; it is tri_ms / ref_ms: the sides are swapped"
            if swapped is not None and swapped < RATIO_SLACK
            else ""
        )
        yield invalid(
            f"{odd.where}: speedup {odd.speedup:g} is not ref_ms / tri_ms = {odd.ref_ms:g} / "
            f"{odd.tri_ms:g}{tail}."
        )
    for found in (
        _untied(rows),
        _otherwise_named(rows),
        _outside(rows),
        _off_middle(rows),
        _too_varied(rows),
        _not_strongest(rows),
    ):
        if found:
            yield invalid(found)


def _timeless(row: BenchRow) -> bool:
    return min([ms for ms in _times(row) if ms is not None], default=1.0) <= 0


def _inconsistent(row: BenchRow) -> bool:
    if not (row.tri_ms and row.ref_ms):
        return False
    slack = RATIO_SLACK
    if row.contract is None:
        slack += _PRINTED_MS / row.tri_ms + _PRINTED_MS / row.ref_ms
    ratio = row.ref_ms / row.tri_ms
    return abs((row.speedup or 0) - ratio) > slack * ratio


def _outside(rows: Sequence[BenchRow]) -> str | None:
    """A speedup that lies outside its own interval: of the rows' own, and of all four."""
    for name, bounds in BOUNDS.items():
        for row in rows:
            low, high, ours, theirs = bounds(row)
            if low is None or high is None or ours is None or theirs is None:
                continue
            value = theirs / ours
            slack = RATIO_SLACK * value
            if low <= 0:
                return f"{row.where}: the lower bound of the {name}, {low:g}, is not above zero."
            if not low - slack <= value <= high + slack or low > high:
                return (
                    f"{row.where}: {name} {value:g} lies outside its own interval "
                    f"[{low:g}, {high:g}]."
                )
    return None


def _untied(rows: Sequence[BenchRow]) -> str | None:
    """A row whose own times are not those that its level and basis name: one of them is a lie."""
    for row in rows:
        named = _named.get((row.level, row.basis))
        if named is None or (ours := _own(row)) == (others := named(row)):
            continue
        for number, (own, other) in enumerate(zip(ours, others, strict=True)):
            if own is None or other is None:
                continue
            if abs(own - other) > DIGITS * max(abs(own), abs(other)):
                column = _NAMED[row.level, row.basis][number]
                return (
                    f"{row.where}: {_OWN[number]} is {own:g} and {column} {other:g}; with "
                    f"level={row.level} and basis={row.basis} they are the same number."
                )
    return None


def _otherwise_named(rows: Sequence[BenchRow]) -> str | None:
    """A row that calls its own two sides otherwise than its level and basis do."""
    for row in rows:
        sides = _SIDES.get((row.level, row.basis))
        if sides is None:
            continue
        reference, named, kernel, launched = sides(row)
        if reference == named and kernel == launched:
            continue
        for own, name, column, other in (
            ("reference", reference, f"{row.level}_{row.basis}", named),
            ("kernel", kernel, f"{row.level}_launched", launched),
        ):
            if name != other and None not in (name, other):
                return (
                    f"{row.where}: {own} is {name[:40]} and {column} {other[:40]}: the same side."
                )
    return None


def _too_varied(rows: Sequence[BenchRow]) -> str | None:
    """Times that vary more than so many of one mean can, or not at all between quantiles."""
    for side, values in _VARIED.items():
        for row in rows:
            varied, low, high = values(row)
            if varied is None:
                continue
            if row.iters and varied > math.sqrt(row.iters) * (1 + DIGITS):
                return (
                    f"{row.where}: {side}_cv is {varied:g}; {row.iters} times of one mean cannot "
                    f"vary by more than {math.sqrt(row.iters):.3g}."
                )
            if varied == 0 and None not in (low, high) and high > low * (1 + DIGITS):
                return (
                    f"{row.where}: {side}_cv is 0, yet {side}_p10 and {side}_p90 are {low:g} and "
                    f"{high:g}."
                )
    return None


def _off_middle(rows: Sequence[BenchRow]) -> str | None:
    """A median that does not lie between the quantiles of its own times."""
    for side, quantiles in _MIDDLES.items():
        for row in rows:
            low, middle, high = quantiles(row)
            if None not in (low, middle, high) and not (
                0 < low * (1 - DIGITS) <= middle <= high * (1 + DIGITS)
            ):
                return (
                    f"{row.where}: {side}_ms, the median {middle:g}, does not lie between "
                    f"{side}_p10 and {side}_p90, {low:g} and {high:g}."
                )
    return None


def _not_strongest(rows: Sequence[BenchRow]) -> str | None:
    """A strongest reference that is slower than the shipped one, which is among the candidates."""
    for level, both in _REFERENCES.items():
        for row in rows:
            shipped, strongest = both(row)
            if shipped and strongest and strongest > shipped * (1 + DIGITS):
                return (
                    f"{row.where}: {level}_strongest_ms {strongest:g} is above "
                    f"{level}_shipped_ms {shipped:g}: the strongest reference is the fastest, and "
                    "the shipped one may be it."
                )
    return None


def _first(rows: Sequence[BenchRow], wrong: Callable[[BenchRow], bool]) -> BenchRow | None:
    return next((row for row in rows if wrong(row)), None)

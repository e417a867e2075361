"""Strongest references that are provably not: the same reference needs less for more keys.

What a longer cell's reference took bounds from above what the strongest of a shorter one takes: so
far the shorter one's speedup is too high, and the decision takes it for that much less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.bench import contract
from kernels.bench.contract import Cell, Threshold
from orchestrator.evidence.bench import BenchRow, Level
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import listed

_SLACK = 1.05
"""By which a time may be above that of more keys: launches and noise, where nothing was missed."""


@dataclass(frozen=True)
class Missed:
    """A cell whose strongest reference is beaten by a longer cell's."""

    row: BenchRow
    factor: float
    """Of its time, that the longer cell's reference takes, below 1."""
    said: str


def missed_strongest(rows: Rows[BenchRow], level: Level) -> list[Missed]:
    """Cells whose strongest time is above that of a longer cell of their family."""
    return [missed for family in rows.by("family").values() for missed in _missed(family, level)]


def moved_by_missed(
    rows: Rows[BenchRow], cells: Sequence[Cell], found: Threshold, level: Level
) -> str | None:
    """Why the threshold `found` rests on references that were missed; None where it does not.

    `cells` are those of `rows`, over the strongest reference.
    """
    missed = missed_strongest(rows, level)
    if not missed:
        return None
    factors = {(each.row.file, each.row.line): each.factor for each in missed}
    bounded = [
        cell._replace(speedup=cell.speedup * factors.get(at, 1.0))
        for at, cell in zip(rows.columns("file", "line"), cells, strict=True)
    ]
    if contract.threshold(bounded, found.margin).min_L == found.min_L:
        return None
    return (
        f"The strongest reference at {level} level is not the strongest there is, and with what is "
        f"known of it the threshold would be another: "
        f"{listed((each.said for each in missed), 2, between='; ')}."
    )


def _missed(family: Rows[BenchRow], level: Level) -> Iterator[Missed]:
    """From the longest cell on, against the fastest of those that are longer still."""
    fastest: tuple[float, int, str] | None = None
    side = f"{level}_strongest"
    lengths, times = family.column("L"), family.column(f"{side}_ms")
    if None in times or lengths != sorted(lengths):
        timed = ((length, ms) for length, ms in zip(lengths, times, strict=True) if ms is not None)
        times = [ms for _, ms in sorted(timed)]
    if times == sorted(times):
        return  # no longer cell needs less
    columns = family.columns("L", f"{side}_ms", side, f"{side}_lo", f"{side}_hi")
    cells = [(number, cell) for number, cell in enumerate(columns) if cell[1] is not None]
    cells.sort(key=_length, reverse=True)
    for number, (length, ms, name, low, high) in cells:
        if fastest is not None and ms > fastest[0] * _SLACK and length < fastest[1]:
            best, longer, theirs = fastest
            wide = high / low if low and high else 1.0
            if ms > best * wide:
                row = family[number]
                tail = "" if theirs == name else f"; it was not found at L={length}"
                yield Missed(
                    row,
                    best / ms,
                    f"{row.where} ({row.family}): {theirs} at L={longer} is faster "
                    f"({best:g} ms) than {name or 'the reference'} at L={length} ({ms:g} ms){tail}",
                )
        if fastest is None or ms < fastest[0]:
            fastest = (ms, length, name or "the reference")


def _length(cell: tuple[int, tuple[Any, ...]]) -> int:
    length: int = cell[1][0]
    return length

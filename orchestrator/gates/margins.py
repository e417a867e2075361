"""How firm a decision is: other margins, the other levels and references, cells that waver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kernels.bench import contract
from kernels.bench.contract import Cell
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BASES, LEVELS, Basis, BenchRow, Level
from orchestrator.gates.timing import noise_bound
from orchestrator.models.verdict import AtMargin, Comparison

MARGINS = (1.1, 1.2, 1.3)
"""Margins that every decision is shown at, beside its own."""


def sensitivity(cells: Iterable[Cell], margin: float) -> tuple[AtMargin, ...]:
    """The threshold at each margin."""
    few = condensed(cells)
    return tuple(
        AtMargin(margin=each, min_L=contract.threshold(few, each).min_L)
        for each in sorted({*MARGINS, margin})
    )


def comparisons(rows: Sequence[BenchRow], margin: float) -> tuple[Comparison, ...]:
    """The threshold at both levels, against both references; those that were measured."""
    found = []
    for level in LEVELS:
        for basis in BASES:
            try:
                cells = condensed(row.cell(level, basis) for row in rows)
            except EvidenceError:
                continue
            least = min(cell.speedup for cell in cells)
            min_length = contract.threshold(cells, margin).min_L
            found.append(Comparison(level=level, reference=basis, min_L=min_length, lowest=least))
    return tuple(found)


def condensed(cells: Iterable[Cell]) -> list[Cell]:
    """Cells that give the same threshold: of families with equal lengths, the worst at each.

    The rule is quick on these, however many families there are.
    """
    families: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        families.setdefault(cell.family, {})[cell.L] = cell
    groups: dict[tuple[int, ...], dict[int, Cell]] = {}
    for family in families.values():
        worst = groups.setdefault(tuple(sorted(family)), {})
        for length, cell in family.items():
            other = worst.get(length, cell)
            speedup, mae = min(cell.speedup, other.speedup), max(cell.mae, other.mae)
            worst[length] = Cell(other.family, length, speedup, mae, cell.device)
    return [
        replace(cell, family=f"{number}")
        for number, group in enumerate(groups.values())
        for cell in group.values()
    ]


def non_monotone(cells: Sequence[Cell], margin: float) -> tuple[str, ...]:
    """Cells below the margin although a shorter length of their family reaches it."""
    shortest: dict[str, int] = {}
    for cell in cells:
        if cell.speedup >= margin:
            shortest[cell.family] = min(cell.L, shortest.get(cell.family, cell.L))
    return tuple(
        f"{cell.family}: L={cell.L} is below the margin ({cell.speedup:.3f}), L="
        f"{shortest[cell.family]} is not"
        for cell in cells
        if cell.speedup < margin and shortest.get(cell.family, cell.L) < cell.L
    )


def wavering(
    rows: Sequence[BenchRow], level: Level, basis: Basis, margin: float
) -> tuple[str, ...]:
    """Cells that noise decides: the interval holds the margin, or the timing did not settle."""
    near = [
        f"{row.family}, L={row.L}: [{bounds[0]:.3f}, {bounds[1]:.3f}] holds the margin {margin:g}"
        for row in rows
        if (bounds := row.interval(level, basis)) and bounds[0] < margin <= bounds[1]
    ]
    return (*near, *noise_bound(rows))

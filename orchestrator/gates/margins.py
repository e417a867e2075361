"""How firm a decision is: other margins, the other levels and references, cells that waver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kernels.bench import contract
from kernels.bench.contract import Cell, Threshold
from orchestrator.evidence.bench import BASES, LEVELS, Basis, BenchRow, Level, lower_bounds
from orchestrator.evidence.rows import Rows, tuples
from orchestrator.gates.findings import listed
from orchestrator.gates.timing import SETTLED, believed, noise_bound
from orchestrator.models.verdict import AtMargin, Comparison

MARGINS = (1.1, 1.2, 1.3)
"""Margins that every decision is shown at, beside its own."""


Few = Mapping[tuple[Level, Basis], Sequence[Cell]]
"""Condensed cells, for each speedup that all rows have."""


def condensed_rows(rows: Rows[BenchRow]) -> Few:
    """Cells that decide for all of `rows`, at both levels and against both references."""
    bounds = {
        (level, basis): f"{level}_{basis}_bound"
        for level in LEVELS
        for basis in BASES
        if None not in lower_bounds(rows, level, basis) and None not in rows.column("mae")
    }
    return dict(zip(bounds, condensed(rows, *bounds.values()), strict=True))


def sensitivity(few: Sequence[Cell], margin: float) -> tuple[AtMargin, ...]:
    """The threshold at each margin."""
    return tuple(
        AtMargin(margin=each, min_L=contract.threshold(few, each).min_L)
        for each in sorted({*MARGINS, margin})
    )


def comparisons(few: Few, margin: float) -> tuple[Comparison, ...]:
    """The threshold at both levels, against both references."""
    return tuple(
        Comparison(
            level=level,
            reference=basis,
            min_L=contract.threshold(cells, margin).min_L,
            lowest=min(cell.speedup for cell in cells),
        )
        for (level, basis), cells in few.items()
    )


def condensed(rows: Sequence[Any], *bounds: str) -> list[list[Cell]]:
    """Cells that give the same threshold: of families with equal lengths, the worst at each.

    `rows` have the lower bound of a speedup in each of the columns `bounds`; for each of these it
    returns cells. The rule is quick on them, however many families there are.
    """
    alike = defaultdict[tuple[int, ...], list[Rows[Any]]](list)
    for family in Rows.of(rows).by("family").values():
        alike[tuple(family.column("L"))].append(family)
    found: list[list[Cell]] = [[] for _ in bounds]
    for lengths, families in alike.items():
        names = families[0].column("family")
        devices = [device or "" for device in families[0].column("device")]
        maes = _worst(max, families, "mae")
        for cells, bound in zip(found, bounds, strict=True):
            cells += tuples(Cell, names, lengths, _worst(min, families, bound), maes, devices)
    return found


def _worst(
    of: Callable[[Iterable[float]], float], families: Sequence[Rows[Any]], name: str
) -> list[float]:
    """Of a column, at each of the lengths that the families share."""
    return [of(values) for values in zip(*(each.column(name) for each in families), strict=True)]


def non_monotone(cells: Sequence[Cell], margin: float) -> tuple[str, ...]:
    """Cells below the margin although a shorter length of their family reaches it."""
    below = [cell for cell in cells if cell.speedup < margin]
    shortest: dict[str, int] = {}
    for cell in cells if below else ():
        if cell.speedup >= margin:
            shortest[cell.family] = min(cell.L, shortest.get(cell.family, cell.L))
    return tuple(
        f"{cell.family}: L={cell.L} is below the margin ({cell.speedup:.3f}), L="
        f"{shortest[cell.family]} is not"
        for cell in below
        if shortest.get(cell.family, cell.L) < cell.L
    )


def wavering(
    rows: Sequence[BenchRow], level: Level, basis: Basis, margin: float
) -> tuple[str, ...]:
    """Cells that noise decides: the interval holds the margin, or the timing did not settle."""
    every = Rows.of(rows)
    bounds = every.columns(f"{level}_{basis}_lo", f"{level}_{basis}_hi", "family", "L")
    near = [
        f"{family}, L={length}: [{low:.3f}, {high:.3f}] holds the margin {margin:g}"
        for low, high, family, length in bounds
        if low is not None and high is not None and low < margin <= high
    ]
    return (*near, *noise_bound(every))


def undecided_by(
    rows: Sequence[BenchRow],
    cells: Sequence[Cell],
    found: Threshold,
    level: Level,
    basis: Basis,
) -> str | None:
    """Why noise, and nothing else, leads to this threshold, or to none; None where it does not.

    It is noise where the timing did not settle and the margin lies within what is believed of the
    speedup: such a cell may be a win as well as a loss. `cells` are those of `rows`.
    """
    margin, shortest = found.margin, found.min_L
    if shortest is None:
        blocking = set(found.obstacles)
        failing = Rows.of(rows).select(
            [contract.shortfall(cell, margin) in blocking for cell in cells]
        )
        noisy = _unsure(failing, level, basis, margin)
        if not noisy or len(noisy) < len(blocking):
            return None
        return (
            "Noise alone stands against every length, so neither ENABLE nor KEEP_OFF is shown: "
            f"{listed(noisy)}."
        )
    unsettled = Rows.of(rows).where(lambda settled: settled != SETTLED, "settled")
    admitted = [row for row in unsettled if shortest <= row.L]
    noisy = _unsure(admitted, level, basis, margin)
    if not noisy:
        return None
    return f"Wins are smaller than timing that did not settle can be off: {listed(noisy)}."


def _unsure(rows: Iterable[BenchRow], level: Level, basis: Basis, margin: float) -> tuple[str, ...]:
    """Cells that did not settle, and may lie on either side of the margin."""
    intervals = (
        (row, believed(row, row.interval(level, basis))) for row in rows if row.settled != SETTLED
    )
    return tuple(
        f"{row.family}, L={row.L}: [{bounds[0]:.3g}, {bounds[1]:.3g}], {(row.settled or '')[:120]}"
        for row, bounds in intervals
        if bounds is not None and bounds[0] < margin <= bounds[1]
    )

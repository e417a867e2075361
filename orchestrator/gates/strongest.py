"""Strongest references that are provably not: the same reference needs less for more keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.evidence.bench import LEVELS, BenchRow, Level
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, listed
from orchestrator.models.verdict import Reason, Verdict

_SLACK = 1.05
"""By which a time may be above that of more keys: launches and noise, where nothing was missed."""


def strongest_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Cells whose strongest time is above that of a longer cell of their family."""
    families = rows.by("family").values()
    for level in LEVELS:
        missed = [said for family in families for said in _missed(family, level)]
        if missed:
            yield Finding(
                Verdict.NOT_VERIFIED,
                Reason.NO_EVIDENCE,
                f"The strongest reference at {level} level is not the strongest there is: "
                f"{listed((said for said, _ in missed), 2, between='; ')}.",
                missed[0][1],
            )


def _length(cell: tuple[BenchRow, tuple[Any, ...]]) -> int:
    length: int = cell[1][0]
    return length


def _missed(family: Rows[BenchRow], level: Level) -> Iterator[tuple[str, str]]:
    """From the longest cell on, against the fastest of those that are longer still."""
    fastest: tuple[float, int, str] | None = None
    side = f"{level}_strongest"
    columns = family.columns("L", f"{side}_ms", side, f"{side}_lo", f"{side}_hi")
    cells = sorted(zip(family, columns, strict=True), key=_length, reverse=True)
    for row, (length, ms, name, low, high) in cells:
        if ms is None:
            continue
        if fastest is not None and ms > fastest[0] * _SLACK and length < fastest[1]:
            best, longer, theirs = fastest
            wide = high / low if low and high else 1.0
            if ms > best * wide:
                tail = "" if theirs == name else f"; it was not found at L={length}"
                yield (
                    f"{row.where} ({row.family}): {theirs} at L={longer} is faster "
                    f"({best:g} ms) than {name or 'the reference'} at L={length} ({ms:g} ms){tail}",
                    f"Time {theirs} at L={length} of that family.",
                )
        if fastest is None or ms < fastest[0]:
            fastest = (ms, length, name or "the reference")

"""Strongest references that are provably not: the same reference needs less for more keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from orchestrator.evidence.bench import LEVELS, BenchRow, Level
from orchestrator.gates.findings import Finding, listed
from orchestrator.models.verdict import Reason, Verdict

_SLACK = 1.05
"""By which a time may be above that of more keys: launches and noise, where nothing was missed."""
_strongest = {
    level: attrgetter(
        f"{level}_strongest_ms",
        f"{level}_strongest",
        f"{level}_strongest_lo",
        f"{level}_strongest_hi",
    )
    for level in LEVELS
}


def strongest_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Cells whose strongest time is above that of a longer cell of their family."""
    families: dict[str, list[BenchRow]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    for level in LEVELS:
        missed = [said for some in families.values() for said in _missed(some, level)]
        if missed:
            yield Finding(
                Verdict.NOT_VERIFIED,
                Reason.NO_EVIDENCE,
                f"The strongest reference at {level} level is not the strongest there is: "
                f"{listed((said for said, _ in missed), 2, between='; ')}.",
                missed[0][1],
            )


def _missed(family: Sequence[BenchRow], level: Level) -> Iterator[tuple[str, str]]:
    """From the longest cell on, against the fastest of those that are longer still."""
    fastest: tuple[float, BenchRow, str] | None = None
    for row in sorted(family, key=lambda row: row.L, reverse=True):
        ms, name, low, high = _strongest[level](row)
        if ms is None:
            continue
        if fastest is not None:
            best, longer, theirs = fastest
            wide = high / low if low and high else 1.0
            if row.L < longer.L and ms > best * max(_SLACK, wide):
                tail = "" if theirs == name else f"; it was not found at L={row.L}"
                yield (
                    f"{row.where} ({row.family}): {theirs} at L={longer.L} is faster "
                    f"({best:g} ms) than {name or 'the reference'} at L={row.L} ({ms:g} ms){tail}",
                    f"Time {theirs} at L={row.L} of that family.",
                )
        if fastest is None or ms < fastest[0]:
            fastest = (ms, row, name or "the reference")

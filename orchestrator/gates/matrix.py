"""Whether several files together leave holes: nobody declared what files without a playbook hold.

A threshold holds for every length above it, so a family that was measured at one length must have
been measured at every longer one that any family has. Below its shortest it makes no claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.gates.findings import Finding, conclude, counted, listed
from orchestrator.models.verdict import GateResult, Reason, Verdict


class Member(Protocol):
    """A row, as far as the matrix goes."""

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def L(self) -> int | None: ...  # noqa: D102, N802


def matrix_gate(rows: Sequence[Member]) -> GateResult:
    """Judge the cells of all files as one matrix."""
    families: dict[str, set[int]] = {}
    for row in rows:
        if row.L is not None:
            families.setdefault(row.family, set()).add(row.L)
    tested = set().union(*families.values())
    holes = [
        f"{family} L={length}"
        for family, lengths in sorted(families.items())
        for length in sorted(tested - lengths)
        if length > min(lengths)
    ]
    findings = []
    if holes:
        findings.append(
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.INCOMPLETE,
                f"{counted(len(holes), 'cell')} missing that other rows have: {listed(holes, 5)}.",
                "Measure them: a threshold holds for every length above it.",
            )
        )
    if not families:
        findings.append(
            Finding(
                Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE, "No row has an L.", "Measure something."
            )
        )
    measured = {"families": len(families), "lengths": len(tested), "holes": len(holes)}
    return conclude(
        "completeness matrix",
        findings,
        {**measured},
        f"{counted(len(families), 'measured distribution')}, without holes.",
    )

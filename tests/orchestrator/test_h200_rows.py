"""Honest rows of an H200, as they were measured: what is said of them, and nothing more."""

from __future__ import annotations

from pathlib import Path

from orchestrator.engine.judge_files import judge_files
from orchestrator.models.verdict import Outcome, Verdict

ROWS = Path(__file__).parents[2] / "reports" / "h200-2026-11-23"


def _said(gate) -> list[str]:
    """The first words of each finding."""
    if gate.verdict is Verdict.PASS:
        return []
    several = gate.measured.get("findings", [{"message": gate.message}])
    return [" ".join(found["message"].split()[:5]) for found in several]


def test_honest_rows_are_accused_of_nothing_that_is_not_so() -> None:
    """A weak fallback, a spent budget, a strongest that was missed, and no telemetry."""
    found = judge_files([ROWS / "sel_dense.csv", ROWS / "sel_varlen.csv"])
    weak, missed = (
        "The shipped reference (grouped_selection_attention_packed) takes",
        ["The strongest reference at operator"],
    )
    unwatched = ["There is no telemetry of"]
    assert [(g.gate, g.verdict.value, _said(g)) for g in found.gates] == [
        ("physics sel_dense.csv", "PASS", []),
        ("bench sel_dense.csv", "FAIL", [weak, *missed]),
        ("machine sel_dense.csv", "NOT_VERIFIED", unwatched),
        ("physics sel_varlen.csv", "PASS", []),
        ("bench sel_varlen.csv", "FAIL", [weak, "1 cell not measured: sel_varlen.csv,"]),
        ("machine sel_varlen.csv", "NOT_VERIFIED", unwatched),
        ("completeness matrix", "NOT_VERIFIED", ["1 cell did not run:"]),
    ]
    assert found.decision.outcome is Outcome.UNDECIDED

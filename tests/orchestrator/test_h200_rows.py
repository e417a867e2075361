"""Honest rows of an H200, as they were measured: what is said of them, and nothing more."""

from __future__ import annotations

from pathlib import Path

from orchestrator.engine.judge_files import judge_files
from orchestrator.models.verdict import Outcome, Verdict

MISSED = ["sel_dense.csv, line 7", "sel_dense.csv, line 14"]
"""Where flex_attention was not found, and is faster with twice the keys."""
ROWS = Path(__file__).parents[2] / "reports" / "h200-2026-11-23"


def _said(gate) -> list[str]:
    """The first words of each finding."""
    if gate.verdict is Verdict.PASS:
        return []
    several = gate.measured.get("findings", [{"message": gate.message}])
    return [" ".join(found["message"].split()[:5]) for found in several]


def test_honest_rows_are_accused_of_nothing_that_is_not_so() -> None:
    """A weak fallback, a spent budget, and no telemetry."""
    found = judge_files([ROWS / "sel_dense.csv", ROWS / "sel_varlen.csv"])
    weak = "The shipped reference (grouped_selection_attention_packed) takes"
    unwatched = ["There is no telemetry of"]
    assert [(g.gate, g.verdict.value, _said(g)) for g in found.gates] == [
        ("physics sel_dense.csv", "PASS", []),
        ("bench sel_dense.csv", "FAIL", [weak]),
        ("machine sel_dense.csv", "NOT_VERIFIED", unwatched),
        ("physics sel_varlen.csv", "PASS", []),
        ("bench sel_varlen.csv", "FAIL", [weak, "1 cell not measured: sel_varlen.csv,"]),
        ("machine sel_varlen.csv", "NOT_VERIFIED", unwatched),
        ("completeness matrix", "NOT_VERIFIED", ["1 cell did not run:"]),
    ]
    missed = [said for gate in found.gates for said in gate.measured.get("missed_strongest", [])]
    assert [said.partition(" (")[0] for said in missed] == MISSED
    assert found.decision.outcome is Outcome.UNDECIDED


def test_rows_in_which_nothing_is_wrong_but_that_nobody_watched() -> None:
    """Rows beside the fallback that ships now."""
    folder = ROWS.with_name("h200-2026-11-24")
    found = judge_files([folder / "sel_dense.csv", folder / "sel_varlen.csv"])
    unwatched = ["There is no telemetry of"]
    assert [(g.gate, g.verdict.value, _said(g)) for g in found.gates] == [
        ("physics sel_dense.csv", "PASS", []),
        ("bench sel_dense.csv", "PASS", []),
        ("machine sel_dense.csv", "NOT_VERIFIED", unwatched),
        ("physics sel_varlen.csv", "PASS", []),
        ("bench sel_varlen.csv", "PASS", []),
        ("machine sel_varlen.csv", "NOT_VERIFIED", unwatched),
        ("completeness matrix", "PASS", []),
    ]
    assert found.decision.outcome is Outcome.UNDECIDED

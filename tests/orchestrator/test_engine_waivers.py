"""Who answers for a gate, and which gates nobody can answer for."""

from __future__ import annotations

import pytest

from orchestrator.config.playbook import load_playbook
from orchestrator.config.resources import find_playbook
from orchestrator.engine.waivers import waived, waivers_of
from orchestrator.errors import UsageError
from orchestrator.models.verdict import GateResult, Reason, Verdict, Waiver

WAIVER = Waiver(gate="bench a.csv", reason="known, and harmless here")


def result(verdict: Verdict, gate: str = "bench a.csv") -> GateResult:
    return GateResult(
        gate=gate,
        verdict=verdict,
        message="Seen.",
        reason=None if verdict is Verdict.PASS else Reason.WEAK_FALLBACK,
        measured={"cells": 2},
        next_step=None if verdict is Verdict.PASS else "Do it.",
    )


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.NOT_VERIFIED])
def test_a_shortfall_counts_as_pass_and_says_what_it_was(verdict):
    found = waived(result(verdict), [WAIVER])
    assert found.verdict is Verdict.PASS
    assert found.waiver == WAIVER
    assert found.message == f"WAIVED (known, and harmless here). {verdict.value}: Seen."
    assert found.measured == {"cells": 2, "waived": verdict.value}
    assert GateResult.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("verdict", [Verdict.INVALID, Verdict.INFRA])
def test_what_cannot_be_true_cannot_be_waived(verdict):
    found = waived(result(verdict), [WAIVER])
    assert (found.verdict, found.waiver) == (verdict, None)
    assert "cannot be waived" in found.message


@pytest.mark.parametrize("gate", ["bench b.csv", "physics a.csv"])
def test_other_gates_stay_as_they_are(gate):
    assert waived(result(Verdict.FAIL, gate), [WAIVER]) == result(Verdict.FAIL, gate)
    assert waived(result(Verdict.PASS), [WAIVER]) == result(Verdict.PASS)


@pytest.fixture(scope="module")
def playbook():
    return load_playbook(find_playbook(None)).playbook


@pytest.mark.parametrize("gate", ["tests parity_dense.xml", "physics sel_dense.csv"])
def test_gates_of_the_playbook_can_be_named(playbook, gate):
    assert waivers_of(playbook, [gate], ["  it is\n fine "]) == [
        Waiver(gate=gate, reason="it is fine")
    ]


@pytest.mark.parametrize(
    ("gates", "reasons", "says"),
    [
        (["bench sel_dence.csv"], ["x"], "did you mean 'bench sel_dense.csv'"),
        (["bench sel_dense.csv"], [], "each waiver needs a reason"),
        (["bench sel_dense.csv"], [" "], "each waiver needs a reason"),
        ([], ["x"], "each waiver needs a reason"),
    ],
)
def test_a_waiver_that_says_too_little_is_refused(playbook, gates, reasons, says):
    with pytest.raises(UsageError, match=says):
        waivers_of(playbook, gates, reasons)

"""Which phases run: the document's phases 3 to 5 are conditional, and none runs on a red gate."""

from __future__ import annotations

import pytest

from orchestrator.engine.conditions import why_skip
from orchestrator.models.playbook import Phase, SyncStep, When
from orchestrator.models.run import Judgement, PhaseJudgement, StepJudgement
from orchestrator.models.verdict import Decision, GateResult, Obstacle, Outcome, Reason, Verdict

ALL = [0, 1, 2, 3, 4, 5]
STEP = SyncStep(id="s", action="sync")


def phase(number: int, when: When = When.ALWAYS, *, steps: bool = True) -> Phase:
    return Phase(id=number, name="p", title="P", when=when, steps=[STEP] if steps else [])


def judged(number: int, verdict: Verdict) -> PhaseJudgement:
    gate = GateResult(
        gate="g",
        verdict=verdict,
        message="m",
        measured={"n": 1},
        reason=None if verdict is Verdict.PASS else Reason.NO_EVIDENCE,
    )
    step = StepJudgement(
        phase=number, step="s", title="S", attempt=1, verdict=verdict, gates=[gate]
    )
    return PhaseJudgement(id=number, name="p", title="P", verdict=verdict, steps=[step])


def decision(outcome: Outcome) -> Decision:
    undecided = outcome is Outcome.UNDECIDED
    obstacle = Obstacle(reason=Reason.NO_CUDA_DEVICE, message="no device")
    return Decision(
        outcome=outcome,
        min_L=None if undecided else 2048,
        margin=1.2,
        summary=f"{outcome.value}: because",
        obstacles=(obstacle,) if undecided else (),
    )


def state(*verdicts: Verdict, outcome: Outcome | None = None) -> Judgement:
    phases = [judged(number, verdict) for number, verdict in enumerate(verdicts)]
    return Judgement(
        run_id="r",
        verdict=Verdict.PASS,
        phases=phases,
        decision=decision(outcome) if outcome else None,
    )


P, F, N, INVALID, INFRA = (
    Verdict.PASS, Verdict.FAIL, Verdict.NOT_VERIFIED, Verdict.INVALID, Verdict.INFRA,
)  # fmt: skip


@pytest.mark.parametrize("red", [F, N, INVALID, INFRA])
def test_nothing_is_measured_on_a_red_gate(red: Verdict) -> None:
    assert why_skip(phase(2), ALL, state(P, P)) is None
    assert red.value in (why_skip(phase(2), ALL, state(P, red)) or "")


@pytest.mark.parametrize(
    ("so_far", "runs"),
    [
        (state(P, F), True),
        (state(P, INVALID), True),
        (state(P, P, INVALID, outcome=Outcome.UNDECIDED), True),
        (state(P, P, P, outcome=Outcome.KEEP_OFF), True),
        (state(P, P, P, outcome=Outcome.ENABLE), False),
        (state(P, P, N, outcome=Outcome.UNDECIDED), False),
        (state(P, N), False),
        (state(INFRA), False),
        (state(P, INFRA), False),
    ],
)
def test_diagnostics_run_on_underperformance_alone(so_far: Judgement, runs: bool) -> None:
    why = why_skip(phase(3, When.UNDERPERFORMANCE), ALL, so_far)
    assert (why is None) is runs
    assert why is None or why


def test_a_missing_device_is_named_as_the_reason() -> None:
    so_far = state(P, P, N, outcome=Outcome.UNDECIDED)
    why = why_skip(phase(3, When.UNDERPERFORMANCE), ALL, so_far)
    assert why == "nothing to diagnose: UNDECIDED: because"


@pytest.mark.parametrize(
    ("outcome", "runs"),
    [(Outcome.ENABLE, True), (Outcome.KEEP_OFF, True), (Outcome.UNDECIDED, False), (None, False)],
)
def test_only_a_decision_is_landed(outcome: Outcome | None, runs: bool) -> None:
    so_far = state(P, P, P, outcome=outcome)
    assert (why_skip(phase(5, When.DECIDED), ALL, so_far) is None) is runs


def test_a_phase_without_steps_says_so() -> None:
    so_far = state(P, P, P, outcome=Outcome.KEEP_OFF)
    why = why_skip(phase(4, When.UNDERPERFORMANCE, steps=False), ALL, so_far)
    assert why == "the playbook declares no steps for it"

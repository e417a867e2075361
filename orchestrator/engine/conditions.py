"""Whether a phase runs, given what is known so far; when not, the true reason."""

from __future__ import annotations

from orchestrator.models.playbook import Phase, Step, When
from orchestrator.models.run import Judgement, PhaseJudgement, RunPlan
from orchestrator.models.verdict import Outcome, Verdict

_MEASURING = (1, 2)
"""Phases whose gates say how the kernel does."""


def why_skip(phase: Phase, asked: list[int], so_far: Judgement) -> str | None:
    """None when the phase is to run."""
    before = [p for p in so_far.phases if p.id < phase.id and p.id in asked]
    unusable = next((p for p in before if p.verdict is Verdict.INFRA), None)
    if unusable is not None:
        return f"phase {unusable.id} is INFRA: the machine, not the kernel, is in the way"
    known = [*before, *(p for p in so_far.phases if p.id < phase.id and p.inherited is not None)]
    if phase.when is When.ALWAYS:
        return _why_not_always(before)
    if phase.when is When.UNDERPERFORMANCE:
        reason = _why_not_underperforming(known, so_far)
    else:
        reason = _why_not_decided(known, so_far)
    if reason is None and not phase.steps:
        return "the playbook declares no steps for it"
    return reason


def _why_not_always(before: list[PhaseJudgement]) -> str | None:
    """No measurement on a red gate: numbers of a wrong kernel mislead."""
    red = next((p for p in before if p.verdict not in (Verdict.PASS, None)), None)
    red = red or next((p for p in before if p.skipped is not None), None)
    if red is None:
        return None
    state = red.verdict.value if red.verdict else "skipped"
    return f"phase {red.id} ({red.name}) is {state}: nothing is measured on a red gate"


def _why_not_underperforming(before: list[PhaseJudgement], so_far: Judgement) -> str | None:
    bad = (Verdict.FAIL, Verdict.INVALID)
    gates = (g for p in before if p.id in _MEASURING for s in p.steps for g in s.gates)
    if any(gate.verdict in bad for gate in gates):
        return None
    decision = so_far.decision
    if decision is None:
        return "phases 1 and 2 are not verified, so there is no telling whether it underperforms"
    if decision.outcome is Outcome.KEEP_OFF:
        return None
    if decision.outcome is Outcome.ENABLE:
        return f"nothing underperforms: the decision is {decision}"
    return f"nothing to diagnose: {decision.summary}"


def _why_not_decided(before: list[PhaseJudgement], so_far: Judgement) -> str | None:
    decision = so_far.decision
    if decision is None:
        return "there is no decision to land"
    if decision.outcome is Outcome.UNDECIDED:
        return f"nothing may be landed: {decision.summary}"
    counting = [p for p in before if p.superseded is None and p.verdict is not None]
    red = next((p for p in counting if p.verdict is not Verdict.PASS), None)
    if red is not None and red.verdict is not None:
        return f"nothing may be landed: phase {red.id} ({red.name}) is {red.verdict.value}"
    return None


def why_skip_step(step: Step, plan: RunPlan, so_far: Judgement) -> str | None:
    """None when the step is to run; within a variant, nothing is measured on a red gate either."""
    variant = next((v for v in plan.variants if step.id in v.step_ids), None)
    if variant is None:
        return None
    if variant.changed_code and not (plan.inherits and plan.inherits.changed_files):
        return "the code has not changed"
    judged = {s.step: s for p in so_far.phases if p.id == variant.phase for s in p.steps}
    for phase, steps in variant.steps.items():
        if step.id in steps:
            return None
        red = next((s for s in steps if judged[s].verdict is not Verdict.PASS), None)
        if red is not None:
            verdict = judged[red].verdict.value
            return f"{red} (phase {phase}) is {verdict}: nothing is measured on a red gate"
    return None

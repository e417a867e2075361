"""Judging the variants of phase 4, and which of them takes the place of what was there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.models.run import PlannedVariant, StepJudgement, VariantJudgement
from orchestrator.models.verdict import Decision, Outcome, Verdict, worst


def judge_variants(
    planned: Sequence[PlannedVariant],
    judged: Mapping[str, StepJudgement],
    decisions: Mapping[str, Decision],
) -> list[VariantJudgement]:
    """One judgement a variant, from those of its steps."""
    return [
        VariantJudgement(
            id=variant.id,
            title=variant.title,
            verdict=worst(judged[step].verdict for step in variant.step_ids if step in judged),
            decision=decisions.get(variant.id),
        )
        for variant in planned
    ]


def adopt(
    variants: Sequence[VariantJudgement], before: Decision | None, red: bool
) -> VariantJudgement | None:
    """The variant to go on with; None keeps what was there.

    One that enables the kernel wins, the one from the smallest length first, then the one declared
    first. A KEEP_OFF of a variant counts only where there was no honest decision before (`red`, or
    undecided): else it would say nothing new.
    """
    passed = [v for v in variants if v.verdict is Verdict.PASS and v.decision is not None]
    enabling = [v for v in passed if v.decision and v.decision.outcome is Outcome.ENABLE]
    if enabling:
        return min(enabling, key=lambda v: (v.decision and v.decision.min_L) or 0)
    undecided = before is None or before.outcome is Outcome.UNDECIDED
    return next(iter(passed), None) if red or undecided else None


def best(variants: Sequence[VariantJudgement], adopted: VariantJudgement | None) -> Verdict:
    """What the phase amounts to: a fix was found, none was needed in the end, or none helped.

    A variant that loses or breaks is a result, not a failure of the run: only when every variant
    is red does the phase carry the mildest of their verdicts.
    """
    if adopted is not None:
        return Verdict.PASS
    verdicts = {v.verdict for v in variants}
    mildest = (Verdict.PASS, Verdict.NOT_VERIFIED, Verdict.FAIL, Verdict.INVALID, Verdict.INFRA)
    return next((v for v in mildest if v in verdicts), Verdict.PASS)

"""Phases taken from an earlier run: when they still count, and what is said when they do not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.models.playbook import DecideStep, JobStep, Phase, SyncStep, When
from orchestrator.models.run import (
    Inheritance,
    Judgement,
    PhaseJudgement,
    RunPlan,
    StepJudgement,
)
from orchestrator.models.verdict import GateResult, Reason, Verdict

SOURCE = "source"
"""The difference that a fix makes; all others make runs incomparable."""


@dataclass(frozen=True)
class Inherited:
    """The run that the phases not asked for come from."""

    source: Inheritance
    parent: Judgement | None
    """None when it cannot be read."""
    problem: str
    ignoring: Collection[str] = ()

    def has(self, phase: Phase) -> bool:
        """Whether the phase was to be taken from there."""
        return phase.id in self.source.phases

    def take(self, phase: Phase, plan: RunPlan, before: Sequence[PhaseJudgement]) -> PhaseJudgement:
        """The phase as that run had it, or NOT_VERIFIED with the reason why it does not count.

        `before` are the phases judged so far, inherited or not.
        """
        found = (
            next((p for p in self.parent.phases if p.id == phase.id), None)
            if (self.parent)
            else None
        )
        if found is None:
            return self._void(phase, f"Run {self.source.run_id} {self.problem}.")
        origin = found.inherited or self.source.run_id
        if found.verdict is None:
            return found.model_copy(update={"inherited": origin})
        why = self._why_void(phase, found, plan, before)
        if why is not None:
            return self._void(phase, why)
        return found.model_copy(update={"inherited": origin, "superseded": None})

    def _why_void(
        self, phase: Phase, found: PhaseJudgement, plan: RunPlan, before: Sequence[PhaseJudgement]
    ) -> str | None:
        was = f"{phase.title} was {found.verdict.value if found.verdict else 'skipped'}"
        tolerated = {*self.ignoring, *_tolerated(phase, plan)}
        differences = [d for d in self.source.differences if d not in tolerated]
        if differences:
            return (
                f"{was} in run {self.source.run_id}, but since then the "
                f"{self._described(differences)} changed, so that it says nothing about this run."
            )
        # A decision rests on the phases before it: made anew, or red now, they call for a new one.
        anew = [p for p in before if p.inherited is None and p.verdict is not None]
        shaken = [p for p in anew if p.id > 0 or p.verdict is not Verdict.PASS]
        if shaken and _decides(phase, found):
            return (
                f"{was} in run {self.source.run_id}, but phase {shaken[0].id} was run anew, and a "
                "decision rests on all phases before it."
            )
        return None

    def _described(self, differences: Sequence[str]) -> str:
        what = " and ".join(differences)
        files = self.source.changed_files
        if SOURCE in differences and files:
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            what += f" ({', '.join(files[:3])}{more})"
        return what

    def _void(self, phase: Phase, message: str) -> PhaseJudgement:
        gate = GateResult(
            gate=f"phase {phase.id}",
            verdict=Verdict.NOT_VERIFIED,
            reason=Reason.INHERITED_DIFFERS,
            message=message,
            measured={
                "run": self.source.run_id,
                "differences": list(self.source.differences),
            },
            next_step="Run it anew: orchestrate run --phase 0-2.",
        )
        step = StepJudgement(
            phase=phase.id,
            step="inherited",
            title=f"from run {self.source.run_id}",
            attempt=1,
            verdict=gate.verdict,
            gates=[gate],
        )
        return PhaseJudgement(
            id=phase.id,
            name=phase.name,
            title=phase.title,
            verdict=gate.verdict,
            inherited=self.source.run_id,
            steps=[step],
        )


def _decides(phase: Phase, found: PhaseJudgement) -> bool:
    return found.decision is not None or any(isinstance(s, DecideStep) for s in phase.steps)


def _tolerated(phase: Phase, plan: RunPlan) -> set[str]:
    """A fix changes the source within `allow_paths`, and measures everything anew itself.

    So what measures nothing (environment), and what only diagnosed the state before (phase 3),
    still holds; any other phase does not.
    """
    variants = {variant.phase for variant in plan.variants}
    fixes = any(
        isinstance(step, SyncStep) and step.allow_paths
        for other in plan.playbook.phases
        if other.id in plan.phases and other.id in variants
        for step in other.steps
    )
    measures = any(isinstance(step, JobStep | DecideStep) for step in phase.steps)
    diagnoses = phase.when is When.UNDERPERFORMANCE and phase.id not in variants
    return {SOURCE} if fixes and (not measures or diagnoses) else set()

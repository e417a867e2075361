"""`sync`: push the repository to the pod."""

from __future__ import annotations

from orchestrator.models.playbook import Playbook, SyncStep
from orchestrator.models.pod import Pod
from orchestrator.models.run import StepResult
from orchestrator.steps.base import Action, Attempt, Session, Stopwatch, result
from orchestrator.steps.source import bring


class Sync:
    """Takes the place of the document's `git clone`: what is judged is what lies here."""

    def plan(self, step: SyncStep, playbook: Playbook, pod: Pod) -> list[Action]:  # noqa: ARG002
        """One line."""
        protected = f" (protected: {', '.join(step.protect)})" if step.protect else ""
        return [Action(f"push the repository to {pod.address}:{pod.workdir}{protected}")]

    def apply(self, step: SyncStep, session: Session, attempt: Attempt) -> StepResult:
        """Push."""
        watch = Stopwatch()
        report = bring(session, step)
        return result(attempt, watch, details=dict(report.counts()))

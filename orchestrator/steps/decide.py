"""`decide`: apply the decision rule. Everything happens when the run directory is judged."""

from __future__ import annotations

from orchestrator.models.playbook import DecideStep, Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import StepResult
from orchestrator.steps.base import Action, Attempt, Session, Stopwatch, result


class Decide:
    """Leaves only a mark that it was asked for: the decision is a function of the evidence."""

    def plan(self, step: DecideStep, playbook: Playbook, pod: Pod) -> list[Action]:  # noqa: ARG002
        """One line."""
        return [Action(f"decide from {step.dense} and {step.varlen} at margin {step.margin:g}")]

    def apply(self, step: DecideStep, session: Session, attempt: Attempt) -> StepResult:  # noqa: ARG002
        """Nothing to do on the pod."""
        return result(attempt, Stopwatch(), details={"margin": step.margin})

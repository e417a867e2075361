"""What the event log of a run says beyond the results, for judging it."""

from __future__ import annotations

import hashlib

from orchestrator.errors import StoreError
from orchestrator.models.run import StepResult
from orchestrator.models.verdict import GateResult, Obstacle, Reason, Verdict
from orchestrator.store.events import read_events
from orchestrator.store.paths import RunPaths


class History:
    """What was skipped, how the run ended, and what had which checksum when it was written down.

    Raises:
        StoreError: the plan is not the one that was run.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.phases: dict[int, str] = {}
        """Phases that were skipped, and why."""
        self.steps: dict[str, str] = {}
        """Steps that were skipped, and why."""
        self.error: Obstacle | None = None
        self.gpus: list[str] | None = None
        """Names that the driver gave when the run began; None where nobody asked."""
        self._pulled: dict[tuple[str, str], str] = {}
        for event in read_events(paths.events):
            data = event.data
            phase, why = data.get("phase"), str(data.get("why", "no reason is given"))
            if event.name == "run.created":
                _check_plan(paths, data.get("plan_sha256"))
            elif event.name == "facts" and isinstance(gpus := data.get("gpus"), list):
                self.gpus = [str(gpu) for gpu in gpus]
            elif event.name == "phase.skipped" and isinstance(phase, int):
                self.phases[phase] = why
            elif event.name == "phase.started" and isinstance(phase, int):
                self.phases.pop(phase, None)
            elif event.name == "step.skipped":
                self.steps[str(data.get("step"))] = why
            elif event.name == "step.started":
                self.steps.pop(str(data.get("step")), None)
            elif event.name == "artifact.pulled":
                self._pulled[str(data.get("job")), str(data.get("path"))] = str(data.get("sha256"))
            elif event.name == "run.error":
                message = str(data.get("message", "the run ended in an error"))
                self.error = Obstacle(reason=_reason(data.get("reason")), message=message)
            elif event.name == "run.resumed":
                self.error = None

    def altered(self, run_id: str, result: StepResult) -> GateResult | None:
        """The gate that refuses a result whose checksums are not those of the pull."""
        job = f"{run_id}.{result.phase}.{result.step}.{result.attempt}"
        for artifact in result.artifacts:
            pulled = self._pulled.get((job, artifact.path))
            if pulled is not None and pulled != artifact.sha256:
                return GateResult(
                    gate=f"step {result.step}",
                    verdict=Verdict.INVALID,
                    reason=Reason.MALFORMED,
                    message=f"{artifact.path} had another SHA-256 when it was pulled than its "
                    "result now says: both were changed.",
                    measured={"file": artifact.path, "pulled": pulled, "now": artifact.sha256},
                    next_step="Run the step again; `orchestrate fetch` brings back what the pod "
                    "still has.",
                )
        return None


def _check_plan(paths: RunPaths, written: object) -> None:
    if written not in (None, hashlib.sha256(paths.plan.read_bytes()).hexdigest()):
        raise StoreError(
            f"{paths.plan} was changed after the run began",
            remedy="put it back, or run again: what was run is not what it would be judged by",
        )


def _reason(value: object) -> Reason:
    try:
        return Reason(value)
    except ValueError:
        return Reason.POD_ERROR

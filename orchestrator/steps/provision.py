"""`provision`: bring resources about, in order; leave alone what is there."""

from __future__ import annotations

import time

from orchestrator.jobs.job import JobSpec
from orchestrator.models.playbook import Playbook, ProvisionStep, Resource
from orchestrator.models.pod import Pod
from orchestrator.models.run import JobState, ResourceOutcome, StepResult
from orchestrator.provision.resources import Recipe, recipe
from orchestrator.provision.state import Finding
from orchestrator.steps.base import Action, Attempt, Session, Stopwatch, result, run_job

CHECK_TIMEOUT_S = 300
"""A first `import torch` from a cold network disk takes minutes on some pods."""


class Provision:
    """Checks each resource, applies it when the check fails, checks again."""

    def plan(self, step: ProvisionStep, playbook: Playbook, pod: Pod) -> list[Action]:  # noqa: ARG002
        """Each resource, and the commands that would bring it about."""
        actions = []
        for resource in step.resources:
            how = recipe(resource, pod)
            optional = " (optional)" if resource.optional else ""
            actions.append(Action(f"{resource.id}{optional}: {how.title}, unless it is there"))
            if how.apply:
                nothing = Finding(False, "not looked at")
                actions += [Action("  run", command) for command in how.apply(nothing)]
        return actions

    def apply(self, step: ProvisionStep, session: Session, attempt: Attempt) -> StepResult:
        """Go through the resources; a failed one that is not optional ends the step."""
        watch = Stopwatch()
        outcomes: list[ResourceOutcome] = []
        details = {}
        error = None
        for resource in step.resources:
            outcome, found = _bring_about(resource, session, attempt)
            outcomes.append(outcome)
            session.events.append("resource.done", **outcome.model_dump())
            if resource.resource == "device":
                details["device"] = dict(found.facts)
            if outcome.action == "failed" and not resource.optional:
                error = f"{resource.id}: {outcome.detail}"
                break
        return result(attempt, watch, resources=outcomes, details=details, error=error)


def _bring_about(
    resource: Resource, session: Session, attempt: Attempt
) -> tuple[ResourceOutcome, Finding]:
    start = time.monotonic()
    how = recipe(resource, session.pod)
    found = _check(how, session)
    action, detail = "unchanged", found.detail
    if not found.satisfied:
        if found.problem is not None:
            action, detail = "failed", found.problem
        elif how.apply is None:
            pass  # it only looks; the gates judge what it saw
        else:
            session.events.append("resource.applying", id=resource.id, title=how.title)
            failure = _apply(resource, how, found, session, attempt)
            found = _check(how, session)
            action, detail = "applied", found.detail
            if failure or not found.satisfied:
                action, detail = "failed", failure or f"applied, but still {found.detail}"
    outcome = ResourceOutcome(
        id=resource.id,
        resource=resource.resource,
        action=action,
        optional=resource.optional,
        detail=detail,
        duration_s=round(time.monotonic() - start, 3),
    )
    return outcome, found


def _check(how: Recipe, session: Session) -> Finding:
    return how.parse(session.connection.run(how.check, timeout=CHECK_TIMEOUT_S))


def _apply(
    resource: Resource, how: Recipe, found: Finding, session: Session, attempt: Attempt
) -> str | None:
    """Run the commands in order; what went wrong with the first that failed."""
    if how.apply is None:
        return None
    for number, command in enumerate(how.apply(found), start=1):
        part = f"{resource.id}-{number}"
        spec = JobSpec(attempt.job_id(session.run_id, part), command, timeout_s=resource.timeout)
        log = attempt.paths.root / f"{part}.log"
        outcome = run_job(session, spec, log).outcome
        if outcome.state is not JobState.SUCCEEDED:
            return f"`{command.argv[0]} ...` ended with {outcome}; see {log}"
    return None

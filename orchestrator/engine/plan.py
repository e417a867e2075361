"""The plan of a run: everything resolved before anything happens, and how to print it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator import __version__
from orchestrator.config.playbook import LoadedPlaybook
from orchestrator.engine.expand import expand
from orchestrator.errors import UsageError
from orchestrator.models.playbook import Phase, Step, When
from orchestrator.models.pod import Pod
from orchestrator.models.run import RunPlan, SourceRecord
from orchestrator.steps.base import Action
from orchestrator.steps.kinds import kind_of
from orchestrator.store.events import now
from orchestrator.transport.source import Source


def make_plan(
    loaded: LoadedPlaybook,
    pod: Pod,
    source: Source,
    phases: Sequence[int] | None,
    argv: Sequence[str],
    *,
    run_id: str,
    pr: bool = False,
) -> RunPlan:
    """Resolve a run; without `phases`, of all that the playbook has.

    Raises:
        UsageError: a phase that the playbook does not have.
    """
    playbook, variants = expand(loaded.playbook)
    known = [phase.id for phase in playbook.phases]
    unknown = [number for number in phases or () if number not in known]
    if unknown:
        raise UsageError(
            f"{loaded.path} has no phase {unknown[0]}",
            remedy=f"its phases: {', '.join(map(str, known))}",
        )
    profile = playbook.profiles.get(loaded.profile) if loaded.profile else None
    return RunPlan(
        run_id=run_id,
        created_at=now(),
        version=__version__,
        argv=list(argv),
        playbook=playbook,
        playbook_path=str(loaded.path),
        playbook_sha256=loaded.sha256,
        profile=loaded.profile,
        profile_description=profile.description if profile else None,
        phases=known if phases is None else list(phases),
        pod=pod,
        source=SourceRecord(
            root=str(source.root),
            sha=source.sha,
            dirty=source.dirty,
            fingerprint=source.fingerprint,
        ),
        variants=variants,
        pr=pr,
    )


@dataclass(frozen=True)
class PlannedStep:
    """A step and what it would do."""

    phase: Phase
    step: Step
    actions: list[Action]


def actions(plan: RunPlan) -> Iterator[PlannedStep]:
    """What the run would do, without a pod."""
    for phase in plan.playbook.phases:
        if phase.id in plan.phases:
            for step in phase.steps:
                done = kind_of(step).plan(step, plan.playbook, plan.pod)
                yield PlannedStep(phase, step, done)


CONDITIONS = {
    When.ALWAYS: "when the phases before it pass",
    When.UNDERPERFORMANCE: "when a gate of phase 1 or 2 is FAIL or INVALID, or it is KEEP_OFF",
    When.DECIDED: "when the decision is ENABLE or KEEP_OFF",
}
"""Conditions in words."""

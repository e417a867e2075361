"""Single reruns: which run the other phases are taken from, and whether that still holds."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.engine.inherited import SOURCE
from orchestrator.errors import StoreError, UsageError
from orchestrator.models.playbook import SyncStep, When
from orchestrator.models.run import Inheritance, PhaseJudgement, RunPlan
from orchestrator.models.verdict import Reason
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

_POD_IDENTITY = ("name", "host", "port", "user", "workdir", "venv", "gpu")


def inherit(
    plan: RunPlan, manifest: Mapping[str, str], runs_dir: Path, named: str | None
) -> Inheritance | None:
    """Choose the run that the earlier phases are taken from.

    The newest one with equal playbook, pod and source; else the newest that has the phases, with
    what differs; None when there is none or nothing is missing. `named` overrides the choice.

    Raises:
        StoreError: `named` does not exist.
    """
    missing = [p.id for p in plan.playbook.phases if p.id not in plan.phases]
    needed = [number for number in missing if number < max(plan.phases)]
    if not needed:
        if named is not None:
            raise UsageError(
                f"--from {named}: there is nothing to inherit, every phase is run anew",
                remedy="name fewer phases, for example --phase 2",
            )
        return None
    if named is not None:
        return _from(runs.find(runs_dir, named), plan, manifest, needed)
    fallback: Inheritance | None = None
    required = {p.id for p in plan.playbook.phases if p.id in needed and p.when is When.ALWAYS}
    for paths in reversed(runs.all_runs(runs_dir)):
        try:
            if not _offers(paths, plan.playbook.name, required):
                continue
            found = _from(paths, plan, manifest, needed)
        except StoreError:
            continue  # damaged or from another version: no reason to refuse this run
        if not found.differences:
            return found
        fallback = fallback or found
    return fallback


def refuse_foreign_changes(plan: RunPlan) -> None:
    """Fixes may touch only what the playbook allows.

    Raises:
        UsageError: a changed file lies outside `allow_paths` of a sync step that is to run.
    """
    if plan.inherits is None:
        return
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if phase.id not in plan.phases or not isinstance(step, SyncStep):
                continue
            foreign = [f for f in plan.inherits.changed_files if not _allowed(f, step.allow_paths)]
            if step.allow_paths and foreign:
                shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
                raise UsageError(
                    f"phase {phase.id} may change only {', '.join(step.allow_paths)}; since run "
                    f"{plan.inherits.run_id} these changed too: {shown}",
                    remedy="take them back, or run everything anew: orchestrate run --phase 0-5",
                )


def _allowed(file: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


_UNFIT = {
    Reason.NOT_RUN,
    Reason.INHERITED_DIFFERS,
    Reason.POD_ERROR,
    Reason.UNREACHABLE,
    Reason.JOB_LOST,
    Reason.ENVIRONMENT,
}
"""What keeps a phase from being inherited: nothing was learned in it."""


def _offers(paths: RunPaths, playbook: str, required: set[int]) -> bool:
    """Whether the run went through all that is needed, or skipped it because of a red gate."""
    judgement = runs.read_judgement(paths)
    if judgement is None or runs.read_plan(paths).playbook.name != playbook:
        return False
    fit = {phase.id for phase in judgement.phases if _fit(phase)}
    return required <= fit


def _fit(phase: PhaseJudgement) -> bool:
    if phase.verdict is None:
        return phase.skipped != "not asked for"
    gates = [gate for step in phase.steps for gate in step.gates]
    return not any(gate.reason in _UNFIT for gate in gates if gate.gate != "decision")


def _from(
    paths: RunPaths, plan: RunPlan, manifest: Mapping[str, str], needed: list[int]
) -> Inheritance:
    other = runs.read_plan(paths)
    # Past runs that only passed everything on, so that reruns do not pile up into a chain.
    while (
        other.inherits is not None
        and not set(needed) & set(other.phases)
        and set(needed) <= set(other.inherits.phases)
        and not other.inherits.differences
    ):
        paths = RunPaths(Path(other.inherits.path))
        other = runs.read_plan(paths)
    differences = []
    if (other.playbook, other.profile) != (plan.playbook, plan.profile):
        differences.append("playbook")
    if any(getattr(other.pod, name) != getattr(plan.pod, name) for name in _POD_IDENTITY):
        differences.append("pod")
    changed: list[str] = []
    if other.source.fingerprint != plan.source.fingerprint:
        differences.append(SOURCE)
        before = runs.read_manifest(paths)
        changed = sorted(
            path for path in {*before, *manifest} if before.get(path) != manifest.get(path)
        )
    return Inheritance(
        run_id=other.run_id,
        path=str(paths.root),
        phases=needed,
        differences=differences,
        changed_files=changed,
    )

"""The end of every run, and all of `orchestrate report`: judge, publish, render."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.engine.judge import judge
from orchestrator.models.run import Judgement, RunPlan
from orchestrator.reporting import REPORT, render_report
from orchestrator.store import runs
from orchestrator.store.events import EventLog
from orchestrator.store.files import atomic_write
from orchestrator.store.paths import RunPaths


def conclude(
    paths: RunPaths,
    events: EventLog | None = None,
    *,
    template: Path | None = None,
    landing: bool = False,
) -> tuple[Judgement, Path]:
    """Judge the run directory, write the judgement, render the report."""
    judgement = judge(paths, landing=landing)
    runs.write(paths.judgement, judgement)
    for phase in judgement.phases:
        for step in phase.steps if phase.inherited is None else ():
            attempt = paths.attempt(phase.id, step.step, step.attempt)
            if attempt.root.is_dir():
                runs.write(attempt.verdict, step)
    _publish(paths, runs.read_plan(paths), judgement)
    report = render_report(paths, judgement, template)
    atomic_write(paths.deliverable(REPORT), report.read_bytes())
    if events is not None:
        events.append("report.written", path=str(report))
    return judgement, report


def _publish(paths: RunPaths, plan: RunPlan, judgement: Judgement) -> None:
    """Copy the deliverables that the decision rests on to the top of the run directory."""
    for name in plan.playbook.deliverables:
        found = None if name == REPORT else _source(paths, plan, judgement, name)
        if found is not None:
            target = paths.deliverable(name)
            temporary = target.with_name(f".{target.name}.new")
            shutil.copyfile(found, temporary)
            temporary.replace(target)


def _source(paths: RunPaths, plan: RunPlan, judgement: Judgement, name: str) -> Path | None:
    """The adopted variant's file, else the run's own, else that of the run it inherits from."""
    of_variants = {step for variant in plan.variants for step in variant.step_ids}
    adopted = next((v.step_ids for v in plan.variants if v.id == judgement.adopted), [])
    for wanted in (set(adopted), None):
        for phase in plan.playbook.phases:
            for step in phase.steps:
                if step.id not in wanted if wanted is not None else step.id in of_variants:
                    continue
                result = runs.read_result(paths, phase.id, step.id)
                if result and name in {artifact.path for artifact in result.artifacts}:
                    return paths.attempt(phase.id, step.id, result.attempt).artifacts / name
    if plan.inherits is not None and not plan.inherits.differences:
        inherited = RunPaths(Path(plan.inherits.path)).deliverable(name)
        return inherited if inherited.is_file() else None
    return None

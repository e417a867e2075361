"""Reads a run directory, and nothing else, into what a report can say."""

from __future__ import annotations

import shlex

from orchestrator.models.run import Judgement
from orchestrator.reporting import outcome, sections
from orchestrator.reporting.artifacts import gather
from orchestrator.reporting.comparison import compare, flags
from orchestrator.reporting.records import Totals
from orchestrator.reporting.views import GateLine, Report
from orchestrator.store import runs
from orchestrator.store.events import read_events
from orchestrator.store.paths import RunPaths


def build(paths: RunPaths, judgement: Judgement) -> Report:
    """Read the run directory into a report.

    Raises:
        StoreError: `run.json` is missing or damaged; everything else may be.
    """
    plan = runs.read_plan(paths)
    evidence = gather(paths, plan)
    events = list(read_events(paths.events))
    gates = tuple(
        GateLine(phase.id, step.step, gate)
        for phase in judgement.phases
        for step in phase.steps
        for gate in step.gates
    )
    decision = judgement.decision
    obstacles = decision.obstacles if decision and decision.obstacles else judgement.reasons
    symptoms = tuple(outcome.symptoms(gates))
    issues = tuple(sections.issues(evidence))
    tests = tuple(file for file in evidence.tests if file.origin.variant is None)
    totals = Totals.of(tests)
    comparison = compare(plan, judgement, evidence)
    adopted = comparison.adopted.parity if comparison and comparison.adopted else None
    landed = outcome.landing(plan, judgement, evidence)
    land_step = outcome.land_step(plan)
    return Report(
        title=plan.playbook.title,
        headline=outcome.headline(plan, judgement),
        verdict=judgement.verdict.value,
        exit_code=outcome.exit_code(judgement, events),
        duration_s=sum(result.duration_s for result in evidence.results.values()),
        decision=decision,
        flags=flags(decision.environment) if decision else (),
        why=outcome.why(plan, judgement),
        obstacles=tuple(dict.fromkeys(obstacles)),
        next_steps=tuple(dict.fromkeys(outcome.next_steps(plan, judgement, gates, landed))),
        summary=outcome.summary(
            issues,
            symptoms,
            (totals, adopted),
            landed,
            decision,
            land_step.config_file if land_step else None,
        ),
        landing=landed,
        inherits=plan.inherits,
        tests=tests,
        totals=totals,
        benches=tuple(bench for bench in evidence.benches if bench.origin.variant is None),
        diagnostics=tuple(evidence.diagnostics),
        symptoms=symptoms,
        comparison=comparison,
        issues=issues,
        gates=gates,
        waived=tuple(line for line in gates if line.result.waiver),
        phases=tuple(sections.phases(plan, judgement, evidence)),
        environment=sections.environment(plan, evidence),
        not_run=tuple(sections.not_run(plan, judgement, evidence, events)),
        deviations=tuple(sections.deviations(plan, evidence)),
        incidents=tuple(sections.incidents(events)),
        rerun=shlex.join(plan.argv),
        commands=tuple(sections.commands(plan, evidence)),
        provenance=sections.provenance(plan, evidence),
    )

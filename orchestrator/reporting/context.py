"""Reads a run directory, and nothing else, into what a report can say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from orchestrator.models.command import Command
from orchestrator.models.playbook import JobStep, Step, SyncStep
from orchestrator.models.run import Judgement, PhaseJudgement, RunPlan, StepResult
from orchestrator.models.verdict import Outcome, Reason, Verdict
from orchestrator.reporting.artifacts import Evidence, gather
from orchestrator.reporting.markdown import Markdown, code, codes
from orchestrator.reporting.views import (
    ArtifactLine,
    CommandLine,
    Environment,
    GateLine,
    PhaseLine,
    Provenance,
    Report,
    ResourceLine,
)
from orchestrator.store import runs
from orchestrator.store.events import Event, read_events
from orchestrator.store.paths import RunPaths

_OUT = "${out}"
_INCIDENTS = (
    "error",
    "retry",
    "lost",
    "unreachable",
    "reconnect",
    "resum",
    "detach",
    "cancel",
    "interrupt",
)
_INCIDENT_STATES = ("UNREACHABLE", "LOST", "CANCELLED")
_MAX_INCIDENTS = 30

_REASON_STEPS = {
    Reason.NO_CUDA_DEVICE: Markdown(
        "Run the same playbook on a pod with an NVIDIA GPU: "
        "`orchestrate run --phase 0-5 --pod user@host:port`"
    ),
}


def build(paths: RunPaths, judgement: Judgement) -> Report:
    """Read the run directory into a report.

    Raises:
        StoreError: `run.json` is missing or damaged; everything else may be.
    """
    plan = runs.read_plan(paths)
    evidence = gather(paths, plan)
    gates = tuple(
        GateLine(phase.id, step.step, gate)
        for phase in judgement.phases
        for step in phase.steps
        for gate in step.gates
    )
    decision = judgement.decision
    obstacles = decision.obstacles if decision and decision.obstacles else judgement.reasons
    return Report(
        title=plan.playbook.title,
        headline=str(decision) if decision else "No decision",
        verdict=judgement.verdict.value,
        exit_code=int(judgement.verdict.exit_code),
        duration_s=sum(result.duration_s for result in evidence.results.values()),
        decision=decision,
        why=_why(judgement),
        obstacles=tuple(dict.fromkeys(obstacles)),
        next_steps=tuple(dict.fromkeys(_next_steps(judgement, gates))),
        tests=tuple(evidence.tests),
        benches=tuple(evidence.benches),
        issues=tuple(_issues(evidence)),
        gates=gates,
        phases=tuple(_phases(plan, judgement, evidence)),
        environment=_environment(plan, evidence),
        not_run=tuple(_not_run(plan, judgement, evidence)),
        deviations=tuple(_deviations(plan, evidence)),
        incidents=tuple(_incidents(paths)),
        rerun=shlex.join(plan.argv),
        commands=tuple(_commands(plan, evidence)),
        provenance=_provenance(plan, evidence),
    )


def _why(judgement: Judgement) -> str:
    """One sentence under the headline."""
    if judgement.decision:
        summary = judgement.decision.summary
        if summary.startswith(judgement.decision.outcome.value):
            # The headline says it already.
            summary = summary.partition(": ")[2] or summary
        return summary[:1].upper() + summary[1:]
    if judgement.reasons:
        return f"No decision was made. {judgement.reasons[0].message}"
    return "No decision was asked for."


def _next_steps(judgement: Judgement, gates: tuple[GateLine, ...]) -> Iterator[str]:
    decision = judgement.decision
    if decision and decision.outcome is Outcome.ENABLE:
        yield Markdown(
            f"Set `runtime.sel_triton_min_L` to {decision.min_L} and open a pull request."
        )
    elif decision and decision.outcome is Outcome.KEEP_OFF:
        yield Markdown(
            f"Keep Triton off: `runtime.sel_triton_min_L` stays at {decision.min_L} or above."
        )
    for line in gates:
        result = line.result
        # The decision's own gate repeats its first obstacle, which stands above these steps.
        if result.verdict is not Verdict.PASS and result.next_step and result.gate != "decision":
            yield result.next_step
    causes = (*(decision.obstacles if decision else ()), *judgement.reasons)
    for cause in causes:
        if cause.reason in _REASON_STEPS:
            yield _REASON_STEPS[cause.reason]


def _issues(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for file in evidence.tests:
        for name, message in file.failures:
            yield name, message or "failed without a message"
    for result in evidence.results.values():
        for resource in result.resources:
            if resource.action == "failed":
                optional = "optional, " if resource.optional else ""
                yield (
                    resource.id,
                    f"resource failed ({optional}{resource.resource}): {resource.detail}",
                )
        if result.error:
            yield result.step, result.error
        if result.job and result.job.state.final and str(result.job) != "succeeded":
            hint = f" ({result.job.hint})" if result.job.hint else ""
            yield result.step, f"job ended: {result.job}{hint}"
        refused = result.details.get("refused")
        if isinstance(refused, list):
            for line in refused:
                yield result.step, f"artifact refused: {line}"
    for bench in evidence.benches:
        if bench.problem:
            yield bench.file, bench.problem
        for row in bench.rows:
            if not row.ok:
                yield f"{bench.file}, L={row.L}", row.status or ""
    for problem in evidence.problems:
        yield "evidence", problem


def _phases(plan: RunPlan, judgement: Judgement, evidence: Evidence) -> Iterator[PhaseLine]:
    judged = {phase.id: phase for phase in judgement.phases}
    for phase in plan.playbook.phases:
        results = [evidence.results[step.id] for step in phase.steps if step.id in evidence.results]
        took = sum(result.duration_s for result in results) if results else None
        known = judged.get(phase.id)
        if known is None or known.verdict is None:
            note = _skipped(phase.id, plan, known)
            yield PhaseLine(phase.id, phase.title, "skipped", note, None)
            continue
        bad = [step.step for step in known.steps if step.verdict is not Verdict.PASS]
        note = f"not PASS: {', '.join(bad)}" if bad else _sum(len(known.steps), "step")
        yield PhaseLine(phase.id, phase.title, known.verdict.value, note, took)


def _skipped(phase: int, plan: RunPlan, known: PhaseJudgement | None) -> str:
    if known is not None and known.skipped:
        return known.skipped
    if phase not in plan.phases:
        return f"not asked for (--phase {','.join(str(number) for number in plan.phases)})"
    return "the run ended before it"


def _sum(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _not_run(plan: RunPlan, judgement: Judgement, evidence: Evidence) -> Iterator[tuple[str, str]]:
    judged = {phase.id: phase for phase in judgement.phases}
    for phase in plan.playbook.phases:
        known = judged.get(phase.id)
        if known is None or known.verdict is None:
            yield f"Phase {phase.id}, {phase.title}", _skipped(phase.id, plan, known)
            continue
        for step in phase.steps:
            if step.id not in evidence.results:
                yield f"Step {step.id} of phase {phase.id}", _step_skipped(step, plan)
    for file in evidence.tests:
        if file.skipped:
            yield f"{_sum(file.skipped, 'test')} of {file.file}", "skipped; not counted as passed"
    for result in evidence.results.values():
        for resource in result.resources:
            if resource.action == "skipped":
                yield f"Resource {resource.id}", resource.detail or "skipped"


def _step_skipped(step: Step, plan: RunPlan) -> str:
    if step.profiles is not None and plan.profile not in step.profiles:
        return f"only in profile {', '.join(step.profiles)}"
    return "the phase ended before it"


def _environment(plan: RunPlan, evidence: Evidence) -> Environment:
    pod = plan.pod
    return Environment(
        profile=plan.profile,
        profile_description=plan.profile_description,
        pod=pod.name,
        address=pod.address,
        workdir=pod.workdir,
        venv=pod.venv_path,
        expected_gpu=pod.gpu,
        embedded=pod.embedded,
        facts=evidence.facts,
        resources=tuple(
            ResourceLine(result.step, outcome)
            for result in evidence.results.values()
            for outcome in result.resources
        ),
    )


def _deviations(plan: RunPlan, evidence: Evidence) -> Iterator[str]:
    """Where the run differs from the source document, as far as the plan shows it."""
    asked = [phase for phase in plan.playbook.phases if phase.id in plan.phases]
    steps = [step for phase in asked for step in phase.steps]
    if any(isinstance(step, SyncStep) for step in steps):
        yield Markdown(
            "The document clones the repository on the pod; the run pushed the local tree instead "
            "(`sync`), so that what was measured is the source fingerprint below."
        )
    if any(isinstance(step, JobStep) and "NSA_TEST_TRITON_SEL" in step.env for step in steps):
        yield Markdown(
            "The document's first parity command skips every test and exits 0; the run sets "
            "`NSA_TEST_TRITON_SEL=1` and counts only tests that ran."
        )
    if any(step.action == "decide" for step in steps):
        yield (
            "The document picks the smallest L at or above the margin; the rule here also asks "
            "for it at every longer tested length, in dense and varlen alike, and for correct "
            "results."
        )
    if plan.profile is not None:
        profile = plan.playbook.profiles.get(plan.profile)
        if profile and profile.variables:
            values = ", ".join(f"{name}={value}" for name, value in profile.variables.items())
            yield Markdown(f"Profile {code(plan.profile)} sets {code(values)}.")
    failed = [
        outcome.id
        for result in evidence.results.values()
        for outcome in result.resources
        if outcome.optional and outcome.action == "failed"
    ]
    if failed:
        yield Markdown(
            f"Optional, as {code('|| true')} is in the document, and failed: {codes(failed)}."
        )


def _incidents(paths: RunPaths) -> Iterator[tuple[str, str]]:
    seen = 0
    for event in read_events(paths.events):
        if _is_incident(event):
            seen += 1
            if seen <= _MAX_INCIDENTS:
                data = ", ".join(f"{name}={value}" for name, value in event.data.items())
                yield str(event.at), f"{event.name}: {data}" if data else str(event.name)
    if seen > _MAX_INCIDENTS:
        yield "", f"and {seen - _MAX_INCIDENTS} more in events.jsonl"


def _is_incident(event: Event) -> bool:
    name = str(event.name).lower()
    return any(word in name for word in _INCIDENTS) or event.data.get("state") in _INCIDENT_STATES


def _commands(plan: RunPlan, evidence: Evidence) -> Iterator[CommandLine]:
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if isinstance(step, JobStep):
                result: StepResult | None = evidence.results.get(step.id)
                line = (result and result.command) or _planned(step, plan)
                yield CommandLine(step.title or step.id, line, ran=result is not None)


def _planned(step: JobStep, plan: RunPlan) -> str:
    """The command of a job that did not run, with its output in the current directory."""
    env = {**plan.playbook.environment, **step.env}
    command = Command(
        tuple(word.replace(_OUT, ".") for word in step.command),
        env={name: value.replace(_OUT, ".") for name, value in env.items()},
        cwd=plan.pod.workdir,
    )
    return command.shell()


def _provenance(plan: RunPlan, evidence: Evidence) -> Provenance:
    return Provenance(
        run_id=plan.run_id,
        created_at=plan.created_at,
        version=plan.version,
        sha=plan.source.sha,
        dirty=plan.source.dirty,
        fingerprint=plan.source.fingerprint,
        playbook=plan.playbook_path,
        playbook_sha256=plan.playbook_sha256,
        artifacts=tuple(
            ArtifactLine(result.step, artifact.path, artifact.size, artifact.sha256)
            for result in evidence.results.values()
            for artifact in result.artifacts
        ),
    )

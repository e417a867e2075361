"""The plainer sections of a report: phases, what did not run, environment, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.models.command import Command
from orchestrator.models.playbook import JobStep, Phase, Step, SyncStep
from orchestrator.models.run import Judgement, PhaseJudgement, RunPlan, StepResult
from orchestrator.models.verdict import Verdict
from orchestrator.reporting.markdown import Markdown, code, codes
from orchestrator.reporting.records import Evidence, Origin
from orchestrator.reporting.views import (
    ArtifactLine,
    CommandLine,
    Environment,
    PhaseLine,
    Provenance,
    ResourceLine,
)
from orchestrator.store.events import Event

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
_SKIPPED = "step.skipped"
NOT_ASKED = "not asked for"


def issues(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Where, and what went wrong."""
    for file in evidence.tests:
        for name, message in file.failures:
            yield _of(file.origin, name), message or "failed without a message"
    for result in evidence.results.values():
        yield from _of_step(result)
    for bench in evidence.benches:
        if bench.problem:
            yield _of(bench.origin, bench.file), bench.problem
        for row in bench.rows:
            if not row.ok:
                yield f"{_of(bench.origin, bench.file)}, L={row.L}", row.status or ""
    for problem in evidence.problems:
        yield "evidence", problem


def _of(origin: Origin, name: str) -> str:
    """The name, with the variant where there is one: its files are called as those before."""
    return name if origin.variant is None else f"{origin.variant}: {name}"


def _of_step(result: StepResult) -> Iterator[tuple[str, str]]:
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


def phases(plan: RunPlan, judgement: Judgement, evidence: Evidence) -> Iterator[PhaseLine]:
    """Every phase of the playbook: its verdict, or why there is none."""
    judged = {phase.id: phase for phase in judgement.phases}
    for phase in plan.playbook.phases:
        results = [evidence.results[step.id] for step in phase.steps if step.id in evidence.results]
        took = sum(result.duration_s for result in results) if results else None
        known = judged.get(phase.id)
        if known is None or known.verdict is None:
            note = _skipped(phase.id, plan, known)
            yield PhaseLine(phase.id, phase.title, "skipped", note, None)
        else:
            yield PhaseLine(phase.id, phase.title, known.verdict.value, _note(known), took)


def _note(phase: PhaseJudgement) -> str:
    bad = [step.step for step in phase.steps if step.verdict is not Verdict.PASS]
    notes = [f"not PASS: {', '.join(bad)}" if bad else _sum(len(phase.steps), "step")]
    if phase.inherited:
        notes.insert(0, f"inherited from run {phase.inherited}")
    if phase.superseded:
        notes.append(f"variant {phase.superseded} takes its place")
    return "; ".join(notes)


def _skipped(phase: int, plan: RunPlan, known: PhaseJudgement | None) -> str:
    if _unasked(phase, plan):
        return NOT_ASKED
    if known is not None and known.skipped:
        return known.skipped
    return "the run ended before it"


def _unasked(phase: int, plan: RunPlan) -> bool:
    inherited = plan.inherits.phases if plan.inherits else []
    return phase not in plan.phases and phase not in inherited


def _sum(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def not_run(
    plan: RunPlan, judgement: Judgement, evidence: Evidence, events: Sequence[Event]
) -> Iterator[tuple[str, str]]:
    """What, and why not. Phases that nobody asked for share a line."""
    judged = {phase.id: phase for phase in judgement.phases}
    unasked = [phase.id for phase in plan.playbook.phases if _unasked(phase.id, plan)]
    if unasked:
        noun = "Phase" if len(unasked) == 1 else "Phases"
        yield f"{noun} {numbers(unasked)}", f"{NOT_ASKED} (--phase {numbers(plan.phases)})"
    why = {str(e.data.get("step")): str(e.data.get("why")) for e in events if e.name == _SKIPPED}
    for phase in plan.playbook.phases:
        known = judged.get(phase.id)
        if phase.id in unasked:
            continue
        if known is None or known.verdict is None:
            yield f"Phase {phase.id}, {phase.title}", _skipped(phase.id, plan, known)
        else:
            yield from _steps_not_run(phase, plan, evidence, why)
    for file in evidence.tests:
        if file.skipped:
            name = _of(file.origin, file.file)
            yield f"{_sum(file.skipped, 'test')} of {name}", "skipped; not counted as passed"
    for result in evidence.results.values():
        for resource in result.resources:
            if resource.action == "skipped":
                yield f"Resource {resource.id}", resource.detail or "skipped"


def _steps_not_run(
    phase: Phase, plan: RunPlan, evidence: Evidence, why: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Steps without a result; those of one variant, skipped for one reason, share a line."""
    missing = {step.id: step for step in phase.steps if evidence.result(step.id) is None}
    for variant in plan.variants:
        ids = [step for step in variant.step_ids if step in missing]
        reasons = {why.get(step) for step in ids}
        if ids and ids == variant.step_ids and len(reasons) == 1 and None not in reasons:
            yield f"Variant {variant.id}", why[ids[0]]
            missing = {name: step for name, step in missing.items() if name not in ids}
    for name, step in missing.items():
        yield f"Step {name} of phase {phase.id}", why.get(name) or _step_skipped(step, plan)


def numbers(values: Iterable[int]) -> str:
    """`0-2,5`: runs of whole numbers, as `--phase` takes them."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def _step_skipped(step: Step, plan: RunPlan) -> str:
    if step.profiles is not None and plan.profile not in step.profiles:
        return f"only in profile {', '.join(step.profiles)}"
    return "the phase ended before it"


def environment(plan: RunPlan, evidence: Evidence) -> Environment:
    """Where the run happened."""
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


def deviations(plan: RunPlan, evidence: Evidence) -> Iterator[str]:
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


def incidents(events: Iterable[Event]) -> Iterator[tuple[str, str]]:
    """When, and what happened to the connection or the jobs."""
    seen = 0
    for event in events:
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


def commands(plan: RunPlan, evidence: Evidence) -> Iterator[CommandLine]:
    """Each job as one shell line."""
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if isinstance(step, JobStep):
                result: StepResult | None = evidence.result(step.id)
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


def provenance(plan: RunPlan, evidence: Evidence) -> Provenance:
    """What was run, to the byte."""
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

"""A run after its controller: going on, explaining, cancelling, fetching again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.engine.conclude import conclude
from orchestrator.engine.execute import Finished, Ports, next_attempt, resume_run
from orchestrator.engine.prepare import secrets_of
from orchestrator.engine.step_gates import TELEMETRY
from orchestrator.errors import UsageError
from orchestrator.jobs.collect import collect
from orchestrator.jobs.follow import follow
from orchestrator.jobs.job import Manifest
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.playbook import JobStep, Phase, Step
from orchestrator.models.run import Artifact, RunPlan, StepResult
from orchestrator.steps.base import ABSENT
from orchestrator.store import runs
from orchestrator.store.events import EventLog, read_events
from orchestrator.store.jobs import unfinished_jobs
from orchestrator.store.lock import is_written, writing
from orchestrator.store.paths import AttemptPaths, RunPaths
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.source import describe


@dataclass(frozen=True)
class StepState:
    """What `resume` would do with a step, and why."""

    phase: int
    step: str
    does: str
    """reuse | go on | run | skip"""
    why: str


def explain(paths: RunPaths) -> list[StepState]:
    """For each step of the phases asked for: what `resume` would do. Offline."""
    plan = runs.read_plan(paths)
    skipped = _skipped(paths)
    return [
        _state(paths, phase, step, skipped)
        for phase in plan.playbook.phases
        if phase.id in plan.phases
        for step in phase.steps
    ]


def _state(paths: RunPaths, phase: Phase, step: Step, skipped: dict[object, str]) -> StepState:
    why = skipped.get(step.id) or skipped.get(phase.id)
    if why is not None:
        return StepState(phase.id, step.id, "skip", why)
    done = runs.read_result(paths, phase.id, step.id)
    if done is not None and done.error is None:
        return StepState(phase.id, step.id, "reuse", f"attempt {done.attempt} has its result")
    if done is not None:
        return StepState(phase.id, step.id, "run", f"attempt {done.attempt} ended in: {done.error}")
    attempt = next_attempt(paths, phase, step)
    if attempt in paths.attempts(phase.id, step.id):
        return StepState(phase.id, step.id, "go on", f"attempt {attempt} began and has no result")
    return StepState(phase.id, step.id, "run", "it has not begun")


def _skipped(paths: RunPaths) -> dict[object, str]:
    found: dict[object, str] = {}
    for event in read_events(paths.events):
        if event.name == "phase.skipped":
            found[event.data["phase"]] = str(event.data["why"])
        elif event.name == "step.skipped":
            found[str(event.data["step"])] = str(event.data["why"])
        elif event.name in ("run.resumed", "phase.started"):
            found.pop(event.data.get("phase"), None)
    return found


def resume(paths: RunPaths, ports: Ports) -> Finished:
    """Go on with a run from wherever it died.

    Raises:
        UsageError: the repository is not what it was when the run began.
        StoreError: another process is at it.
    """
    plan = runs.read_plan(paths)
    if any(state.does in ("run", "go on") for state in explain(paths)):
        _require_same_source(plan)
    return resume_run(paths, replace(ports, secrets=secrets_of(plan)))


def _require_same_source(plan: RunPlan) -> None:
    now = describe(Path(plan.source.root)).fingerprint
    if now != plan.source.fingerprint:
        raise UsageError(
            f"{plan.source.root} has changed since run {plan.run_id} began, and what is left of it "
            "would measure something else",
            remedy="take the change back, or start a new run: it inherits what still holds",
        )


@contextmanager
def _launcher(plan: RunPlan, ports: Ports) -> Iterator[tuple[SshLauncher, Connection]]:
    if plan.pod.embedded:
        server = embedded_pod(Path(plan.pod.workdir), Path(plan.pod.venv_path), plan.pod.python)
        with server as pod, Connection(pod, host_keys=ports.host_keys) as connection:
            yield SshLauncher(connection, pod), connection
        return
    with Connection(plan.pod, host_keys=ports.host_keys) as connection:
        yield SshLauncher(connection, plan.pod), connection


def cancel(paths: RunPaths, ports: Ports) -> list[str]:
    """End the run's jobs: TERM to their groups, then KILL; then fetch what there is. Their ids.

    Works beside a controller that follows a job: that one sees it end, and fetches. Of a job that
    has not got to the pod yet, the pod is told not to start it.
    """
    plan = runs.read_plan(paths)
    jobs = unfinished_jobs(paths)
    if not jobs:
        return []
    events = EventLog(paths.events, ports.listeners)
    with _launcher(plan, ports) as (launcher, _connection):
        for job in jobs:
            events.append("job.cancelling", job=job)
            launcher.cancel(job)
            status = launcher.status(job)
            outcome = None if status.state == ABSENT else status.outcome(job)
            if outcome is not None:
                events.append("job.state", job=job, state=outcome.state.value, outcome=str(outcome))
    if not is_written(paths):
        with suppress(UsageError):  # a secret is not at hand; the job is over all the same
            fetch(paths, ports)
    return jobs


def fetch(paths: RunPaths, ports: Ports) -> list[Artifact]:
    """Pull logs and artifacts of every job again, without running anything; then judge.

    What is here already with the right checksum is not pulled again. What the pod has is taken for
    a job's own only if it is what the attempt's result says, where there is one; else that is said.

    Raises:
        UsageError: a secret of the playbook is not set, so that nobody could tell where it is.
        StoreError: another process is at it.
    """
    plan = runs.read_plan(paths)
    secrets = secrets_of(plan)
    events = EventLog(paths.events, ports.listeners)
    fetched: list[Artifact] = []
    with writing(paths), _launcher(plan, ports) as (launcher, connection):
        for phase, step, attempt in _job_attempts(plan, paths):
            job_id = f"{plan.run_id}.{phase.id}.{step.id}.{attempt}"
            place = paths.attempt(phase.id, step.id, attempt)
            status = launcher.status(job_id)
            if status.state == ABSENT:
                message = f"{plan.pod.name} has no job {job_id} any more: nothing to fetch of it"
                events.append("fetch.skipped", job=job_id, message=message)
                continue
            if status.outcome(job_id) is None or not status.started:
                continue  # it still runs: attach follows it; or it never did
            follow(launcher, job_id, place.log, ports.on_log)
            manifest, differing = _as_recorded(launcher.manifest(job_id), place)
            for name in differing:
                message = f"{name} of job {job_id} is not on the pod what it was when it was pulled"
                events.append("fetch.skipped", job=job_id, message=message)
            found = collect(
                launcher,
                connection,
                job_id,
                place.artifacts,
                lambda _artifact: None,
                manifest,
                secrets,
            )
            fetched += found.artifacts
            events.append("job.fetched", job=job_id, artifacts=[a.path for a in found.artifacts])
        conclude(paths, events)
    return fetched


def _as_recorded(manifest: Manifest, place: AttemptPaths) -> tuple[Manifest, list[str]]:
    """What of the pod's files is what the attempt's result says; the names of what is not."""
    if not place.result.exists():
        return manifest, []
    result = runs.read(place.result, StepResult)
    if result.error is not None:
        return manifest, []  # it was not collected, and decides nothing
    known = {artifact.path: artifact.sha256 for artifact in result.artifacts}
    offered = [*manifest.files, *([manifest.telemetry] if manifest.telemetry else [])]
    same = {file.path for file in offered if known.get(file.path) == file.sha256}
    kept = {
        "files": [file for file in manifest.files if file.path in same],
        "telemetry": manifest.telemetry if TELEMETRY in same else None,
    }
    return manifest.model_copy(update=kept), sorted(known.keys() - same)


def _job_attempts(plan: RunPlan, paths: RunPaths) -> Iterator[tuple[Phase, Step, int]]:
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if isinstance(step, JobStep):
                for attempt in paths.attempts(phase.id, step.id):
                    yield phase, step, attempt

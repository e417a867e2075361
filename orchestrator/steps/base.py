"""What every step gets, and the two things it can do: say what it would do, and do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from orchestrator.errors import ConnectionLost, Detached, InfraError, OrchestrateError
from orchestrator.jobs.follow import Ended, run
from orchestrator.jobs.job import BUSY, Holder, JobSpec, JobStatus, Manifest
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command, Secret
from orchestrator.models.playbook import Playbook, StepBase
from orchestrator.models.pod import Pod
from orchestrator.models.run import JobOutcome, JobState, Judgement, StepResult
from orchestrator.store.events import EventLog, now
from orchestrator.store.jobs import known_jobs
from orchestrator.store.paths import AttemptPaths, RunPaths
from orchestrator.transport.connection import Connection

ABSENT = "ABSENT"
"""What the pod says of a job that it does not know."""

StepT = TypeVar("StepT", bound=StepBase, contravariant=True)


@dataclass(frozen=True)
class Session:
    """The run's open connection and everything a step may use."""

    run_id: str
    paths: RunPaths
    playbook: Playbook
    pod: Pod
    root: str
    connection: Connection
    launcher: SshLauncher
    events: EventLog
    on_log: Callable[[bytes], None]
    conclude: Callable[[], tuple[Judgement, Path]]
    """Judges what there is so far and renders the report of it."""
    pr: bool = False
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    fingerprint: str = ""
    """Of the source that the run is about."""
    wait_for_device: bool = True
    """Where another job has the pod's device: wait, or give up."""


@dataclass(frozen=True)
class Attempt:
    """One try of one step."""

    phase: int
    step: str
    number: int
    title: str
    action: str
    paths: AttemptPaths

    def job_id(self, run_id: str, part: str = "") -> str:
        """Deterministic, so that a second submission meets the first."""
        return ".".join(filter(None, (run_id, str(self.phase), self.step, part, str(self.number))))


@dataclass(frozen=True)
class Action:
    """One line of a plan: what would be done, and the command that does it."""

    text: str
    command: Command | None = None


class StepKind(Protocol[StepT]):
    """A kind of step. `plan` is pure and needs no pod; `apply` does it."""

    def plan(self, step: StepT, playbook: Playbook, pod: Pod) -> list[Action]:
        """What applying would do."""

    def apply(self, step: StepT, session: Session, attempt: Attempt) -> StepResult:
        """Do it.

        Raises:
            InfraError: the machine or the network is in the way.
            ConnectionLost: the link broke.
        """


class Stopwatch:
    """When an attempt began and how long it took."""

    def __init__(self) -> None:
        self.started_at = now()
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return round(time.monotonic() - self._start, 3)


def result(attempt: Attempt, watch: Stopwatch, **fields: Any) -> StepResult:
    """The attempt's result, with everything that is the same for all kinds."""
    return StepResult(
        phase=attempt.phase,
        step=attempt.step,
        attempt=attempt.number,
        action=attempt.action,
        title=attempt.title,
        started_at=watch.started_at,
        duration_s=watch.seconds,
        **fields,
    )


def run_job(
    session: Session, spec: JobSpec, log: Path, before: Callable[[], str | None] = lambda: None
) -> Ended:
    """Submit a job and follow it to its end; each transition is an event before it is acted on.

    `before` is called where the job is yet to be begun; what it returns is noted with the
    submission. A job that has begun and is not on the pod any more is LOST, never begun again.

    Raises:
        InfraError: it was not started: the device is taken and the run does not wait for it.
        ConnectionLost: the link broke; the job goes on.
        KeyboardInterrupt: Ctrl-C; the job goes on, save on the embedded pod, which ends with the
            run: there it is cancelled.
    """
    job = spec.job_id
    known = known_jobs(session.paths).get(job)
    there = known is not None and session.launcher.status(job).state != ABSENT
    if known is not None and known.started and not there:
        return _vanished(session, job)
    said = _Said(session.events, job)
    source = known.source if known is not None and there else before()
    command = str(spec.command)
    session.events.append("job.submitting", job=job, command=command, source=source)
    try:
        ended = run(session.launcher, spec, log, on_status=said.hear, sink=session.on_log)
    except ConnectionLost:
        session.events.append("job.state", job=job, state=JobState.UNREACHABLE.value)
        raise
    except OrchestrateError:
        raise
    except BaseException:
        if session.pod.embedded:  # it ends with the run, whatever ends the run
            session.launcher.cancel(job)
            session.events.append("job.cancelling", job=job)
        raise
    outcome = ended.outcome
    session.events.append("job.state", job=job, state=outcome.state.value, outcome=str(outcome))
    if outcome.reason == BUSY:
        raise InfraError(
            f"{session.pod.name}: {outcome.hint}; nothing was started",
            remedy="run it again when the device is free, or without --no-wait",
        )
    return ended


def _vanished(session: Session, job: str) -> Ended:
    hint = (
        f"{session.launcher.directory(job)} is gone from the pod, which was emptied or replaced; "
        "should the command still run there, nobody hears of it"
    )
    outcome = JobOutcome(job_id=job, state=JobState.LOST, hint=hint)
    session.events.append("job.state", job=job, state=outcome.state.value, outcome=str(outcome))
    return Ended(outcome, Manifest(files=[]), log_bytes=0, log_pulled=0)


def detached(session: Session, job: str) -> Detached:
    """Note that nobody follows the job any more; the error that says how to go on."""
    session.events.append("job.detached", job=job)
    return Detached(
        f"detached: job {job} goes on on {session.pod.name}", remedy=how_to_go_on(session.run_id)
    )


def how_to_go_on(run_id: str) -> str:
    """The commands for a job that is left running."""
    return f"go on: orchestrate attach {run_id}\n  end it: orchestrate cancel {run_id}"


class _Said:
    """Turns what the pod says of a submission into events, each once."""

    def __init__(self, events: EventLog, job: str) -> None:
        self._events, self._job = events, job
        self._holder: Holder | None = None
        self._created = self._started = False

    def hear(self, status: JobStatus) -> None:
        """The job waits for another one, or was started."""
        self._created = self._created or status.created
        if status.state == JobState.SUBMITTED.value:
            holder = status.waiting_for
            if holder is not None and (not self._holder or holder.job_id != self._holder.job_id):
                self._events.append("job.waiting", job=self._job, holder=holder.model_dump())
                self._holder = holder
        elif status.started and not self._started:
            state = JobState.RUNNING.value
            self._events.append("job.state", job=self._job, state=state, created=self._created)
            self._started = True

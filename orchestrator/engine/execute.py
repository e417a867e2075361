"""Executing a plan. The run reads as `STAGES`; whatever happens, it is judged and rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.engine.conclude import conclude
from orchestrator.engine.conditions import why_skip, why_skip_step
from orchestrator.engine.inherited import SOURCE
from orchestrator.engine.judge import judge
from orchestrator.engine.prepare import Prepared
from orchestrator.engine.reconnect import Reconnector
from orchestrator.errors import (
    ConnectError,
    ConnectionLost,
    ExitCode,
    InfraError,
    LandingError,
    OrchestrateError,
)
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.facts import FACTS_SCRIPT, DeviceFacts, Facts, parse_system
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command, Secret
from orchestrator.models.playbook import JobStep, LandStep, Phase, Step, SyncStep, When
from orchestrator.models.run import Judgement, RunPlan, StepJudgement, StepResult
from orchestrator.models.verdict import Reason, Verdict
from orchestrator.steps.base import Attempt, Session, Stopwatch, detached, how_to_go_on, result
from orchestrator.steps.kinds import kind_of
from orchestrator.steps.source import bring
from orchestrator.store import runs
from orchestrator.store.events import EventLog, Listener
from orchestrator.store.jobs import unfinished_jobs
from orchestrator.store.lock import writing
from orchestrator.store.paths import RunPaths
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.hostkeys import HostKeys

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ports:
    """What a run needs from outside."""

    host_keys: HostKeys
    listeners: tuple[Listener, ...] = ()
    on_log: Callable[[bytes], None] = lambda _data: None
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    reconnect_for_s: float = 600.0
    wait_for_device: bool = True


@dataclass(frozen=True)
class Run:
    """A run on its way through the stages."""

    plan: RunPlan
    paths: RunPaths
    events: EventLog
    ports: Ports
    stack: ExitStack
    session: Session | None = None
    link: Reconnector | None = None

    def until_done(self, action: Callable[[], _T]) -> _T:
        """Do what may be repeated; a lost link is got back, and it is done again."""
        assert self.link is not None, "connect comes first"  # noqa: S101
        return self.link.until_done(action)

    @property
    def connected(self) -> Session:
        """The session, which `connect` has opened."""
        assert self.session is not None, "connect comes first"  # noqa: S101
        return self.session

    @property
    def steps(self) -> list[tuple[Phase, Step]]:
        """Every step of the phases asked for."""
        phases = [p for p in self.plan.playbook.phases if p.id in self.plan.phases]
        return [(phase, step) for phase in phases for step in phase.steps]


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    judgement: Judgement
    report: Path
    exit_code: ExitCode
    error: OrchestrateError | None = None


def execute(prepared: Prepared, runs_dir: Path, ports: Ports) -> Finished:
    """Run the plan to its end and judge what it left.

    An error of ours ends the stages, not the judging: what was measured before it still counts for
    what it is. KeyboardInterrupt passes through, after the report.
    """
    plan = prepared.plan
    paths = runs.create(runs_dir, plan, prepared.diff, prepared.manifest)
    events = EventLog(paths.events, ports.listeners)
    with writing(paths):
        events.append(
            "run.created",
            run=plan.run_id,
            directory=str(paths.root),
            pod=plan.pod.name,
            plan_sha256=hashlib.sha256(paths.plan.read_bytes()).hexdigest(),
        )
        if plan.inherits is not None:
            events.append("run.inherits", **plan.inherits.model_dump())
        return _to_the_end(plan, paths, events, ports)


def resume_run(paths: RunPaths, ports: Ports) -> Finished:
    """Go on with a run from wherever it died: what has a result is not done again.

    A job that was started is found on the pod by its id, and followed from the byte where the log
    here stops; it is never started twice.

    Raises:
        StoreError: another process is at it.
    """
    plan = runs.read_plan(paths)
    events = EventLog(paths.events, ports.listeners)
    with writing(paths):
        events.append("run.resumed", run=plan.run_id, directory=str(paths.root), pod=plan.pod.name)
        return _to_the_end(plan, paths, events, ports)


def _to_the_end(plan: RunPlan, paths: RunPaths, events: EventLog, ports: Ports) -> Finished:
    error: OrchestrateError | None = None
    try:
        with ExitStack() as stack:
            run = Run(plan, paths, events, ports, stack)
            for stage in STAGES:
                run = stage(run)
    except OrchestrateError as stopped:
        error = stopped
        events.append("run.error", reason=_reason(stopped).value, message=stopped.message)
    except OSError as stopped:  # our own files; those of the network are mapped at the border
        where = f" ({stopped.filename})" if stopped.filename else ""
        raise InfraError(
            f"run {plan.run_id} cannot be written here: {stopped.strerror}{where}",
            remedy="free space, or mend the folder, then: orchestrate resume",
        ) from stopped
    except (KeyboardInterrupt, SystemExit):
        # not the machine's doing: what was not run is not verified
        events.append("run.error", reason=Reason.NOT_RUN.value, message="interrupted")
        conclude(paths, events)
        raise
    judgement, report = conclude(paths, events)
    exit_code = judgement.verdict.exit_code if error is None else error.exit_code
    events.append("run.finished", verdict=judgement.verdict.value, exit_code=int(exit_code))
    return Finished(judgement, report, exit_code, error)


def _reason(error: OrchestrateError) -> Reason:
    if isinstance(error, LandingError):
        return Reason.NOT_LANDED
    return Reason.UNREACHABLE if isinstance(error, ConnectionLost) else Reason.POD_ERROR


# --- stages ---------------------------------------------------------------------------------------


def connect(run: Run) -> Run:
    """Start the embedded pod if that is the one, then open the connection."""
    pod = run.plan.pod
    if pod.embedded:
        server = embedded_pod(Path(pod.workdir), Path(pod.venv_path), pod.python)
        pod = run.stack.enter_context(server)
    run.events.append("connecting", pod=pod.name, address=pod.address)
    connection = run.stack.enter_context(Connection(pod, host_keys=run.ports.host_keys))
    session = Session(
        run_id=run.plan.run_id,
        paths=run.paths,
        playbook=run.plan.playbook,
        pod=pod,
        root=run.plan.source.root,
        connection=connection,
        launcher=SshLauncher(connection, pod),
        events=run.events,
        on_log=run.ports.on_log,
        conclude=lambda: conclude(run.paths, landing=True),
        pr=run.plan.pr,
        secrets=run.ports.secrets,
        fingerprint=run.plan.source.fingerprint,
        wait_for_device=run.ports.wait_for_device,
    )
    link = Reconnector(connection, run.events, run.ports.reconnect_for_s)
    return replace(run, session=session, link=link)


def gather_facts(run: Run) -> Run:
    """What the pod is, before anything is changed on it."""
    session = run.connected
    command = Command(("sh", "-s", "--", session.pod.workdir, session.pod.python))
    answer = run.until_done(lambda: session.connection.run(command, stdin=FACTS_SCRIPT.encode()))
    try:
        system = parse_system(answer.stdout)
    except EvidenceError as error:
        raise InfraError(
            f"{session.pod.name}: cannot tell what this machine is: {error}",
            remedy="the pod needs a POSIX shell and coreutils",
        ) from None
    runs.write(run.paths.facts, Facts(system=system))
    gpus = [gpu.name for gpu in system.gpus]
    run.events.append("facts", os=system.os, cpus=system.cpus, gpus=list(gpus))
    return run


def sync_alone(run: Run) -> Run:
    """Push when jobs are to run and no sync step is: what is measured must be what lies here."""
    kinds = {type(step) for _, step in run.steps}
    every = [step for phase in run.plan.playbook.phases for step in phase.steps]
    declared = next((step for step in every if isinstance(step, SyncStep)), None)
    if JobStep in kinds and SyncStep not in kinds and declared is not None:
        run.until_done(lambda: bring(run.connected, declared))
    return run


def execute_phases(run: Run) -> Run:
    """Phase by phase; a phase that does not run says why."""
    for phase in run.plan.playbook.phases:
        if phase.id not in run.plan.phases:
            continue
        # Whether a fix is called for is judged by the run before the fix.
        ignoring = {SOURCE} if phase.when is When.UNDERPERFORMANCE else set()
        why = why_skip(phase, run.plan.phases, judge(run.paths, ignoring=ignoring))
        if why is not None:
            run.events.append("phase.skipped", phase=phase.id, name=phase.name, why=why)
            continue
        run.events.append("phase.started", phase=phase.id, name=phase.name, title=phase.title)
        for step in phase.steps:
            if not _execute_step(run, phase, step):
                break
        judged = next(p for p in judge(run.paths).phases if p.id == phase.id)
        verdict = judged.verdict.value if judged.verdict else None
        run.events.append("phase.judged", phase=phase.id, name=phase.name, verdict=verdict)
    return run


STAGES = (connect, gather_facts, sync_alone, execute_phases)
"""What happens on the way; judging and rendering follow whatever happens."""


def _execute_step(run: Run, phase: Phase, step: Step) -> bool:
    """Run one step as a new attempt; False when the phase cannot go on."""
    why = why_skip_step(step, run.plan, judge(run.paths))
    if why is not None:
        run.events.append("step.skipped", phase=phase.id, step=step.id, why=why)
        return True
    done = runs.read_result(run.paths, phase.id, step.id)
    if done is not None and done.error is None:
        run.events.append("step.reused", phase=phase.id, step=step.id, attempt=done.attempt)
        return _verdict_of(run, phase, step).verdict is not Verdict.INFRA
    number = next_attempt(run.paths, phase, step)
    attempt = Attempt(
        phase.id,
        step.id,
        number,
        step.title or step.id,
        step.action,
        run.paths.attempt(phase.id, step.id, number),
    )
    run.events.append(
        "step.started", phase=phase.id, step=step.id, attempt=number, title=attempt.title
    )
    attempt.paths.root.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()
    try:
        outcome = run.until_done(lambda: kind_of(step).apply(step, run.connected, attempt))
    except ConnectionLost:
        raise  # no result: the step is not over, and may be resumed
    except InfraError as error:
        job = _left_running(run, attempt)
        if job is not None:
            how = how_to_go_on(run.plan.run_id)
            error.remedy = f"{error.remedy}\n  {how}" if error.remedy else how
        if job is not None or isinstance(error, ConnectError):
            raise  # as above: whatever we are told, the job may run, and must not be begun again
        outcome = result(attempt, watch, error=error.message)
        run.events.append("step.error", phase=phase.id, step=step.id, message=str(error))
    except (KeyboardInterrupt, SystemExit) as interrupt:
        job = _left_running(run, attempt)
        if job is None or run.connected.pod.embedded:
            raise
        raise detached(run.connected, job) from interrupt
    runs.write(attempt.paths.result, outcome)
    _keep_device(run, outcome)
    step_judged = _verdict_of(run, phase, step)
    for gate in step_judged.gates:
        run.events.append(
            "gate", step=step.id, gate=gate.gate, verdict=gate.verdict.value, message=gate.message
        )
    if isinstance(step, LandStep) and outcome.error is not None:
        raise LandingError(outcome.error)
    return step_judged.verdict is not Verdict.INFRA


def _left_running(run: Run, attempt: Attempt) -> str | None:
    """The attempt's job that was submitted and has not been seen to end."""
    first, last = attempt.job_id(run.plan.run_id).rsplit(".", 1)
    jobs = reversed(unfinished_jobs(run.paths))
    return next((j for j in jobs if j.startswith(f"{first}.") and j.endswith(f".{last}")), None)


def next_attempt(paths: RunPaths, phase: Phase, step: Step) -> int:
    """The attempt to go on with: one that has no result yet, else a new one."""
    number = max(paths.attempts(phase.id, step.id), default=0)
    unfinished = number and not paths.attempt(phase.id, step.id, number).result.exists()
    return number if unfinished else number + 1


def _verdict_of(run: Run, phase: Phase, step: Step) -> StepJudgement:
    judged = judge(run.paths)
    return next(s for p in judged.phases if p.id == phase.id for s in p.steps if s.step == step.id)


def _keep_device(run: Run, outcome: StepResult) -> None:
    """Add what a provision step learned of the device to the facts."""
    device = outcome.details.get("device")
    if isinstance(device, dict) and device:
        facts = runs.read(run.paths.facts, Facts)
        update = {"device": DeviceFacts.model_validate(device)}
        runs.write(run.paths.facts, facts.model_copy(update=update))

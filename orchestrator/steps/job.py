"""`job`: run a command on the pod, pull what it leaves."""

from __future__ import annotations

from orchestrator.config.variables import bind
from orchestrator.jobs.collect import collect
from orchestrator.jobs.follow import Ended
from orchestrator.jobs.job import JobSpec
from orchestrator.models.command import Command
from orchestrator.models.playbook import JobStep, Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import Artifact, JobState, StepResult
from orchestrator.steps import source
from orchestrator.steps.base import Action, Attempt, Session, Stopwatch, result, run_job
from orchestrator.store.jobs import known_jobs


def command_of(step: JobStep, playbook: Playbook, pod: Pod, out: str) -> Command:
    """The step's command with the playbook's environment and its output directory filled in."""
    env = {**playbook.environment, **step.env}
    late = {"out": out}
    return Command(
        tuple(bind(word, late) for word in step.command),
        env={name: bind(value, late) for name, value in env.items()},
        cwd=pod.workdir,
    )


class Job:
    """Detached from the connection; judged by what it leaves, never by its log."""

    def plan(self, step: JobStep, playbook: Playbook, pod: Pod) -> list[Action]:
        """The command, with its output in the current directory: a line a person can paste."""
        command = command_of(step, playbook, pod, out=".")
        pulls = f", then pull {', '.join(step.artifacts)}" if step.artifacts else ""
        return [Action(f"run{pulls}", command)]

    def apply(self, step: JobStep, session: Session, attempt: Attempt) -> StepResult:
        """Submit, follow, collect."""
        watch = Stopwatch()
        job_id = attempt.job_id(session.run_id)
        playbook, pod = session.playbook, session.pod
        spec = JobSpec(
            job_id,
            command_of(step, playbook, pod, session.launcher.output(job_id)),
            timeout_s=step.timeout,
            secrets=session.secrets,
            min_free_bytes=step.min_free,
            lock=session.launcher.device_lock() if step.exclusive else None,
            lock_wait=session.wait_for_device,
        )
        ended = run_job(session, spec, attempt.paths.log, lambda: source.ensure(session))
        if replaced := self._replaced(session, job_id, ended):
            shown = str(command_of(step, playbook, pod, out="."))
            return result(attempt, watch, command=shown, job=ended.outcome, error=replaced)

        def pulled(artifact: Artifact) -> None:
            session.events.append("artifact.pulled", job=job_id, **artifact.model_dump())

        artifacts, refused, quarantined = collect(
            session.launcher,
            session.connection,
            job_id,
            attempt.paths.artifacts,
            pulled,
            ended.manifest,
            session.secrets,
        )
        for line in quarantined:
            session.events.append("artifact.quarantined", job=job_id, why=line)
        if ended.log_pulled < ended.log_bytes:
            refused.append(
                f"the log after its first {ended.log_pulled} bytes; all {ended.log_bytes} are in "
                f"{session.launcher.directory(job_id)}/log on the pod"
            )
        return result(
            attempt,
            watch,
            command=str(command_of(step, playbook, pod, out=".")),
            job=ended.outcome,
            artifacts=artifacts,
            details={
                name: list(lines)
                for name, lines in (("refused", refused), ("quarantined", quarantined))
                if lines
            },
        )

    def _replaced(self, session: Session, job_id: str, ended: Ended) -> str | None:
        """What is wrong where the job may have run on files that are not the run's."""
        begun_with = known_jobs(session.paths)[job_id].source
        if begun_with is None or ended.outcome.state is JobState.LOST:
            return None
        if source.mark(session) == begun_with:
            return None
        return (
            f"the repository on the pod, {session.pod.workdir}, was replaced while this job ran: "
            "nobody can tell which code it measured"
        )

"""What the event log says of the jobs of a run."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.models.run import JobState
from orchestrator.store.events import read_events
from orchestrator.store.paths import RunPaths


@dataclass
class KnownJob:
    """A job that was submitted, or was about to be when its controller died."""

    source: str | None = None
    """The mark that the pod's workdir bore when it was submitted."""
    started: bool = False
    """Whether the pod has ever said that it runs, or ran."""
    over: bool = False


def known_jobs(paths: RunPaths) -> dict[str, KnownJob]:
    """Every job of the run by its id, in the order of submission.

    The log has several writers, `cancel` beside a controller: what says that a job runs holds
    against an end that was noted before it.
    """
    jobs: dict[str, KnownJob] = {}
    for event in read_events(paths.events):
        name = str(event.data.get("job"))
        if event.name == "job.submitting":
            job = jobs.setdefault(name, KnownJob())
            source = event.data.get("source")
            job.source = str(source) if source is not None else None
        elif event.name == "job.state" and name in jobs:
            state = JobState(str(event.data["state"]))
            if state is JobState.RUNNING or state.final:
                # cancelled or given up before it began, or not: it must not be begun any more
                jobs[name].started, jobs[name].over = True, state.final
    return jobs


def unfinished_jobs(paths: RunPaths) -> list[str]:
    """Ids of the jobs that were submitted and have not been seen to end."""
    return [name for name, job in known_jobs(paths).items() if not job.over]

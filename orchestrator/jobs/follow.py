"""Following a job to its end, with its log on this side growing byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.jobs.job import Holder, JobSpec, JobStatus
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.run import JobOutcome, JobState

Sink = Callable[[bytes], None]
_WAIT_S = 0.5


def start(launcher: SshLauncher, spec: JobSpec, on_wait: Callable[[Holder], None]) -> JobStatus:
    """Submit the job and wait for its device with it, until it was started or never will be.

    The status says whether this call created the job. `on_wait` hears of each job that has the
    device meanwhile.

    Raises:
        ConnectionLost: the link broke; call again.
    """
    created = False
    while True:
        status = launcher.submit(spec)
        created = created or status.created
        told: Holder | None = None
        while status.waiting_for is not None:
            if told is None or told.job_id != status.waiting_for.job_id:
                told = status.waiting_for
                on_wait(told)
            time.sleep(_WAIT_S)
            status = launcher.status(spec.job_id)
        if status.state != JobState.SUBMITTED.value:
            return status.model_copy(update={"created": created})
        # What waited on the pod is gone, and started nothing: submit the job again.


def follow(launcher: SshLauncher, job_id: str, log: Path, sink: Sink) -> JobOutcome:
    """Append the job's output to `log`, from the byte where it stops, until the job has ended.

    `sink` sees the same bytes. The local file's length is the offset, so no byte is lost or
    doubled however often this is called.

    Raises:
        ConnectionLost: the link broke; call again.
    """
    with log.open("ab", buffering=0) as file:

        def write(data: bytes) -> None:
            file.write(data)
            sink(data)

        while True:
            launcher.follow(job_id, file.tell(), write)
            status = launcher.status(job_id)
            outcome = status.outcome(job_id)
            if outcome is not None and file.tell() >= status.log_bytes:
                return outcome

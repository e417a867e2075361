"""Running a job to its end, with its log on this side growing byte for byte."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InfraError
from orchestrator.jobs.disk import naming_what_fills
from orchestrator.jobs.job import JobSpec, JobStatus, Manifest
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.run import JobOutcome

Sink = Callable[[bytes], None]

LOG_LIMIT = 1 << 30
"""Most bytes of a log that are pulled; the pod keeps all of it. It is not trusted with our disk."""
_TRIES, _PAUSE_S = 5, 0.5


@dataclass(frozen=True)
class Ended:
    """A job that is over, and what it left."""

    outcome: JobOutcome
    manifest: Manifest
    log_bytes: int
    """of the whole log, on the pod"""
    log_pulled: int
    """of it on this side; fewer only where the log is longer than what is pulled of any"""


def run(
    launcher: SshLauncher,
    spec: JobSpec,
    log: Path,
    *,
    on_status: Callable[[JobStatus], None],
    sink: Sink,
    log_limit: int = LOG_LIMIT,
) -> Ended:
    """Submit the job unless that was done, and append its output to `log` until it has ended.

    The local file's length is the offset, so no byte is lost or doubled however often this is
    called. `sink` sees the same bytes. `on_status` hears what became of the submission, which other
    job has the device while this one waits, and how it ended.

    Raises:
        ConnectionLost: the link broke; call again.
        InfraError: the job cannot be started, or nobody on the pod says what becomes of it.
    """
    with _appending(log, sink) as (file, write):
        for _ in range(_TRIES):
            status, manifest = launcher.run(
                spec, file.tell(), log_limit=log_limit, on_status=on_status, sink=write
            )
            outcome = status.outcome(spec.job_id) if status is not None else None
            if status is None or outcome is None or manifest is None:
                time.sleep(_PAUSE_S)  # who followed it there was killed; the job has its own life
            elif file.tell() >= min(status.log_bytes, log_limit):
                return Ended(outcome, manifest, status.log_bytes, file.tell())
    raise InfraError(
        f"job {spec.job_id}: its log cannot be followed to the end",
        remedy=f"look at {launcher.directory(spec.job_id)} on the pod",
    )


def follow(launcher: SshLauncher, job_id: str, log: Path, sink: Sink) -> JobOutcome:
    """As `run`, for a job that was submitted before, and whose secrets nobody has at hand.

    Raises:
        ConnectionLost: the link broke; call again.
    """
    with _appending(log, sink) as (file, write):
        while True:
            launcher.follow(job_id, file.tell(), write, log_limit=LOG_LIMIT)
            status = launcher.status(job_id)
            outcome = status.outcome(job_id)
            if outcome is not None and file.tell() >= min(status.log_bytes, LOG_LIMIT):
                return outcome


@contextmanager
def _appending(log: Path, sink: Sink) -> Iterator[tuple[io.FileIO, Sink]]:
    with log.open("ab", buffering=0) as file:

        def write(data: bytes) -> None:
            with naming_what_fills(log):
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            sink(data)

        yield file, write

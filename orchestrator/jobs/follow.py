"""Following a job to its end, with its log on this side growing byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.run import JobOutcome

Sink = Callable[[bytes], None]


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

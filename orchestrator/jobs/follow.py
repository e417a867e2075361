"""Running a job to its end, with its log on this side growing byte for byte."""

from __future__ import annotations

import hashlib
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
_CHUNK = 1 << 20


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
        InfraError: the job cannot be started, nobody on the pod says what becomes of it, or the log
            is not what the command wrote.
    """
    with _appending(log, sink, log_limit) as (file, write):
        for _ in range(_TRIES):
            status, manifest = launcher.run(
                spec, file.tell(), log_limit=log_limit, on_status=on_status, sink=write
            )
            outcome = status.outcome(spec.job_id) if status is not None else None
            if status is None or outcome is None or manifest is None:
                time.sleep(_PAUSE_S)  # who followed it there was killed; the job has its own life
            elif file.tell() >= min(status.log_bytes, log_limit):
                break
        else:
            raise _no_end(launcher, spec.job_id)
    size = _verified(launcher, spec.job_id, status, log, log_limit)
    return Ended(outcome, manifest, status.log_bytes, size)


def follow(
    launcher: SshLauncher, job_id: str, log: Path, sink: Sink, *, log_limit: int = LOG_LIMIT
) -> JobOutcome:
    """As `run`, for a job that was submitted before, and whose secrets nobody has at hand.

    Raises:
        ConnectionLost: the link broke; call again.
        InfraError: nobody on the pod says what becomes of it, or the log is not what it was.
    """
    with _appending(log, sink, log_limit) as (file, write):
        tries = 0
        while tries < _TRIES:
            before = file.tell()
            launcher.follow(job_id, before, write, log_limit=log_limit)
            status = launcher.status(job_id)
            outcome = status.outcome(job_id)
            if outcome is not None and file.tell() >= min(status.log_bytes, log_limit):
                break
            tries = tries + 1 if file.tell() == before else 0
            time.sleep(_PAUSE_S)
        else:
            raise _no_end(launcher, job_id)
    _verified(launcher, job_id, status, log, log_limit)
    return outcome


def _no_end(launcher: SshLauncher, job_id: str) -> InfraError:
    return InfraError(
        f"job {job_id}: its log cannot be followed to the end",
        remedy=f"look at {launcher.directory(job_id)} on the pod",
    )


def _verified(
    launcher: SshLauncher, job_id: str, status: JobStatus, log: Path, log_limit: int
) -> int:
    """Compare the log with what the pod's supervisor wrote; return its size.

    One that was damaged here is pulled again. What nobody has a checksum of stays as it is, as does
    what is longer than the limit.

    Raises:
        InfraError: it is not the pod's doing, nor ours, that makes it another.
    """
    result = status.result
    size = log.stat().st_size
    if result is None or result.log_sha256 is None or result.log_bytes > log_limit:
        return size
    if size == result.log_bytes and _sha256(log) == result.log_sha256:
        return size
    again = log.with_name(f".{log.name}.again")
    again.unlink(missing_ok=True)
    with _appending(again, lambda _data: None, log_limit) as (_, write):
        launcher.follow(job_id, 0, write, log_limit=log_limit)
    if _sha256(again) != result.log_sha256:
        again.unlink()
        raise InfraError(
            f"job {job_id}: its log on the pod is not what the command wrote: the checksum differs",
            remedy=f"see what else writes to {launcher.directory(job_id)}/log there",
        )
    again.replace(log)
    return log.stat().st_size


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for data in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _appending(log: Path, sink: Sink, limit: int) -> Iterator[tuple[io.FileIO, Sink]]:
    """Open a log to append to, up to `limit` bytes of it in all, whoever sends more."""
    with log.open("ab", buffering=0) as file:

        def write(data: bytes) -> None:
            room = max(0, limit - file.tell())
            with naming_what_fills(log):
                left = memoryview(data)[:room]
                while left:
                    left = left[file.write(left) :]
            sink(data[:room])
            if len(data) > room:
                raise InfraError(
                    f"{log}: the pod sends more of it than the {limit} bytes that were asked for",
                    remedy="its agent is not ours; see what pod.python is there",
                )

        yield file, write

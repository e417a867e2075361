"""The calls: one verb, its operands, and what is written to standard output."""

from __future__ import annotations

import json
import sys
from typing import Any, Callable

from .directory import Job
from .following import Reader, copy_log
from .leftovers import leftovers
from .spec import VERSION, Refused, Spec
from .submission import cancel, submit

WAIT_S = 0.2  # between two looks at a job that waits for its device


def run(job: Job, offset: str, log_limit: str, max_bytes: str) -> None:
    """Submit the job, hand over its log, say how it ended and what it left.

    Ends early when nobody reads any more; the job goes on.
    """
    position, limit, largest = map(_number, (offset, log_limit, max_bytes))
    spec = _spec()
    reader = Reader()
    status = submit(job, spec)
    reader.say(status=status)
    while status["state"] == "SUBMITTED":
        if reader.leaves(WAIT_S):
            return
        now = job.status()
        if now["state"] == "SUBMITTED" and now["waiting_for"] is None:
            now = submit(job, spec)  # what waited for the device is gone, and has started nothing
        if any(now[key] != status[key] for key in ("state", "waiting_for")):
            reader.say(status=now)
        status = now
    if copy_log(job, position, limit, reader.frame, reader):
        reader.say(status=job.status())
        reader.say(manifest=leftovers(job, largest))


def follow(job: Job, offset: str, log_limit: str = "") -> None:
    """Copy the log to stdout from `offset` on, until it cannot grow any more."""
    position = _number(offset)
    limit = _number(log_limit) if log_limit else float("inf")
    _require_job(job)
    reader = Reader()
    copy_log(job, position, limit, reader.write, reader)


def manifest(job: Job, max_bytes: str = "") -> dict[str, Any]:
    """List what the job left."""
    limit = _number(max_bytes) if max_bytes else None
    _require_job(job)
    return leftovers(job, limit)


def version() -> dict[str, Any]:
    """Return the version of the interface and of the interpreter."""
    return {"version": VERSION, "python": sys.version.split()[0]}


def _submit(job: Job) -> dict[str, Any]:
    return submit(job, _spec())


def _spec() -> Spec:
    return Spec.parse(sys.stdin.buffer.read())


def _number(text: str) -> int:
    if not text.isdigit():
        raise Refused(f"not a number of bytes: {text}", 2)
    return int(text)


def _require_job(job: Job) -> None:
    if job.status()["state"] == "ABSENT":
        raise Refused(f"no job at {job.dir}")


VERBS: dict[str, tuple[Callable[..., dict[str, Any] | None], int, int]] = {
    "run": (run, 4, 4),  # least and most arguments
    "submit": (_submit, 1, 1),
    "status": (Job.status, 1, 1),
    "follow": (follow, 2, 3),
    "cancel": (cancel, 1, 1),
    "manifest": (manifest, 1, 2),
    "version": (version, 0, 0),
}


def main(arguments: list[str]) -> int:
    """Run one verb; return the exit code."""
    name, operands = "".join(arguments[:1]), arguments[1:]
    answers_to = sys.stderr if name == "follow" else sys.stdout
    exit_code = 0
    try:
        if name not in VERBS or not VERBS[name][1] <= len(operands) <= VERBS[name][2]:
            raise Refused(f"usage: agent {'|'.join(VERBS)} [JOBDIR ...]", 2)
        answer = VERBS[name][0](*map(Job, operands[:1]), *operands[1:])
    except BrokenPipeError:  # who asked has left
        return 0
    except Refused as error:
        answer, exit_code = {"error": str(error)}, error.exit_code
    except OSError as error:
        answer, exit_code = {"error": str(error)}, 3
    if answer is not None:
        answers_to.write(json.dumps(answer) + "\n")
    return exit_code

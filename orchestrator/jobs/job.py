"""A job as the controller describes it, and what the agent says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.models.command import Command, Secret
from orchestrator.models.run import JobOutcome, JobState

MIN_FREE_BYTES = 100 << 20


@dataclass(frozen=True)
class JobSpec:
    """What the agent is to run. The id makes submission idempotent: one id, one start."""

    job_id: str
    command: Command
    timeout_s: float | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    min_free_bytes: int = MIN_FREE_BYTES
    """Less room than this on the pod's disk, and the job is not started."""
    lock: str | None = None
    """File on the pod that stands for its device; the job has the device to itself."""
    lock_wait: bool = True
    """Wait where the device is taken; otherwise the job fails, for the reason `BUSY`."""

    def to_wire(self) -> bytes:
        """The agent's input. The only place where secrets are spelled out; goes to stdin."""
        spec = {
            "job_id": self.job_id,
            "argv": list(self.command.argv),
            "cwd": self.command.cwd,
            "env": dict(self.command.env),
            "timeout_s": self.timeout_s,
            "secrets": {name: secret.value for name, secret in self.secrets.items()},
            "min_free_bytes": self.min_free_bytes,
            "lock": self.lock,
            "lock_wait": self.lock_wait,
        }
        return json.dumps(spec).encode()


class _FromPod(BaseModel):
    """Read leniently: a later agent may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AgentResult(_FromPod):
    """`result.json` of a job directory."""

    state: JobState
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    duration_s: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int
    log_sha256: str | None = None
    hint: str | None = None


BUSY = "busy"
"""Reason of a job that was not started because its device is taken."""


class Holder(_FromPod):
    """Who has the device, by its own word, in a file that every user of the pod can write."""

    job_id: str | None = None
    pid: int | None = None
    user: str | None = None
    since: float | None = Field(default=None, description="seconds since 1970, by the pod's clock")


class JobStatus(_FromPod):
    """Answer to `status` and `submit`. ABSENT: the pod knows no such job."""

    state: str
    created: bool = Field(default=False, description="by the call to `submit` that this answers")
    waiting_for: Holder | None = Field(
        default=None, description="SUBMITTED, and to be started when this one leaves the device"
    )
    log_bytes: int = 0
    result: AgentResult | None = None

    @property
    def started(self) -> bool:
        """Whether the command was run, and not cancelled or given up before that."""
        return self.result is None or self.result.started_at is not None

    def outcome(self, job_id: str) -> JobOutcome | None:
        """How the job ended; None while it has not."""
        if self.result is not None:
            fields = self.result.model_dump(exclude={"log_bytes", "log_sha256", "started_at"})
            return JobOutcome(job_id=job_id, **fields)
        if self.state in (JobState.LOST.value, "ABSENT"):
            hint = "its process is gone and left no result: rebooted, or killed from outside"
            return JobOutcome(job_id=job_id, state=JobState.LOST, hint=hint)
        return None


class RemoteFile(_FromPod):
    """A regular file that the job left in its output directory."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class RefusedFile(_FromPod):
    """Something in the output directory that is not pulled."""

    path: str
    reason: str


class Manifest(_FromPod):
    """What a job left, by the pod's word."""

    files: list[RemoteFile]
    refused: list[RefusedFile] = []
    quarantined: list[RefusedFile] = Field(
        default=[], description="a secret is in it, found on the pod when the job ended"
    )
    telemetry: RemoteFile | None = Field(
        default=None, description="the agent's own, beside the output directory"
    )

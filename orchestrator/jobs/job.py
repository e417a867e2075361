"""A job as the controller describes it, and what the agent says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.models.command import Command, Secret
from orchestrator.models.run import JobOutcome, JobState


@dataclass(frozen=True)
class JobSpec:
    """What the agent is to run. The id makes submission idempotent: one id, one start."""

    job_id: str
    command: Command
    timeout_s: float | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def to_wire(self) -> bytes:
        """The agent's input. The only place where secrets are spelled out; goes to stdin."""
        spec = {
            "job_id": self.job_id,
            "argv": list(self.command.argv),
            "cwd": self.command.cwd,
            "env": dict(self.command.env),
            "timeout_s": self.timeout_s,
            "secrets": {name: secret.value for name, secret in self.secrets.items()},
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
    duration_s: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int
    log_sha256: str | None = None
    hint: str | None = None


class JobStatus(_FromPod):
    """Answer to `status`. ABSENT: the pod knows no such job."""

    state: str
    log_bytes: int = 0
    result: AgentResult | None = None

    def outcome(self, job_id: str) -> JobOutcome | None:
        """How the job ended; None while it has not."""
        if self.result is not None:
            fields = self.result.model_dump(exclude={"log_bytes", "log_sha256"})
            return JobOutcome(job_id=job_id, **fields)
        if self.state in (JobState.LOST.value, "ABSENT"):
            hint = "its process is gone and left no result: rebooted, or killed from outside"
            return JobOutcome(job_id=job_id, state=JobState.LOST, hint=hint)
        return None


class RemoteFile(_FromPod):
    """A regular file that the job left in its output directory."""

    path: str
    size: int = Field(ge=0)
    sha256: str


class RefusedFile(_FromPod):
    """Something in the output directory that is not pulled."""

    path: str
    reason: str


class Manifest(_FromPod):
    """Answer to `manifest`."""

    files: list[RemoteFile]
    refused: list[RefusedFile] = []

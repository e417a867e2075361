"""Records of a run: what was planned, what each step left, what it all amounts to."""

from __future__ import annotations

from enum import Enum

from pydantic import Field, JsonValue

from orchestrator.models.playbook import Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.verdict import Decision, GateResult, Obstacle, Record, Verdict

FORMAT = 1
"""Version of the run directory's layout."""


class SourceRecord(Record):
    """The repository that was synced."""

    root: str
    sha: str | None = Field(description="git commit, None outside a git repository")
    dirty: bool
    fingerprint: str = Field(description="SHA-256 over path, mode and content of every synced file")


class RunPlan(Record):
    """`run.json`: everything that was resolved before the run began."""

    format: int = FORMAT
    run_id: str
    created_at: str = Field(description="UTC, ISO 8601")
    version: str = Field(description="of orchestrate")
    argv: list[str] = Field(description="the command line, to repeat the run")
    playbook: Playbook = Field(description="resolved: variables filled in, profile merged")
    playbook_path: str
    playbook_sha256: str
    profile: str | None
    profile_description: str | None = None
    phases: list[int] = Field(description="phases asked for")
    pod: Pod
    source: SourceRecord


class JobState(str, Enum):
    """State of a job on the pod, from the agent's `result.json` first, its process second."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    UNREACHABLE = "UNREACHABLE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def final(self) -> bool:
        """Whether the job will not change any more."""
        return self in _FINAL


_FINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST}


class JobOutcome(Record):
    """How a job ended."""

    job_id: str
    state: JobState
    reason: str | None = Field(default=None, description="exit | signal | timeout | oom | disk")
    exit_code: int | None = None
    signal: int | None = None
    duration_s: float | None = None
    max_rss_bytes: int | None = None
    hint: str | None = None

    def __str__(self) -> str:
        if self.state is JobState.FAILED and self.reason == "exit":
            return f"exit {self.exit_code}"
        if self.state is JobState.FAILED:
            return self.reason or "failed"
        return str(self.state.value).lower()


class Artifact(Record):
    """A file pulled from the pod, relative to the attempt's `artifacts/`."""

    path: str
    size: int = Field(ge=0, description="bytes")
    sha256: str


class ResourceOutcome(Record):
    """What became of one resource of a provision step."""

    id: str
    resource: str
    action: str = Field(description="unchanged | applied | failed | skipped")
    optional: bool = False
    detail: str = ""
    duration_s: float = Field(ge=0)


class StepResult(Record):
    """`result.json` of an attempt: facts only; what they are worth is the verdict's business."""

    phase: int
    step: str
    attempt: int = Field(ge=1)
    action: str
    title: str
    started_at: str
    duration_s: float = Field(ge=0)
    command: str | None = Field(default=None, description="one shell line that repeats it")
    job: JobOutcome | None = None
    artifacts: list[Artifact] = Field(default_factory=list)
    resources: list[ResourceOutcome] = Field(default_factory=list)
    details: dict[str, JsonValue] = Field(default_factory=dict)
    error: str | None = Field(default=None, description="infrastructure error that ended the step")


class StepJudgement(Record):
    """`verdict.json` of an attempt."""

    phase: int
    step: str
    title: str
    attempt: int = Field(ge=1)
    verdict: Verdict
    gates: list[GateResult]


class PhaseJudgement(Record):
    """One phase: judged, or skipped with the reason."""

    id: int
    name: str
    title: str
    verdict: Verdict | None = Field(description="None when skipped")
    skipped: str | None = Field(default=None, description="why it did not run")
    steps: list[StepJudgement] = Field(default_factory=list)


class Judgement(Record):
    """What a run amounts to. A pure function of its directory."""

    run_id: str
    verdict: Verdict
    phases: list[PhaseJudgement]
    decision: Decision | None = Field(description="None when no decide step was asked for")
    reasons: list[Obstacle] = Field(
        default_factory=list, description="every distinct cause of a verdict other than PASS"
    )

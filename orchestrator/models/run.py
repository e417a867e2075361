"""Records of a run: what was planned, what each step left, what it all amounts to."""

from __future__ import annotations

from enum import Enum

from pydantic import Field, JsonValue

from orchestrator.models.playbook import Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.verdict import Decision, GateResult, Obstacle, Record, Verdict, Waiver

FORMAT = 1
"""Version of the run directory's layout."""


class SourceRecord(Record):
    """The repository that was synced."""

    root: str
    sha: str | None = Field(description="git commit, None outside a git repository")
    dirty: bool
    fingerprint: str = Field(description="SHA-256 over path, mode and content of every synced file")


class PlannedVariant(Record):
    """A variant after expansion: which steps of its phase are its own, by the phase repeated."""

    id: str
    title: str
    phase: int
    environment: dict[str, str] = Field(default_factory=dict)
    changed_code: bool = False
    steps: dict[int, list[str]] = Field(
        description="phase repeated -> step ids, `<variant>.<step>`"
    )

    @property
    def step_ids(self) -> list[str]:
        """All its steps, in order."""
        return [step for ids in self.steps.values() for step in ids]


class Inheritance(Record):
    """The run that the phases not asked for are taken from, by reference."""

    run_id: str
    path: str
    phases: list[int]
    differences: list[str] = Field(
        default_factory=list,
        description="what is not equal (playbook, pod, source); such phases are NOT_VERIFIED",
    )
    changed_files: list[str] = Field(default_factory=list, description="source files that differ")


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
    variants: list[PlannedVariant] = Field(default_factory=list)
    inherits: Inheritance | None = None
    pr: bool = Field(default=False, description="open a pull request when landing")
    waivers: list[Waiver] = Field(default_factory=list)


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
    reason: str | None = Field(
        default=None, description="exit | signal | timeout | oom | disk | busy"
    )
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


BEING_LANDED = "this report is part of what it lands"
"""Why the landing phase has no verdict in the report that it lands."""


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
    inherited: str | None = Field(default=None, description="run id that it was taken from")
    superseded: str | None = Field(
        default=None, description="variant whose evidence takes its place"
    )
    decision: Decision | None = Field(default=None, description="made by a step of this phase")
    steps: list[StepJudgement] = Field(default_factory=list)


class VariantJudgement(Record):
    """One variant of phase 4, judged like phases 1 and 2."""

    id: str
    title: str
    verdict: Verdict
    decision: Decision | None


class Judgement(Record):
    """What a run amounts to. A pure function of its directory."""

    run_id: str
    verdict: Verdict
    phases: list[PhaseJudgement]
    decision: Decision | None = Field(description="None when no decide step was asked for")
    decided_by: str | None = Field(default=None, description="run id in which it was made")
    variants: list[VariantJudgement] = Field(default_factory=list)
    adopted: str | None = Field(
        default=None, description="variant whose evidence takes the place of phases 1 to 3"
    )
    reasons: list[Obstacle] = Field(
        default_factory=list, description="every distinct cause of a verdict other than PASS"
    )

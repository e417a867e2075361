"""What a report can say. Templates see these values, as `report`.

They are plain data: no path, no open file, and no secret (a pod's key file is left out).
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.evidence.facts import Facts
from orchestrator.models.run import ResourceOutcome
from orchestrator.models.verdict import Decision, GateResult, Obstacle
from orchestrator.reporting.artifacts import BenchFamily, TestFile


@dataclass(frozen=True)
class GateLine:
    """A gate's verdict, and the step it judged."""

    phase: int
    step: str
    result: GateResult


@dataclass(frozen=True)
class PhaseLine:
    """A phase: its verdict, or why there is none."""

    id: int
    title: str
    verdict: str
    note: str
    duration_s: float | None


@dataclass(frozen=True)
class ResourceLine:
    """What became of a resource, in words that do not hide an optional failure."""

    step: str
    outcome: ResourceOutcome

    @property
    def result(self) -> str:
        """`failed (optional)` is reported, and did not stop the run."""
        optional = self.outcome.optional and self.outcome.action == "failed"
        return f"{self.outcome.action} (optional)" if optional else self.outcome.action


@dataclass(frozen=True)
class CommandLine:
    """A job's command as one shell line."""

    title: str
    line: str
    ran: bool


@dataclass(frozen=True)
class ArtifactLine:
    """A pulled file and its hash."""

    step: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Environment:
    """Where the run happened."""

    profile: str | None
    profile_description: str | None
    pod: str
    address: str
    workdir: str
    venv: str
    expected_gpu: str | None
    embedded: bool
    facts: Facts
    resources: tuple[ResourceLine, ...]


@dataclass(frozen=True)
class Provenance:
    """What was run, to the byte."""

    run_id: str
    created_at: str
    version: str
    sha: str | None
    dirty: bool
    fingerprint: str
    playbook: str
    playbook_sha256: str
    artifacts: tuple[ArtifactLine, ...]


@dataclass(frozen=True)
class Report:
    """Everything a template may use, as `report`."""

    title: str
    headline: str
    verdict: str
    exit_code: int
    duration_s: float
    decision: Decision | None
    why: str
    obstacles: tuple[Obstacle, ...]
    next_steps: tuple[str, ...]
    tests: tuple[TestFile, ...]
    benches: tuple[BenchFamily, ...]
    issues: tuple[tuple[str, str], ...]
    """Where, and what went wrong: tests, jobs, cells, steps, unreadable files."""
    gates: tuple[GateLine, ...]
    phases: tuple[PhaseLine, ...]
    environment: Environment
    not_run: tuple[tuple[str, str], ...]
    """What, and why not."""
    deviations: tuple[str, ...]
    incidents: tuple[tuple[str, str], ...]
    """When, and what happened to the connection or the jobs."""
    rerun: str
    commands: tuple[CommandLine, ...]
    provenance: Provenance

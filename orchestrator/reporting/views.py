"""What a report can say. Templates see these values, as `report`.

They are plain data: no path, no open file, and no secret (a pod's key file is left out).
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.evidence.facts import Facts
from orchestrator.models.run import Inheritance, ResourceOutcome
from orchestrator.models.verdict import Decision, GateResult, Obstacle, Verdict
from orchestrator.reporting.records import BenchFamily, DiagnosticsFile, TestFile, Totals


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
class Summary:
    """The source document's short summary, each a sentence in Markdown."""

    parity: str
    issues: str
    config: str


@dataclass(frozen=True)
class Symptom:
    """One of the source document's common issues, as the diagnostics show it."""

    step: str
    symptom: str
    where: str
    remedy: str


@dataclass(frozen=True)
class Cell:
    """One measured cell, before or after."""

    speedup: float | None
    low: float | None
    high: float | None
    mae: float | None
    status: str | None
    """What became of a cell that did not run; None for one that did."""


@dataclass(frozen=True)
class ComparedRow:
    """The same cell before, and with each variant; None where it was not measured."""

    family: str
    L: int
    before: Cell | None
    after: tuple[Cell | None, ...]


@dataclass(frozen=True)
class VariantLine:
    """A variant of phase 4: its flags, and what came of it."""

    id: str
    title: str
    environment: tuple[str, ...]
    """Its flags, as `NAME=value`."""
    verdict: Verdict | None
    """None when it did not run."""
    decision: Decision | None
    parity: Totals | None
    adopted: bool


@dataclass(frozen=True)
class Comparison:
    """Phases 1 and 2 before, and after each variant of phase 4."""

    before: str
    """What stands under "before"."""
    parity: Totals | None
    """Before; so are the next two."""
    verdict: Verdict | None
    decision: str | None
    variants: tuple[VariantLine, ...]
    columns: tuple[str, ...]
    """Variants that ran, in the order of a row's `after`."""
    rows: tuple[ComparedRow, ...]
    interpreted: bool
    """Whether any time is the interpreter's."""

    @property
    def adopted(self) -> VariantLine | None:
        """The variant whose evidence takes the place of what was there before."""
        return next((variant for variant in self.variants if variant.adopted), None)


@dataclass(frozen=True)
class Landing:
    """Where the decision was written."""

    branch: str | None
    commit: str | None
    pr_url: str | None
    diff: str | None
    """Of the config, unified."""
    files: tuple[str, ...]
    notes: tuple[str, ...]
    error: str | None
    now: bool = False
    """The report is part of what is being landed."""


@dataclass(frozen=True)
class Report:
    """Everything a template may use, as `report`."""

    title: str
    headline: str
    verdict: str
    exit_code: int
    duration_s: float
    decision: Decision | None
    flags: tuple[str, ...]
    """Flags that the decision needs in production too, as `NAME=value`."""
    why: str
    obstacles: tuple[Obstacle, ...]
    next_steps: tuple[str, ...]
    summary: Summary
    landing: Landing | None
    inherits: Inheritance | None
    tests: tuple[TestFile, ...]
    """Of phase 1 as it was run first; those of variants are in `comparison`."""
    totals: Totals | None
    """Of `tests`, each test counted once."""
    benches: tuple[BenchFamily, ...]
    """Of phase 2 as it was run first."""
    diagnostics: tuple[DiagnosticsFile, ...]
    symptoms: tuple[Symptom, ...]
    comparison: Comparison | None
    issues: tuple[tuple[str, str], ...]
    """Where, and what went wrong: tests, jobs, cells, steps, unreadable files."""
    gates: tuple[GateLine, ...]
    waived: tuple[GateLine, ...]
    """Gates that count as PASS because someone answers for them."""
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

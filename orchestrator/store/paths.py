"""Layout of a run directory.

runs/<run-id>/
    run.json                    the plan (models.run.RunPlan)
    events.jsonl                append-only
    source.json                 path to checksum of every synced file
    source.diff                 uncommitted changes that were synced (0600, stays here)
    lock                        held while a process writes here
    facts.json                  what the pod is
    judgement.json              what it amounts to; derived, may be rebuilt
    <deliverable>               copies of the newest attempt's, e.g. sel_dense.csv
    phase-N/<step>/<attempt>/   log, result.json, verdict.json, artifacts/
    report/                     rendered; may be rebuilt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AttemptPaths:
    """Files of one attempt of a step."""

    root: Path

    @property
    def log(self) -> Path:
        """Output of the step's job, byte for byte."""
        return self.root / "log"

    @property
    def result(self) -> Path:
        """`models.run.StepResult`."""
        return self.root / "result.json"

    @property
    def verdict(self) -> Path:
        """`models.run.StepJudgement`."""
        return self.root / "verdict.json"

    @property
    def artifacts(self) -> Path:
        """Directory of the files pulled from the pod."""
        return self.root / "artifacts"


@dataclass(frozen=True)
class RunPaths:
    """The one place that knows where things lie in a run directory."""

    root: Path

    @property
    def run_id(self) -> str:
        """Name of the directory."""
        return self.root.name

    @property
    def plan(self) -> Path:
        """`models.run.RunPlan`."""
        return self.root / "run.json"

    @property
    def events(self) -> Path:
        """Append-only event log."""
        return self.root / "events.jsonl"

    @property
    def source(self) -> Path:
        """Path to checksum of every synced file."""
        return self.root / "source.json"

    @property
    def diff(self) -> Path:
        """Uncommitted changes of the synced repository."""
        return self.root / "source.diff"

    @property
    def lock(self) -> Path:
        """Held by the process that writes the run."""
        return self.root / "lock"

    @property
    def facts(self) -> Path:
        """What the pod is."""
        return self.root / "facts.json"

    @property
    def judgement(self) -> Path:
        """`models.run.Judgement`."""
        return self.root / "judgement.json"

    @property
    def report(self) -> Path:
        """Directory of the rendered report."""
        return self.root / "report"

    def deliverable(self, name: str) -> Path:
        """Copy of a deliverable, at the top."""
        return self.root / name

    def attempt(self, phase: int, step: str, attempt: int) -> AttemptPaths:
        """Files of one attempt."""
        return AttemptPaths(self.root / f"phase-{phase}" / step / str(attempt))

    def attempts(self, phase: int, step: str) -> list[int]:
        """Numbers of the attempts that exist, ascending."""
        folder = self.root / f"phase-{phase}" / step
        if not folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())

"""What was read of a run's evidence, summed up for showing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.evidence.bench import BASES, LEVELS, BenchRow
from orchestrator.evidence.diagnostics import Bucket
from orchestrator.evidence.facts import Facts
from orchestrator.models.run import StepResult


@dataclass(frozen=True)
class Origin:
    """The step that left a file."""

    step: str
    variant: str | None = None
    """Variant of phase 4 that the step belongs to."""
    run: str | None = None
    """Run that the phase was inherited from; None: this one."""


@dataclass(frozen=True)
class TestFile:
    """One JUnit file: counts, and the errors that its tests recorded."""

    __test__ = False  # not a pytest class

    file: str
    origin: Origin
    passed: int
    failed: int
    skipped: int
    max_mae: float | None
    paths: tuple[str, ...]
    devices: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    """Name and message of each test that failed."""
    outcomes: tuple[tuple[str, str], ...]
    """Full name of each test, and `passed`, `failed` or `skipped`."""


@dataclass(frozen=True)
class Totals:
    """Distinct tests of several files: one that failed anywhere failed."""

    passed: int
    failed: int
    skipped: int
    repeated: int
    """Tests that occur in more than one file."""
    max_mae: float | None

    @classmethod
    def of(cls, files: Iterable[TestFile]) -> Totals | None:
        """Totals of these files; None when there are none."""
        found: dict[str, list[str]] = {}
        errors: list[float | None] = []
        for file in files:
            errors.append(file.max_mae)
            # A test may be named twice within a file; that is two tests then.
            seen: Counter[str] = Counter()
            for name, outcome in file.outcomes:
                seen[name] += 1
                found.setdefault(f"{name}#{seen[name]}", []).append(outcome)
        if not errors:
            return None
        final = Counter(min(outcomes, key=_OUTCOMES.index) for outcomes in found.values())
        return cls(
            passed=final["passed"],
            failed=final["failed"],
            skipped=final["skipped"],
            repeated=sum(len(outcomes) > 1 for outcomes in found.values()),
            max_mae=largest(errors),
        )


_OUTCOMES = ("failed", "passed", "skipped")
"""The first of a test's outcomes counts."""


@dataclass(frozen=True)
class BenchFamily:
    """Rows of one CSV that differ in L only."""

    file: str
    origin: Origin
    family: str
    rows: tuple[BenchRow, ...]
    problem: str | None
    """Why the file is not whole."""

    @property
    def first(self) -> BenchRow:
        """Stands for what all rows have in common."""
        return self.rows[0]

    @property
    def four(self) -> bool:
        """Whether both levels and both references were timed."""
        return any(
            row.interval(level, basis) for row in self.rows for level in LEVELS for basis in BASES
        )

    @property
    def interpreted(self) -> bool:
        """Whether any time in it is the interpreter's."""
        return any(row.interpreted for row in self.rows)


@dataclass(frozen=True)
class DiagnosticsFile:
    """One diagnostics file, summed up."""

    file: str
    origin: Origin
    calls: int
    buckets: tuple[Bucket, ...]
    torn: bool
    """The last line was cut off."""


@dataclass
class Evidence:
    """Everything that could be read, and a line for everything that could not."""

    results: dict[str, StepResult] = field(default_factory=dict)
    """Of this run, by step id."""
    inherited: dict[str, StepResult] = field(default_factory=dict)
    """Of the run that phases are taken from, by step id."""
    facts: Facts = field(default_factory=Facts)
    tests: list[TestFile] = field(default_factory=list)
    benches: list[BenchFamily] = field(default_factory=list)
    diagnostics: list[DiagnosticsFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def result(self, step: str) -> StepResult | None:
        """The step's result, this run's or the one that was inherited."""
        return self.results.get(step) or self.inherited.get(step)


def largest(errors: Iterable[float | None]) -> float | None:
    """Largest error; NaN, which compares with nothing, counts as the largest."""
    worst: float | None = None
    for error in errors:
        if error is not None and (worst is None or not error <= worst):
            worst = error
            if math.isnan(worst):
                return worst
    return worst

"""The evidence of a run, parsed for showing. What cannot be read is said, and leaves a gap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.errors import StoreError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import MAX_BYTES, BenchRow, BenchTable, parse_bench
from orchestrator.evidence.facts import DeviceFacts, Facts
from orchestrator.evidence.junit import Suite, TestOutcome, parse_junit
from orchestrator.models.playbook import BenchGate, DecideStep, JobStep, ParityGate, TestsGate
from orchestrator.models.run import RunPlan, StepResult
from orchestrator.models.verdict import Record
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

_RecordT = TypeVar("_RecordT", bound=Record)


@dataclass(frozen=True)
class TestFile:
    """One JUnit file: counts, and the errors that its tests recorded."""

    __test__ = False  # not a pytest class

    file: str
    passed: int
    failed: int
    skipped: int
    max_mae: float | None
    paths: tuple[str, ...]
    devices: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    """Name and message of each test that failed."""


@dataclass(frozen=True)
class BenchFamily:
    """Rows of one CSV that differ in L only."""

    file: str
    family: str
    rows: tuple[BenchRow, ...]
    problem: str | None
    """Why the file is not whole."""

    @property
    def first(self) -> BenchRow:
        """Stands for what all rows have in common."""
        return self.rows[0]

    @property
    def interpreted(self) -> bool:
        """Whether any time in it is the interpreter's."""
        return any(row.interpreted for row in self.rows)


@dataclass
class Evidence:
    """Everything that could be read, and a line for everything that could not."""

    results: dict[str, StepResult] = field(default_factory=dict)
    """By step id."""
    facts: Facts = field(default_factory=Facts)
    tests: list[TestFile] = field(default_factory=list)
    benches: list[BenchFamily] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(paths: RunPaths, plan: RunPlan) -> Evidence:
    """Read the run directory. Nothing in it, however damaged, stops the report."""
    evidence = Evidence()
    for phase in plan.playbook.phases:
        for step in phase.steps:
            try:
                result = runs.read_result(paths, phase.id, step.id)
            except (StoreError, OSError) as error:
                evidence.problems.append(f"The result of step {step.id} is unreadable: {error}.")
                continue
            if result is not None:
                evidence.results[step.id] = result
    evidence.facts = _facts(paths, evidence)
    for step_id, file in dict.fromkeys(_named(plan, TestsGate, ParityGate)):
        data = _read(paths, evidence, step_id, file)
        if data is not None:
            _add_tests(evidence, file, data)
    for step_id, file in dict.fromkeys((*_named(plan, BenchGate), *_decided(plan))):
        data = _read(paths, evidence, step_id, file)
        if data is not None:
            _add_bench(evidence, file, data)
    return evidence


def _facts(paths: RunPaths, evidence: Evidence) -> Facts:
    facts = Facts()
    if paths.facts.exists():
        try:
            facts = runs.read(paths.facts, Facts)
        except (StoreError, OSError) as error:
            evidence.problems.append(f"The pod's facts are unreadable: {error}.")
    if facts.device is None:
        # A device step has them too, and knows torch, which the system facts do not.
        for result in evidence.results.values():
            told = result.details.get("device")
            if told is not None:
                try:
                    device = DeviceFacts.model_validate_json(json.dumps(told))
                except ValidationError:
                    continue
                facts = facts.model_copy(update={"device": device})
    return facts


def _named(
    plan: RunPlan, *kinds: type[TestsGate] | type[ParityGate] | type[BenchGate]
) -> Iterator[tuple[str, str]]:
    """Step and file of every gate of these kinds."""
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if isinstance(step, JobStep):
                for gate in step.gates:
                    if isinstance(gate, kinds):
                        yield step.id, gate.file


def _decided(plan: RunPlan) -> Iterator[tuple[str, str]]:
    """Step and file of every CSV that a decision reads."""
    for phase in plan.playbook.phases:
        for step in phase.steps:
            if isinstance(step, DecideStep):
                for reference in (step.dense, step.varlen):
                    step_id, _, file = reference.partition("/")
                    yield step_id, file


def _read(paths: RunPaths, evidence: Evidence, step_id: str, file: str) -> bytes | None:
    """An artifact of the step's newest result; None when there is none."""
    result = evidence.results.get(step_id)
    if result is None or file not in {artifact.path for artifact in result.artifacts}:
        return None
    folder = paths.attempt(result.phase, step_id, result.attempt).artifacts
    path = folder / file
    try:
        if not _within(path, folder):
            evidence.problems.append(f"{file} of step {step_id} leads out of the run directory.")
            return None
        if path.stat().st_size > MAX_BYTES:
            evidence.problems.append(f"{file} of step {step_id} is too large to read.")
            return None
        return path.read_bytes()
    except OSError as error:
        evidence.problems.append(f"{file} of step {step_id} is unreadable: {error.strerror}.")
        return None


def _within(path: Path, folder: Path) -> bool:
    """Whether no link and no `..` leads out: a run directory may come from someone else."""
    return path.resolve().is_relative_to(folder.resolve())


def _add_tests(evidence: Evidence, file: str, data: bytes) -> None:
    try:
        suite = parse_junit(data, file)
    except EvidenceError as error:
        evidence.problems.append(f"{error}.")
        return
    bad = suite.having(TestOutcome.FAILED, TestOutcome.ERROR)
    evidence.tests.append(
        TestFile(
            file=file,
            passed=suite.count(TestOutcome.PASSED),
            failed=len(bad),
            skipped=suite.count(TestOutcome.SKIPPED),
            max_mae=_max_mae(suite),
            paths=_recorded(suite, "kernel_path"),
            devices=_recorded(suite, "device"),
            failures=tuple((test.name, test.message) for test in bad),
        )
    )


def _max_mae(suite: Suite) -> float | None:
    """Largest error recorded; NaN, which compares with nothing, counts as the largest."""
    worst: float | None = None
    for test in suite.tests:
        try:
            mae = float(test.properties["mae"])
        except (KeyError, ValueError):
            continue
        if worst is None or not mae <= worst:
            worst = mae
    return worst


def _recorded(suite: Suite, name: str) -> tuple[str, ...]:
    return tuple(sorted({test.properties[name] for test in suite.tests if name in test.properties}))


def _add_bench(evidence: Evidence, file: str, data: bytes) -> None:
    try:
        table: BenchTable = parse_bench(data, file)
    except EvidenceError as error:
        evidence.problems.append(f"{error}.")
        return
    families: dict[str, list[BenchRow]] = {}
    for row in table.rows:
        families.setdefault(row.family, []).append(row)
    if not families:
        evidence.problems.append(f"{file} holds no rows.")
    for family, rows in families.items():
        ordered = tuple(sorted(rows, key=lambda row: (row.L, row.line)))
        evidence.benches.append(BenchFamily(file, family, ordered, table.problem))

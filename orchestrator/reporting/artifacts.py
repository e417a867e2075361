"""The evidence of a run, parsed for showing. What cannot be read is said, and leaves a gap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import StoreError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import MAX_BYTES, BenchRow, BenchTable, parse_bench
from orchestrator.evidence.diagnostics import by_bucket, parse_diagnostics
from orchestrator.evidence.facts import DeviceFacts, Facts
from orchestrator.evidence.junit import Suite, TestOutcome, parse_junit
from orchestrator.models.playbook import (
    BenchGate,
    DecideStep,
    DiagnosticsGate,
    JobStep,
    ParityGate,
    Phase,
    TestsGate,
)
from orchestrator.models.run import RunPlan
from orchestrator.reporting.records import (
    BenchFamily,
    DiagnosticsFile,
    Evidence,
    Origin,
    TestFile,
    largest,
)
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

_FINAL = {TestOutcome.PASSED: "passed", TestOutcome.SKIPPED: "skipped"}
_Gates = type[TestsGate] | type[ParityGate] | type[BenchGate] | type[DiagnosticsGate]


def gather(paths: RunPaths, plan: RunPlan) -> Evidence:
    """Read the run directory, and where it inherits phases, theirs.

    Nothing in it, however damaged, stops the report.
    """
    return _Gatherer(paths, plan).gather()


class _Gatherer:
    def __init__(self, paths: RunPaths, plan: RunPlan) -> None:
        self._paths = paths
        self._plan = plan
        self._variants = {step: v.id for v in plan.variants for step in v.step_ids}
        self._evidence = Evidence()
        self._problems = self._evidence.problems
        self._homes: dict[str, RunPaths] = {}
        """Run directory of each step that has a result."""

    def gather(self) -> Evidence:
        for phase in self._plan.playbook.phases:
            home = self._home(phase)
            if home is not None:
                self._results(phase, home)
        self._evidence.facts = self._facts()
        for step, file in self._named(TestsGate, ParityGate):
            if (data := self._read(step, file)) is not None:
                self._add_tests(step, file, data)
        for step, file in dict.fromkeys((*self._named(BenchGate), *self._decided())):
            if (data := self._read(step, file)) is not None:
                self._add_bench(step, file, data)
        for step, file in self._named(DiagnosticsGate):
            if (data := self._read(step, file)) is not None:
                self._add_diagnostics(step, file, data)
        return self._evidence

    def _home(self, phase: Phase) -> RunPaths | None:
        """The run that the phase's results lie in; what it inherits may be inherited there too."""
        paths, plan = self._paths, self._plan
        seen = {paths.root.resolve()}
        while plan.inherits is not None and phase.id in plan.inherits.phases:
            source = plan.inherits
            paths = RunPaths(paths.root.parent / source.path)
            if paths.root.resolve() in seen:
                self._problems.append(f"Run {source.run_id} inherits phase {phase.id} from itself.")
                return None
            seen.add(paths.root.resolve())
            try:
                plan = runs.read_plan(paths)
            except (StoreError, OSError) as error:
                self._problems.append(
                    f"Phase {phase.id} is inherited from run {source.run_id}, which is unreadable: "
                    f"{error}."
                )
                return None
        return paths

    def _results(self, phase: Phase, home: RunPaths) -> None:
        own = home is self._paths
        into = self._evidence.results if own else self._evidence.inherited
        for step in phase.steps:
            try:
                result = runs.read_result(home, phase.id, step.id)
            except (StoreError, OSError) as error:
                self._problems.append(f"The result of step {step.id} is unreadable: {error}.")
                continue
            if result is not None:
                into[step.id] = result
                self._homes[step.id] = home

    def _facts(self) -> Facts:
        facts = Facts()
        if self._paths.facts.exists():
            try:
                facts = runs.read(self._paths.facts, Facts)
            except (StoreError, OSError) as error:
                self._problems.append(f"The pod's facts are unreadable: {error}.")
        if facts.device is None:
            # A device step has them too, and knows torch, which the system facts do not.
            results = {**self._evidence.inherited, **self._evidence.results}
            for result in results.values():
                told = result.details.get("device")
                if told is not None:
                    try:
                        device = DeviceFacts.model_validate_json(json.dumps(told))
                    except ValidationError:
                        continue
                    facts = facts.model_copy(update={"device": device})
        return facts

    def _named(self, *kinds: _Gates) -> tuple[tuple[str, str], ...]:
        """Step and file of every gate of these kinds."""
        return tuple(
            dict.fromkeys(
                (step.id, gate.file)
                for phase in self._plan.playbook.phases
                for step in phase.steps
                if isinstance(step, JobStep)
                for gate in step.gates
                if isinstance(gate, kinds)
            )
        )

    def _decided(self) -> Iterator[tuple[str, str]]:
        """Step and file of every CSV that a decision reads."""
        for phase in self._plan.playbook.phases:
            for step in phase.steps:
                if isinstance(step, DecideStep):
                    for reference in (step.dense, step.varlen):
                        step_id, _, file = reference.partition("/")
                        yield step_id, file

    def _read(self, step: str, file: str) -> bytes | None:
        """An artifact of the step's newest result, as it was pulled; None when there is none."""
        result = self._evidence.result(step)
        pulled = {a.path: a.sha256 for a in result.artifacts} if result is not None else {}
        if result is None or file not in pulled:
            return None
        folder = self._homes[step].attempt(result.phase, step, result.attempt).artifacts
        path = folder / file
        try:
            if not _within(path, folder):
                self._problems.append(f"{file} of step {step} leads out of the run directory.")
                return None
            if path.stat().st_size > MAX_BYTES:
                self._problems.append(f"{file} of step {step} is too large to read.")
                return None
            data = path.read_bytes()
        except OSError as error:
            self._problems.append(f"{file} of step {step} is unreadable: {error.strerror}.")
            return None
        if hashlib.sha256(data).hexdigest() != pulled[file]:
            self._problems.append(
                f"{file} of step {step} was changed after it was pulled: its SHA-256 differs, so "
                "nothing of it is shown."
            )
            return None
        return data

    def _origin(self, step: str) -> Origin:
        home = self._homes[step]
        run = None if home is self._paths else home.run_id
        return Origin(step, self._variants.get(step), run)

    def _add_tests(self, step: str, file: str, data: bytes) -> None:
        try:
            suite = parse_junit(data, file)
        except EvidenceError as error:
            self._problems.append(f"{error}.")
            return
        bad = suite.having(TestOutcome.FAILED, TestOutcome.ERROR)
        self._evidence.tests.append(
            TestFile(
                file=file,
                origin=self._origin(step),
                passed=suite.count(TestOutcome.PASSED),
                failed=len(bad),
                skipped=suite.count(TestOutcome.SKIPPED),
                max_mae=_max_mae(suite),
                paths=_recorded(suite, "kernel_path"),
                devices=_recorded(suite, "device"),
                failures=tuple((test.name, test.message) for test in bad),
                outcomes=tuple(
                    (str(test), _FINAL.get(test.outcome, "failed")) for test in suite.tests
                ),
            )
        )

    def _add_bench(self, step: str, file: str, data: bytes) -> None:
        try:
            table: BenchTable = parse_bench(data, file)
        except EvidenceError as error:
            self._problems.append(f"{error}.")
            return
        families: dict[str, list[BenchRow]] = {}
        for row in table.rows:
            families.setdefault(row.family, []).append(row)
        if not families:
            self._problems.append(f"{file} holds no rows.")
        for family, rows in families.items():
            ordered = tuple(sorted(rows, key=lambda row: (row.L, row.line)))
            self._evidence.benches.append(
                BenchFamily(file, self._origin(step), family, ordered, table.problem)
            )

    def _add_diagnostics(self, step: str, file: str, data: bytes) -> None:
        try:
            found = parse_diagnostics(data, file)
        except EvidenceError as error:
            self._problems.append(f"{error}.")
            return
        self._evidence.diagnostics.append(
            DiagnosticsFile(
                file=file,
                origin=self._origin(step),
                calls=len(found.calls),
                buckets=by_bucket(found.calls),
                torn=found.torn,
            )
        )


def _within(path: Path, folder: Path) -> bool:
    """Whether no link and no `..` leads out: a run directory may come from someone else."""
    return path.resolve().is_relative_to(folder.resolve())


def _max_mae(suite: Suite) -> float | None:
    return largest(_number(test.properties.get("mae")) for test in suite.tests)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _recorded(suite: Suite, name: str) -> tuple[str, ...]:
    return tuple(sorted({test.properties[name] for test in suite.tests if name in test.properties}))

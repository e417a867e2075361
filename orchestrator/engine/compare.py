"""Two runs beside each other: before and after, or card against card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.engine.judge import judge
from orchestrator.evidence.bench import Basis, Level
from orchestrator.evidence.facts import Facts
from orchestrator.gates.compare import Change, Compared, Fingerprint, compare_cell, differences
from orchestrator.models.run import Judgement
from orchestrator.models.verdict import Verdict
from orchestrator.reporting.artifacts import gather
from orchestrator.reporting.comparison import by_cell
from orchestrator.reporting.records import BenchFamily
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run_id: str
    judgement: Judgement
    fingerprint: Fingerprint
    benches: tuple[BenchFamily, ...]
    problems: tuple[str, ...]
    """Evidence that could not be read."""

    @property
    def invalid(self) -> bool:
        """Whether any of its evidence is, whatever else became of the run."""
        phases = [phase for phase in self.judgement.phases if phase.superseded is None]
        return any(phase.verdict is Verdict.INVALID for phase in phases)


@dataclass(frozen=True)
class RunComparison:
    """Every cell that either run measured."""

    a: Side
    b: Side
    differences: dict[str, tuple[str | None, str | None]]
    cells: tuple[Compared, ...]
    level: Level
    reference: Basis
    """What all speedups and reference times are of, in both runs."""

    @property
    def absolute(self) -> bool:
        """Whether times were compared, and not only speedups."""
        return not self.differences

    @property
    def counts(self) -> Counter[Change]:
        """How many speedups became what."""
        return Counter(cell.change for cell in self.cells if cell.what == "speedup")

    @property
    def comparable(self) -> bool:
        """Whether any cell was measured in both."""
        return any(cell.change is not Change.NONE for cell in self.cells)


def compare_runs(a: RunPaths, b: RunPaths) -> RunComparison:
    """Compare what each run's decision rests on: its adopted variant, else phase 2 as it was.

    Raises:
        StoreError: a run directory is missing or damaged.
    """
    before, after = _side(a), _side(b)
    differing = differences(before.fingerprint, after.fingerprint)
    level, reference = _decided_by(before, after)
    measured = [("a", bench) for bench in before.benches]
    measured += [("b", bench) for bench in after.benches]
    cells = [
        compared
        for (family, length), rows in by_cell(measured).items()
        for compared in compare_cell(
            family,
            length,
            rows.get("a"),
            rows.get("b"),
            absolute=not differing,
            level=level,
            basis=reference,
        )
    ]
    return RunComparison(before, after, differing, tuple(cells), level, reference)


def _decided_by(a: Side, b: Side) -> tuple[Level, Basis]:
    """What both decisions are about; production's, where they are about different things."""
    decisions = [side.judgement.decision for side in (a, b)]
    found = {(d.level, d.reference) for d in decisions if d is not None}
    return found.pop() if len(found) == 1 else ("operator", "strongest")


def _side(paths: RunPaths) -> Side:
    plan = runs.read_plan(paths)
    judgement = judge(paths)
    evidence = gather(paths, plan)
    benches = tuple(b for b in evidence.benches if b.origin.variant == judgement.adopted)
    return Side(
        paths.run_id,
        judgement,
        _fingerprint(evidence.facts, benches),
        benches,
        tuple(evidence.problems),
    )


def _fingerprint(facts: Facts, benches: tuple[BenchFamily, ...]) -> Fingerprint:
    """From the rows where they say it, from the pod's facts otherwise."""
    rows = [row for bench in benches for row in bench.rows]
    gpus = facts.system.gpus if facts.system else ()
    environment = facts.device
    return {
        "device": _one(row.device for row in rows),
        "driver": _one(gpu.driver_version for gpu in gpus),
        "torch": _one(row.torch for row in rows) or (environment.torch if environment else None),
        "triton": _one(row.triton for row in rows) or (environment.triton if environment else None),
        "contract": _one(str(row.contract) if row.contract else None for row in rows),
    }


def _one(values: Iterable[str | None]) -> str | None:
    """The one value that all share."""
    found = set(values)
    return found.pop() if len(found) == 1 else None

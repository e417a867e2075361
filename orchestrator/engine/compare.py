"""Two runs beside each other: before and after, or card against card."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from orchestrator.engine.judge import judge
from orchestrator.engine.step_gates import canary_file, read_artifact
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import Basis, Level
from orchestrator.evidence.canary import PER_TERA, Canary, parse_canary
from orchestrator.evidence.facts import Facts
from orchestrator.gates.compare import (
    Change,
    Compared,
    Fingerprint,
    Known,
    Pooled,
    What,
    compare_cell,
    differences,
    pool,
)
from orchestrator.gates.findings import listed
from orchestrator.models.run import Judgement
from orchestrator.models.verdict import Verdict
from orchestrator.reporting.artifacts import gather
from orchestrator.reporting.comparison import by_cell
from orchestrator.reporting.records import BenchFamily, Evidence
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    path: Path
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
    differences: dict[str, tuple[Known, Known]]
    cells: tuple[Compared, ...]
    level: Level
    reference: Basis
    """What all speedups and reference times are of, in both runs."""

    @property
    def absolute(self) -> bool:
        """Whether times were compared, and not only speedups."""
        return not self.differences

    @property
    def same(self) -> bool:
        """Whether both have the very same rows: one inherits them from the other, or is a copy."""
        a, b = ([bench.rows for bench in side.benches] for side in (self.a, self.b))
        return bool(a) and a == b

    @property
    def counts(self) -> Counter[Change]:
        """How many speedups became what."""
        return Counter(cell.change for cell in self.cells if cell.what == "speedup")

    @property
    def pooled(self) -> tuple[Pooled, ...]:
        """Each quantity over all cells that were measured in both."""
        found = (pool(what, self.cells) for what in get_args(What))
        return tuple(pooled for pooled in found if pooled is not None)

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
    homes = {bench.origin.run: _home(paths, bench.origin.run) for bench in benches}
    facts = [
        evidence.facts if run is None else gather(home, runs.read_plan(home)).facts
        for run, home in homes.items()
    ]
    files = dict.fromkeys((bench.origin, bench.file) for bench in benches)
    canaries = [_canary(homes[origin.run], evidence, origin.step, file) for origin, file in files]
    return Side(
        paths.root,
        paths.run_id,
        judgement,
        _fingerprint(facts, benches, canaries),
        benches,
        tuple(evidence.problems),
    )


def _home(paths: RunPaths, run: str | None) -> RunPaths:
    """The run that measured; `run` is None where it is this one."""
    while run is not None and paths.run_id != run:
        source = runs.read_plan(paths).inherits
        assert source is not None  # noqa: S101 - its rows were just read from there
        paths = RunPaths(paths.root.parent / source.path)
    return paths


def _canary(home: RunPaths, evidence: Evidence, step: str, bench: str) -> Canary | None:
    """The canary beside a CSV; one that cannot be read is a problem of the run."""
    result, name = evidence.result(step), canary_file(bench)
    try:
        data = read_artifact(home, result, name) if result is not None else None
        return None if data is None else parse_canary(data, name)
    except EvidenceError as error:
        evidence.problems.append(f"{error}.")
        return None


def _fingerprint(
    facts: list[Facts], benches: tuple[BenchFamily, ...], canaries: list[Canary | None]
) -> Fingerprint:
    """From the rows where they say it, from the pod's facts otherwise, and from the canaries.

    Of the power limit nobody tells; a canary shows what it does.
    """
    rows = [row for bench in benches for row in bench.rows if row.ok]
    gpus = [gpu for told in facts if told.system for gpu in told.system.gpus]
    device = next((told.device for told in facts if told.device), None)
    # a value in brackets is one that the driver does not have
    uuids = sorted({gpu.uuid for gpu in gpus if not gpu.uuid.startswith("[")})
    memory = [row.mem_mhz for row in rows]
    return {
        "device": _one(row.device for row in rows),
        "gpus": listed(uuids, 1) if uuids else None,
        "driver": _one(gpu.driver_version for gpu in gpus),
        "torch": _one(row.torch for row in rows) or (device.torch if device else None),
        "triton": _one(row.triton for row in rows) or (device.triton if device else None),
        "contract": _one(_text(row.contract) for row in rows),
        "timer": _one(row.timer for row in rows),
        "flush_mib": _one(_text(row.flush_mib) for row in rows),
        "sm_max_mhz": _one(_text(row.sm_max_mhz) for row in rows),
        "mem_max_mhz": _text(max((mhz for mhz in memory if mhz is not None), default=None)),
        "copy_gb_per_s": _probed(canaries, "copy"),
        "gemm_tflop_per_s": _probed(canaries, "gemm"),
    }


def _one(values: Iterable[str | None]) -> str | None:
    """The one value that all share."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _probed(canaries: list[Canary | None], name: str) -> float | None:
    """Median before and after the cells of all files; None where one of them has no such probe.

    Whether a card stayed the same within a run is the machine gate's business.
    """
    medians = []
    for canary in canaries:
        values = [
            probe.value * 1e3 * PER_TERA[unit] if unit in PER_TERA else probe.value
            for probe in (canary.probes if canary else ())
            if probe.probe == name and (unit := probe.unit.lower())
        ]
        if not values:
            return None
        medians.append(statistics.median(values))
    return statistics.median(medians) if medians else None

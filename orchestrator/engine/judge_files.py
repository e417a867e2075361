"""Judging files that no run here produced: bench CSVs of any origin, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from kernels.bench import contract
from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.evidence.canary import Canary, is_canary, parse_canary
from orchestrator.evidence.foreign import Row, parse_foreign
from orchestrator.evidence.rows import Rows
from orchestrator.evidence.telemetry import Telemetry, is_telemetry, parse_telemetry
from orchestrator.evidence.text import with_commas
from orchestrator.gates.bench import table_gate
from orchestrator.gates.decision import decide
from orchestrator.gates.findings import listed, malformed, missing
from orchestrator.gates.foreign import foreign_gates
from orchestrator.gates.junit import tests_gate
from orchestrator.gates.machine import machine_gate
from orchestrator.gates.matrix import GATE as MATRIX
from orchestrator.gates.matrix import matrix_gate
from orchestrator.gates.parity import parity_gate
from orchestrator.gates.physics import physics_gate
from orchestrator.models.playbook import BenchGate, ParityGate, TestsGate
from orchestrator.models.verdict import (
    Decision,
    GateResult,
    Obstacle,
    Outcome,
    Reason,
    Verdict,
    worst,
)

LARGEST = 64 * 2**20
_HEAD = 8192
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class FilesJudgement:
    """What the files amount to, together."""

    files: tuple[str, ...]
    notes: tuple[str, ...]
    """How a foreign header was understood."""
    gates: tuple[GateResult, ...]
    decision: Decision

    @property
    def verdict(self) -> Verdict:
        """Worst of all gates; evidence that decides nothing is NOT_VERIFIED at best."""
        undecided = self.decision.outcome is Outcome.UNDECIDED
        own = Verdict.NOT_VERIFIED if undecided else Verdict.PASS
        return worst([own, *(gate.verdict for gate in self.gates)])


@dataclass
class _Given:
    """The files by kind, each by the name that messages use."""

    benches: dict[str, bytes] = field(default_factory=dict)
    junit: dict[str, bytes] = field(default_factory=dict)
    canaries: dict[str, Canary] = field(default_factory=dict)
    telemetry: dict[str, Telemetry] = field(default_factory=dict)
    broken: list[GateResult] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)


def judge_files(
    paths: Sequence[Path],
    *,
    device: str | None = None,
    margin: float = contract.DEFAULT_MARGIN,
) -> FilesJudgement:
    """Judge bench CSVs as one set, with JUnit, telemetry and canary files among them.

    `<stem>.canary.csv` and `telemetry.csv` beside a bench CSV count as given. `device` is the card
    of rows that do not name theirs. Without JUnit files the bench rows' own checks against the
    oracle stand for parity.

    Raises:
        UsageError: a path that cannot be read, or neither bench CSV nor JUnit file among them.
    """
    given = _read(paths)
    if not (given.benches or given.junit or given.broken):
        raise UsageError(
            f"neither a bench CSV nor test results among {', '.join(map(str, paths))}",
            remedy="name at least one CSV with L and times, a JUnit file or a run directory",
        )
    notes: list[str] = []
    gates = list(given.broken)
    tables: list[Rows[Row]] = []
    for name, data in given.benches.items():
        gates += _judge_bench(name, data, given, device, tables, notes)
    rows = Rows.joined(tables)
    if rows:
        gates.append(matrix_gate(rows))
    for name, data in given.junit.items():
        gates.append(tests_gate(TestsGate(gate="tests", file=name), data))
        gates.append(parity_gate(ParityGate(gate="parity", file=name), data))
    kinds = ("tests", "parity") if given.junit else ()
    if device is not None and rows and all(row.device for row in rows):
        named = listed(sorted({row.device for row in rows if row.device}))
        notes.append(f"--device {device} is not used: every row names its card, {named}")
    decision = _decide(rows, gates, margin, kinds)
    return FilesJudgement(tuple(given.paths), tuple(notes), tuple(gates), decision)


# --- reading ----------------------------------------------------------------------------------


def _read(paths: Sequence[Path]) -> _Given:
    given = _Given()
    # one file by two names is one file
    every = list({path.resolve(): path for path in [*_beside(paths), *reversed(paths)]}.values())
    every.reverse()
    for path in every:
        same = [other for other in every if other.name == path.name]
        name = path.name if len(same) < 2 else str(path)
        given.paths[name] = path
        data = with_commas(_bytes(path))
        head = data[:_HEAD].decode("utf-8-sig", "replace").lstrip()
        header = head.partition("\n")[0]
        try:
            if head.startswith("<"):
                given.junit[name] = data
            elif is_canary(header):
                given.canaries[name] = parse_canary(data, name)
            elif is_telemetry(header):
                given.telemetry[name] = parse_telemetry(data, name)
            else:
                given.benches[name] = data
        except EvidenceError as error:
            given.broken.append(malformed(f"machine {name}", error))
    return given


def _beside(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        for other in (path.with_suffix(".canary.csv"), path.with_name("telemetry.csv")):
            if path.suffix == ".csv" and other.is_file():
                yield other


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith(_GZIP):
        raise UsageError(f"{path} is compressed", remedy="gunzip it, and name what comes out")
    if len(data) > LARGEST:
        raise UsageError(f"{path} is larger than the {LARGEST >> 20} MiB that are read")
    return data


# --- judging ----------------------------------------------------------------------------------


def _judge_bench(
    name: str,
    data: bytes,
    given: _Given,
    device: str | None,
    tables: list[Rows[Row]],
    notes: list[str],
) -> list[GateResult]:
    """All gates of one CSV; its rows are added to `tables`."""
    if not data.strip():
        return [missing(f"bench {name}", name, empty=True)]
    canary, telemetry = _canary_of(name, given), _telemetry_of(name, given)
    found: Rows[Row]
    try:
        gates: list[GateResult] = []
        if _is_ours(data):
            table = parse_bench(data, name)
            found = table.rows
            # nobody declared what the file should hold: `matrix_gate` looks for holes
            mode = table.rows[0].mode if table.rows else "dense"
            lengths = sorted({row.L for row in table.rows}) or [1]
            declared = BenchGate(gate="bench", file=name, mode=mode, lengths=lengths)
            gates.append(table_gate(declared, table))
        else:
            foreign = parse_foreign(data, name)
            found = foreign.rows
            notes += _understood(name, foreign.renamed, foreign.unknown)
            gates += foreign_gates(foreign)
    except EvidenceError as error:
        return [malformed(f"bench {name}", error)]
    tables.append(found)
    l2, launch_us = (canary.l2_tb_per_s, canary.launch_us) if canary else (None, None)
    return [
        physics_gate(name, found, device=device, l2_tb_per_s=l2, launch_us=launch_us),
        *gates,
        machine_gate(name, found, telemetry, canary),
    ]


def _is_ours(data: bytes) -> bool:
    header = data[:_HEAD].decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    return "contract" in [column.strip() for column in header.split(",")]


def _canary_of(name: str, given: _Given) -> Canary | None:
    path = given.paths[name]
    beside = path.with_suffix(".canary.csv")
    named = [n for n in given.canaries if given.paths[n].name == beside.name]
    return next(
        (given.canaries[n] for n in named if given.paths[n] == beside),
        given.canaries[named[0]] if len(named) == 1 else None,
    )


def _telemetry_of(name: str, given: _Given) -> Telemetry | None:
    """That of its own folder, or the only one there is."""
    folder = given.paths[name].parent
    own = [t for n, t in given.telemetry.items() if given.paths[n].parent == folder]
    candidates = own or list(given.telemetry.values())
    return candidates[0] if len(candidates) == 1 else None


def _understood(name: str, renamed: Mapping[str, str], unknown: Sequence[str]) -> Iterable[str]:
    if renamed:
        read = ", ".join(f"{theirs} as {ours}" for theirs, ours in renamed.items())
        yield f"{name}: read {read}"
    if unknown:
        yield f"{name}: not used: {listed(unknown, 8)}"


# --- the decision -----------------------------------------------------------------------------


def _decide(
    rows: Rows[Row], gates: Sequence[GateResult], margin: float, kinds: Sequence[str]
) -> Decision:
    """The run's own decision where all rows are this project's; foreign ones decide nothing."""
    if rows and all(isinstance(row, BenchRow) for row in rows):
        modes = cast(Rows[BenchRow], rows).by("mode")
        dense, varlen = (modes.get(mode, ()) for mode in ("dense", "varlen"))
        return decide(dense, varlen, margin, gates, kinds=kinds)
    obstacles = [
        Obstacle(reason=gate.reason or Reason.NO_EVIDENCE, message=f"{gate.gate}: {gate.message}")
        for gate in gates
        if gate.verdict is not Verdict.PASS
    ]
    obstacles.append(
        Obstacle(
            reason=Reason.NO_EVIDENCE,
            message="These files do not prove enough to decide from: see docs/judge.md.",
        )
    )
    order = (Verdict.INVALID, Verdict.FAIL, Verdict.NOT_VERIFIED)
    named = [f"{g.gate} is {v.value}" for v in order for g in gates if g.verdict is v]
    summary = f"UNDECIDED: {listed(named, 4) if named else 'nothing was timed'}."
    one_card = len({row.device for row in rows if row.device}) < 2
    whole = any(g.gate == MATRIX and g.verdict is Verdict.PASS for g in gates)
    not_worse = worst(gate.verdict for gate in gates) is Verdict.NOT_VERIFIED
    if one_card and whole and not_worse:
        summary += _at_their_word(rows, margin)
    return Decision(
        outcome=Outcome.UNDECIDED, margin=margin, summary=summary, obstacles=tuple(obstacles)
    )


def _at_their_word(rows: Sequence[Row], margin: float) -> str:
    try:
        found = contract.threshold([row.cell() for row in rows], margin)
    except (EvidenceError, contract.ContractError):
        return ""
    would = f"enable Triton from L={found.min_L}" if found.min_L else "keep Triton off"
    return f" Taken at their word, these numbers would {would}."

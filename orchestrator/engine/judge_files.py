"""Judging files that no run here produced: bench CSVs of any origin, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernels.bench import contract
from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.evidence.canary import Canary, is_canary, parse_canary
from orchestrator.evidence.foreign import ForeignRow, parse_foreign
from orchestrator.evidence.telemetry import Telemetry, is_telemetry, parse_telemetry
from orchestrator.gates.bench import table_gate
from orchestrator.gates.findings import counted, listed, malformed
from orchestrator.gates.foreign import foreign_gates
from orchestrator.gates.junit import tests_gate
from orchestrator.gates.machine import machine_gate
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
_Row = BenchRow | ForeignRow
_HEAD = 8192


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
    current_min_L: int = 0,  # noqa: N803 - L is the field's name for the selected length
) -> FilesJudgement:
    """Judge bench CSVs as one set, with JUnit, telemetry and canary files among them.

    `<stem>.canary.csv` and `telemetry.csv` beside a bench CSV count as given. `device` is the card
    of rows that do not name theirs.

    Raises:
        UsageError: a path that cannot be read, or no bench CSV among them.
    """
    given = _read(paths)
    if not given.benches and not given.broken:
        raise UsageError(
            f"no bench CSV among {', '.join(map(str, paths))}",
            remedy="name at least one CSV with L and times, or a run directory",
        )
    notes: list[str] = []
    gates = list(given.broken)
    rows: list[_Row] = []
    for name, data in given.benches.items():
        gates += _judge_bench(name, data, given, device, rows, notes)
    if rows:
        gates.append(matrix_gate(rows))
    for name, data in given.junit.items():
        gates.append(tests_gate(TestsGate(gate="tests", file=name), data))
        gates.append(parity_gate(ParityGate(gate="parity", file=name), data))
    decision = _decide(rows, gates, margin, current_min_L)
    return FilesJudgement(tuple(given.paths), tuple(notes), tuple(gates), decision)


# --- reading ----------------------------------------------------------------------------------


def _read(paths: Sequence[Path]) -> _Given:
    given = _Given()
    every = list(dict.fromkeys([*paths, *_beside(paths)]))
    for path in every:
        same = [other for other in every if other.name == path.name]
        name = path.name if len(same) < 2 else str(path)
        given.paths[name] = path
        data = _bytes(path)
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
    if len(data) > LARGEST:
        raise UsageError(f"{path} is larger than the {LARGEST >> 20} MiB that are read")
    return data


# --- judging ----------------------------------------------------------------------------------


def _judge_bench(
    name: str,
    data: bytes,
    given: _Given,
    device: str | None,
    rows: list[_Row],
    notes: list[str],
) -> list[GateResult]:
    """All gates of one CSV; its rows are added to `rows`."""
    canary, telemetry = _canary_of(name, given), _telemetry_of(name, given)
    found: Sequence[_Row]
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
    rows += found
    l2 = canary.l2_tb_per_s if canary else None
    return [
        physics_gate(name, found, device=device, l2_tb_per_s=l2),
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
    rows: Sequence[_Row],
    gates: Sequence[GateResult],
    margin: float,
    current_min_L: int,  # noqa: N803
) -> Decision:
    """The contract's rule, where every gate is PASS; otherwise what stands in the way."""
    obstacles = [
        Obstacle(reason=gate.reason or Reason.NO_EVIDENCE, message=f"{gate.gate}: {gate.message}")
        for gate in gates
        if gate.verdict is not Verdict.PASS
    ]
    ran = [row for row in rows if row.ok]
    obstacles += [
        Obstacle(
            reason=Reason.NO_EVIDENCE,
            message=f"There are no {mode} measurements, which the threshold also governs.",
        )
        for mode in ("dense", "varlen")
        if not any(row.mode == mode for row in ran)
    ]
    devices = sorted({row.device for row in ran if row.device})
    if len(devices) > 1:
        obstacles.append(
            Obstacle(
                reason=Reason.WRONG_GPU,
                message=f"The rows come from different devices: {listed(devices)}.",
            )
        )
    found, problem = _rule(ran, margin)
    if problem is not None:
        obstacles.append(Obstacle(reason=Reason.MALFORMED, message=problem))
    if obstacles or found is None:
        summary = f"UNDECIDED: {_in_the_way(gates, obstacles)}."
        if found is not None and worst(g.verdict for g in gates) is Verdict.NOT_VERIFIED:
            would = f"enable Triton from L={found.min_L}" if found.min_L else "keep Triton off"
            summary += f" Taken at their word, these numbers would {would}."
        return Decision(
            outcome=Outcome.UNDECIDED, margin=margin, summary=summary, obstacles=tuple(obstacles)
        )
    families = counted(len(found.families), "measured distribution")
    below = f" Below that: {found.obstacles[0]}." if found.obstacles else ""
    if found.min_L is None:
        return Decision(
            outcome=Outcome.KEEP_OFF,
            min_L=found.setting(current_min_L),
            margin=margin,
            summary=f"KEEP_OFF: on {listed(devices)} no tested length is admissible at margin "
            f"{margin:g}: {listed(found.obstacles, 2)}.",
        )
    return Decision(
        outcome=Outcome.ENABLE,
        min_L=found.min_L,
        margin=margin,
        summary=f"ENABLE from L={found.min_L}: on {listed(devices)} every tested length from there "
        f"on is at least {margin:g} times as fast as the reference (lower bound), in "
        f"{families}.{below}",
    )


def _in_the_way(gates: Sequence[GateResult], obstacles: Sequence[Obstacle]) -> str:
    """The gates by name, the worst first; then what no gate says."""
    order = (Verdict.INVALID, Verdict.FAIL, Verdict.NOT_VERIFIED)
    named = [f"{g.gate} is {v.value}" for v in order for g in gates if g.verdict is v]
    return listed([*named, *(o.message.rstrip(".") for o in obstacles[len(named) :])], 4)


def _rule(rows: Sequence[_Row], margin: float) -> tuple[contract.Threshold | None, str | None]:
    """The rule on these rows; or why it cannot be applied."""
    try:
        cells = [row.cell() for row in rows]
        return contract.threshold(cells, margin), None
    except (EvidenceError, contract.ContractError) as error:
        return None, f"The rows do not decide: {error}."

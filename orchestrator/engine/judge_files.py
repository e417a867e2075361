"""Judging files that no run here produced: bench CSVs of any origin, and what lies beside them.

A threshold holds for one card, so what is named is judged card by card, with one decision each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from kernels.bench import contract
from orchestrator.engine.judge_reading import MAY_BE_NAMED, Given, Kind, Source, read_given
from orchestrator.engine.side_by_side import side_by_side
from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.evidence.cards import find_card, is_slice
from orchestrator.evidence.foreign import ForeignRow, Row, foreign_cells, parse_foreign
from orchestrator.evidence.rows import Rows
from orchestrator.gates.bench import table_gate
from orchestrator.gates.coverage import GATE as COVERAGE
from orchestrator.gates.coverage import coverage_gate
from orchestrator.gates.decision import decide
from orchestrator.gates.findings import listed, malformed, missing
from orchestrator.gates.foreign import foreign_gates
from orchestrator.gates.junit import most_tests_gate
from orchestrator.gates.machine import machine_gate
from orchestrator.gates.margins import condensed
from orchestrator.gates.matrix import GATE as MATRIX
from orchestrator.gates.matrix import matrix_gate
from orchestrator.gates.parity import parity_gate
from orchestrator.gates.physics import physics_gate
from orchestrator.models.playbook import BenchGate, ParityGate
from orchestrator.models.verdict import (
    Decision,
    GateResult,
    Obstacle,
    Outcome,
    Reason,
    Verdict,
    worst,
)


@dataclass(frozen=True)
class CardJudgement:
    """What the files amount to for one card."""

    device: str | None
    """As the rows name it; None where they do not."""
    gates: tuple[GateResult, ...]
    decision: Decision


@dataclass(frozen=True)
class FilesJudgement:
    """What the files amount to, card by card."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    """How a foreign header was understood."""
    cards: tuple[CardJudgement, ...]
    """At least one."""

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """Of all cards, each once."""
        every = {gate.gate: gate for card in self.cards for gate in card.gates}
        return tuple(every.values())

    @property
    def decision(self) -> Decision | None:
        """The only one; None where there are several cards."""
        return self.cards[0].decision if len(self.cards) == 1 else None

    @property
    def verdict(self) -> Verdict:
        """Worst of all gates; evidence that decides nothing is NOT_VERIFIED at best."""
        undecided = any(card.decision.outcome is Outcome.UNDECIDED for card in self.cards)
        own = Verdict.NOT_VERIFIED if undecided else Verdict.PASS
        return worst([own, *(gate.verdict for gate in self.gates)])


@dataclass(frozen=True)
class _Judged:
    """One file by itself: its gates, the devices that it names, and its rows."""

    kind: Kind
    gates: Sequence[GateResult]
    devices: Sequence[str] = ()
    rows: Rows[Row] = field(default_factory=Rows)
    notes: Sequence[str] = ()
    """How its header was understood."""

    @property
    def cards(self) -> set[str]:
        """The devices, each by one name."""
        return set(map(_card, self.devices))


def judge_files(
    paths: Sequence[Path],
    *,
    device: str | None = None,
    margin: float = contract.DEFAULT_MARGIN,
) -> FilesJudgement:
    """Judge bench CSVs, with JUnit, telemetry and canary files among them; one set for each card.

    `<stem>.canary.csv` and `telemetry.csv` beside a bench CSV count as given. `device` is the card
    of rows that do not name theirs. Without JUnit files the bench rows' own checks against the
    oracle stand for parity.

    Raises:
        UsageError: a path that cannot be read or is no evidence, or neither bench CSV nor JUnit
            file among them.
    """
    given = read_given(paths)
    benches = side_by_side(
        partial(_judge_bench, given, device),
        list(given.of(Kind.BENCH, Kind.FOREIGN)),
        size=lambda source: len(source.data),
    )
    notes = [note for judged in benches for note in judged.notes]
    tests = [_judge_tests(source) for source in given.of(Kind.JUNIT)]
    if not (benches or tests or given.broken):
        raise UsageError(
            f"neither a bench CSV nor test results among {', '.join(map(str, paths))}",
            remedy=MAY_BE_NAMED,
        )
    rows = Rows.joined([judged.rows for judged in benches])
    if device is not None and rows and all(rows.said("device")):
        named = listed(sorted(rows.said("device")))
        notes.append(f"--device {device} is not used: every row names its card, {named}")
    sets = _by_card(benches, tests)
    cards = [_judge_card(given.broken, every, margin, one_of=len(sets)) for every in sets]
    return FilesJudgement(tuple(given.sources), tuple(notes), tuple(cards))


# --- each file --------------------------------------------------------------------------------


def _judge_tests(source: Source) -> _Judged:
    parity = parity_gate(ParityGate(gate="parity", file=source.name), source.data)
    recorded = parity.measured.get("devices")
    devices = [str(name) for name in recorded] if isinstance(recorded, list) else []
    return _Judged(source.kind, [most_tests_gate(source.name, source.data), parity], devices)


def _judge_bench(given: Given, device: str | None, source: Source) -> _Judged:
    """One CSV."""
    name = source.name
    if not source.data.strip():
        remedy = "Name the file that the benchmark wrote: this one was cut off, or never filled."
        return _Judged(source.kind, [missing(f"bench {name}", name, empty=True, next_step=remedy)])
    canary, telemetry = given.canary_of(source), given.telemetry_of(source)
    found: Rows[Row]
    gates: list[GateResult] = []
    notes: list[str] = []
    try:
        if source.kind is Kind.BENCH:
            table = parse_bench(source.data, name)
            found = table.rows
            # nobody declared what the file should hold: `matrix_gate` looks for holes
            mode = table.rows[0].mode if table.rows else "dense"
            lengths = sorted(table.rows.said("L")) or [1]
            declared = BenchGate(gate="bench", file=name, mode=mode, lengths=lengths)
            gates.append(table_gate(declared, table))
        else:
            foreign = parse_foreign(source.data, name)
            found = foreign.rows
            notes += _understood(name, foreign.renamed, foreign.unknown)
            gates += foreign_gates(foreign)
    except EvidenceError as error:
        return _Judged(source.kind, [malformed(f"bench {name}", error)])
    l2, launch_us = (canary.l2_tb_per_s, canary.launch_us) if canary else (None, None)
    gates = [
        physics_gate(name, found, device=device, l2_tb_per_s=l2, launch_us=launch_us),
        *gates,
        machine_gate(name, found, telemetry, canary),
    ]
    said = {own or device for own in found.said("device")}
    return _Judged(source.kind, gates, sorted(filter(None, said)), found, notes)


def _understood(name: str, renamed: Mapping[str, str], unknown: Sequence[str]) -> Iterable[str]:
    if renamed:
        read = ", ".join(f"{theirs} as {ours}" for theirs, ours in renamed.items())
        yield f"{name}: read {read}"
    if unknown:
        yield f"{name}: not used: {listed(unknown, 8)}"


# --- card by card -----------------------------------------------------------------------------


def _by_card(benches: Sequence[_Judged], tests: Sequence[_Judged]) -> list[list[_Judged]]:
    """The files of each card. One that names none of the cards counts for all of them.

    Cards that one CSV names together stay together: it is of one run, or cannot be trusted.
    """
    cards: list[set[str]] = []
    for judged in benches:
        if judged.cards:
            apart = [names for names in cards if names.isdisjoint(judged.cards)]
            cards = [*apart, judged.cards.union(*(names for names in cards if names not in apart))]
    known = set().union(*cards)
    every = [*benches, *tests]
    return [
        [judged for judged in every if judged.cards & names or judged.cards.isdisjoint(known)]
        for names in cards
    ] or [every]


def _card(device: str) -> str:
    """The same for all names of a card; a slice is a card of its own."""
    card = None if is_slice(device) else find_card(device)
    return card.name if card else " ".join(device.lower().split())


def _judge_card(
    broken: Sequence[GateResult], files: Sequence[_Judged], margin: float, *, one_of: int
) -> CardJudgement:
    rows = Rows.joined([judged.rows for judged in files])
    devices = sorted({name for judged in files if judged.rows for name in judged.devices})
    tests = [gate for judged in files if judged.kind is Kind.JUNIT for gate in judged.gates]
    gates = [*broken]
    gates += (gate for judged in files if judged.kind is not Kind.JUNIT for gate in judged.gates)
    if rows:
        gates.append(matrix_gate(rows))
    gates += tests
    if rows and tests:
        gates.append(coverage_gate(rows, tests))
    decision = _decide(rows, gates, margin, ("tests", "parity") if tests else ())
    named = ", ".join(devices) or None
    if one_of > 1:  # what is judged of several files is another thing for each card
        gates = [
            gate.model_copy(update={"gate": f"{gate.gate} of {named}"})
            if gate.gate in (MATRIX, COVERAGE)
            else gate
            for gate in gates
        ]
    return CardJudgement(named, tuple(gates), decision)


def _decide(
    rows: Rows[Row], gates: Sequence[GateResult], margin: float, kinds: Sequence[str]
) -> Decision:
    """The run's own decision where all rows are this project's; foreign ones decide nothing."""
    if rows.kinds == {BenchRow}:
        modes = cast(Rows[BenchRow], rows).by("mode")
        dense, varlen = (modes.get(mode, Rows[BenchRow]()) for mode in ("dense", "varlen"))
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
    one_card = len(set(filter(None, rows.said("device")))) < 2
    whole = any(g.gate == MATRIX and g.verdict is Verdict.PASS for g in gates)
    not_worse = worst(gate.verdict for gate in gates) is Verdict.NOT_VERIFIED
    if one_card and whole and not_worse:
        summary += _at_their_word(rows, margin)
    return Decision(
        outcome=Outcome.UNDECIDED, margin=margin, summary=summary, obstacles=tuple(obstacles)
    )


def _at_their_word(rows: Rows[Row], margin: float) -> str:
    if len(rows.said("family", "L")) < len(rows):
        return ""
    try:
        if rows.kinds == {ForeignRow}:
            cells = foreign_cells(cast(Rows[ForeignRow], rows))
        else:
            cells = [row.cell() for row in rows]
        (few,) = condensed(cells, "speedup")
        found = contract.threshold(few, margin)
    except (EvidenceError, contract.ContractError):
        return ""
    would = f"enable Triton from L={found.min_L}" if found.min_L else "keep Triton off"
    return f" Taken at their word, these numbers would {would}."

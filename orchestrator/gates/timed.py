"""The times in a bench row: which columns they are, whose they are, what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kernels.bench.contract import CPU_INTERPRETER
from orchestrator.evidence.bench import LEVELS, BenchRow
from orchestrator.evidence.bench import SIDES as EVERY_SIDE
from orchestrator.evidence.cards import find_card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.roofline import Work
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, conclude, unverified
from orchestrator.models.verdict import GateResult, Reason, Verdict

SIDES = {
    "tri_ms": "the kernel",
    "ref_ms": "the reference",
    "kernel_tri_ms": "the kernel (kernel level)",
    "kernel_shipped_ms": "the shipped reference (kernel level)",
    "kernel_strongest_ms": "the strongest reference (kernel level)",
    "operator_tri_ms": "the kernel (operator level)",
    "operator_shipped_ms": "the shipped reference (operator level)",
    "operator_strongest_ms": "the strongest reference (operator level)",
}
"""Columns that are times of the whole cell."""
IMPLEMENTATIONS = {"tri_ms": "kernel", "ref_ms": "reference"} | {
    f"{level}_{side}_ms": f"{level}_{'launched' if side == 'tri' else side}"
    for level in LEVELS
    for side in EVERY_SIDE
}
"""Columns that name what was timed in those. A strongest reference may be another at each L."""
REQUIRED = ("tri_ms", "ref_ms")
EARLIEST_MS = 1_577_836_800_000
"""2020, before this project was: a clock that says less was never set."""


TOLERANCE = 1.05
"""Faster than the limit by this factor is impossible; less is a clock's or a datasheet's error."""
SLACK_MS = 5_000
"""How far from a cell a sample or a probe may lie and still tell about it."""


def timed_on_a_device(rows: Rows[BenchRow]) -> Rows[BenchRow]:
    """Those that Triton's interpreter did not time."""
    return rows.select([device != CPU_INTERPRETER for device in rows.column("device")])


def on_a_card(
    gate: str, file: str, rows: Sequence[Row], of_interpreter: str
) -> Rows[Row] | GateResult:
    """The rows that ran; or the gate's result, where none did or there was no card.

    `of_interpreter` says what the interpreter's rows leave open.
    """
    every = Rows.of(rows)
    ran = every.select(every.column("ok"))
    if CPU_INTERPRETER in ran.said("device"):
        finding = unverified(of_interpreter, "Measure on a CUDA device.", Reason.NO_CUDA_DEVICE)
    elif not ran:
        finding = unverified(f"{file} holds no cell that ran.", "Run the benchmark.")
    else:
        return ran
    return conclude(gate, [finding], {"cells": len(ran)}, "")


class Time(NamedTuple):
    """One time of one side of a row."""

    rows: Rows[Row]
    number: int
    column: str
    ms: float
    work: Work

    @property
    def row(self) -> Row:
        """Whose time it is."""
        return self.rows[self.number]

    @property
    def side(self) -> str:
        """In words."""
        return SIDES[self.column]

    def __str__(self) -> str:
        return f"{self.row.where} ({cell_name(self.row)}): {self.side}'s {self.ms:g} ms"


def cell_name(row: Row) -> str:
    """Family and L, as messages name a cell."""
    return f"{row.family} L={row.L or '?'}"


def distinct_times(columns: Iterable[str], level: str | None, basis: str | None) -> tuple[str, ...]:
    """Those of `columns` that do not say `tri_ms` and `ref_ms` again."""
    again = (f"{level}_tri_ms", f"{level}_{basis}_ms") if basis else ()
    return tuple(name for name in columns if name not in again)


def disturbed(message: str, next_step: str) -> Finding:
    """A finding that the card was not itself."""
    return Finding(Verdict.INVALID, Reason.MACHINE_DISTURBED, message, next_step)


def of_another_card(file: str, name: str, device: str, next_step: str) -> Finding:
    """A finding that a file names another card than the rows; of loose names nothing is sure."""
    message = f"{file} is of {name}, the rows are of {device}."
    if find_card(name) is None or find_card(device) is None:
        return unverified(message, next_step)
    return Finding(Verdict.INVALID, Reason.MALFORMED, message, next_step)

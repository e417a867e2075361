"""The times in a bench row: which columns they are, whose they are, what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Protocol, TypeVar

from kernels.bench.contract import CPU_INTERPRETER
from orchestrator.evidence.bench import LEVELS
from orchestrator.evidence.bench import SIDES as EVERY_SIDE
from orchestrator.evidence.cards import find_card
from orchestrator.evidence.roofline import Shaped, Work
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


class Timed(Shaped, Protocol):
    """A row of a bench CSV, this project's or a foreign one. It has the columns of `SIDES` too."""

    @property
    def tri_ms(self) -> float | None: ...  # noqa: D102
    @property
    def ref_ms(self) -> float | None: ...  # noqa: D102

    @property
    def where(self) -> str:
        """File and line."""

    @property
    def family(self) -> str:
        """Everything but L that tells cells apart."""

    @property
    def ok(self) -> bool:
        """Whether the cell ran."""

    @property
    def device(self) -> str | None:
        """As torch names it."""

    @property
    def level(self) -> str | None:
        """Of the document's columns."""

    @property
    def basis(self) -> str | None:
        """Of the document's columns."""

    @property
    def flush_mib(self) -> float | None:
        """Overwritten before each iteration."""

    @property
    def launch_us(self) -> float | None:
        """Launch floor of the device."""

    @property
    def iters(self) -> int | None:
        """Timed iterations of each side."""

    @property
    def began_ms(self) -> float | None:
        """Since the epoch."""

    @property
    def ended_ms(self) -> float | None:
        """Since the epoch."""


class Watched(Protocol):
    """The columns of a bench row that say when, on what and at which clock it was timed."""

    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def L(self) -> int | None: ...  # noqa: D102, N802
    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> str | None: ...  # noqa: D102
    @property
    def sm_mhz(self) -> float | None: ...  # noqa: D102
    @property
    def sm_max_mhz(self) -> float | None: ...  # noqa: D102
    @property
    def temperature_c(self) -> float | None: ...  # noqa: D102
    @property
    def began_ms(self) -> float | None: ...  # noqa: D102
    @property
    def ended_ms(self) -> float | None: ...  # noqa: D102


Row = TypeVar("Row", Timed, Watched)


def on_a_card(
    gate: str, file: str, rows: Sequence[Row], of_interpreter: str
) -> list[Row] | GateResult:
    """The rows that ran; or the gate's result, where none did or there was no card.

    `of_interpreter` says what the interpreter's rows leave open.
    """
    ran = [row for row in rows if row.ok]
    if any(row.device == CPU_INTERPRETER for row in ran):
        finding = unverified(of_interpreter, "Measure on a CUDA device.", Reason.NO_CUDA_DEVICE)
    elif not ran:
        finding = unverified(f"{file} holds no cell that ran.", "Run the benchmark.")
    else:
        return ran
    return conclude(gate, [finding], {"cells": len(ran)}, "")


TimesOf = Callable[[Timed], tuple[float | None, ...]]


@dataclass(frozen=True)
class Time:
    """One time of one side of a row."""

    row: Timed
    column: str
    ms: float
    work: Work

    @property
    def side(self) -> str:
        """In words."""
        return SIDES[self.column]

    def __str__(self) -> str:
        return f"{self.row.where} ({cell_name(self.row)}): {self.side}'s {self.ms:g} ms"


class Named(Protocol):
    """What a cell is called by."""

    @property
    def family(self) -> str:
        """Everything but L."""

    @property
    def L(self) -> int | None:  # noqa: N802
        """Selected length."""


def cell_name(row: Named) -> str:
    """Family and L, as messages name a cell."""
    return f"{row.family} L={row.L or '?'}"


@cache
def times_of(
    columns: tuple[str, ...], level: str | None, basis: str | None
) -> tuple[tuple[str, ...], TimesOf]:
    """Those of `columns` that do not say `tri_ms` and `ref_ms` again, and how to get them.

    There are at least two: the getter gives a tuple.
    """
    again = (f"{level}_tri_ms", f"{level}_{basis}_ms") if basis else ()
    distinct = tuple(name for name in columns if name not in again)
    return distinct, attrgetter(*distinct)


def disturbed(message: str, next_step: str) -> Finding:
    """A finding that the card was not itself."""
    return Finding(Verdict.INVALID, Reason.MACHINE_DISTURBED, message, next_step)


def of_another_card(file: str, name: str, device: str, next_step: str) -> Finding:
    """A finding that a file names another card than the rows; of loose names nothing is sure."""
    message = f"{file} is of {name}, the rows are of {device}."
    if find_card(name) is None or find_card(device) is None:
        return unverified(message, next_step)
    return Finding(Verdict.INVALID, Reason.MALFORMED, message, next_step)

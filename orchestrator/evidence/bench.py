"""Bench CSVs as typed rows: the contract's, or the source project's without our extra columns.

Read some rows at a time, column by column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import truediv
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_type_hints

from kernels.bench import contract
from kernels.bench.bench_csv import Records
from kernels.bench.contract import Cell
from orchestrator.evidence.columns import Slice, families_of
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.rows import Rows, ascending, tuples
from orchestrator.evidence.text import refuse_wide, text_of
from orchestrator.evidence.values import (
    EMPTY,
    negative,
    no_count,
    no_mode,
    no_spans,
    no_version,
    no_word,
)

MAX_BYTES = 64 * 2**20
TRITON_PREFIX = contract.TRITON_PREFIX
"""What `kernel` and `kernel_path` begin with when a Triton kernel ran, not a fallback."""

Level = Literal["kernel", "operator"]
Basis = Literal["shipped", "strongest"]
Side = Literal["tri", "shipped", "strongest"]
LEVELS: tuple[Level, ...] = get_args(Level)
BASES: tuple[Basis, ...] = get_args(Basis)
SIDES: tuple[Side, ...] = get_args(Side)
CHOICES = {
    "level": LEVELS,
    "basis": BASES,
    "dtype": ("fp16", "bf16", "fp32"),
    "dist": ("few", "many", "mixed"),
    "form": ("rows", "decode"),
    "ragged": ("equal", "uniform"),
}
"""What the contract's columns may say; any other word would slip past the gates that read it."""

_OK = "ok"
_COUNTS = ("N", "H", "D", "Dv", "L", "streams")
_NEVER_NEGATIVE = (
    "iters", "warmup", "tri_cv", "ref_cv", "max_err",
    "ref_max_err", "bytes", "flops", "tri_streams", "ref_streams", "flush_mib", "l2_mib",
    "launch_us", "sm_mhz", "sm_max_mhz", "mem_mhz",
)  # fmt: skip
_MEASURED = ("tri_ms", "ref_ms", "speedup", "mae")
"""What every cell that ran has."""


class BenchRow(NamedTuple):
    """One measured cell, each column by its name.

    What is None: a column that the file does not have or leaves empty, and the measurements of a
    cell that did not run (`ok` is False).
    """

    file: str
    line: int
    family: str
    """Everything but L that tells cells apart."""
    mode: str
    N: int
    H: int
    D: int
    Dv: int
    L: int
    nspans: int | None
    streams: int
    tri_ms: float | None
    ref_ms: float | None
    speedup: float | None
    mae: float | None
    contract: int | None = None
    status: str | None = None
    dist: str | None = None
    dtype: str | None = None
    device: str | None = None
    level: str | None = None
    kernel: str | None = None
    reference: str | None = None
    max_err: float | None = None
    ref_mae: float | None = None
    ref_max_err: float | None = None
    ref_probe: str | None = None
    speedup_lo: float | None = None
    speedup_hi: float | None = None
    iters: int | None = None
    warmup: int | None = None
    basis: str | None = None
    ragged: str | None = None
    form: str | None = None
    seed: int | None = None
    kernel_tri_ms: float | None = None
    kernel_shipped_ms: float | None = None
    kernel_strongest_ms: float | None = None
    operator_tri_ms: float | None = None
    operator_shipped_ms: float | None = None
    operator_strongest_ms: float | None = None
    kernel_shipped_lo: float | None = None
    kernel_shipped_hi: float | None = None
    kernel_strongest_lo: float | None = None
    kernel_strongest_hi: float | None = None
    operator_shipped_lo: float | None = None
    operator_shipped_hi: float | None = None
    operator_strongest_lo: float | None = None
    operator_strongest_hi: float | None = None
    kernel_shipped: str | None = None
    kernel_strongest: str | None = None
    operator_shipped: str | None = None
    operator_strongest: str | None = None
    tri_probe: str | None = None
    tri_p10: float | None = None
    tri_p90: float | None = None
    ref_p10: float | None = None
    ref_p90: float | None = None
    tri_cv: float | None = None
    ref_cv: float | None = None
    aa_lo: float | None = None
    aa_hi: float | None = None
    bytes: float | None = None
    flops: float | None = None
    tri_streams: int | None = None
    ref_streams: int | None = None
    timer: str | None = None
    settled: str | None = None
    flush_mib: float | None = None
    l2_mib: float | None = None
    launch_us: float | None = None
    sm_mhz: float | None = None
    sm_max_mhz: float | None = None
    mem_mhz: float | None = None
    temperature_c: float | None = None
    began_ms: int | None = None
    ended_ms: int | None = None
    torch: str | None = None
    triton: str | None = None
    kernel_launched: str | None = None
    operator_launched: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the cell ran. A file without a status column has only cells that did."""
        return self.status is None or self.status == _OK

    @property
    def interpreted(self) -> bool:
        """Whether Triton's interpreter produced it: its times say nothing about any GPU."""
        return self.device == contract.CPU_INTERPRETER

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"

    def ms(self, level: Level, side: Side) -> float | None:
        """Time of one side at one level, ms."""
        value: float | None = getattr(self, f"{level}_{side}_ms")
        return value

    def speedup_of(self, level: Level, basis: Basis) -> float | None:
        """Speedup at one level over one reference."""
        if (self.level, self.basis) == (level, basis):
            return self.speedup
        ours, theirs = self.ms(level, "tri"), self.ms(level, basis)
        return theirs / ours if ours and theirs else None

    def interval(self, level: Level, basis: Basis) -> tuple[float, float] | None:
        """Bounds of that speedup's 95 % interval."""
        low: float | None = getattr(self, f"{level}_{basis}_lo")
        high: float | None = getattr(self, f"{level}_{basis}_hi")
        if (low is None or high is None) and (self.level, self.basis) == (level, basis):
            low, high = self.speedup_lo, self.speedup_hi
        return None if low is None or high is None else (low, high)

    def cell(self, level: Level | None = None, basis: Basis | None = None) -> Cell:
        """What the decision rule reads of it, as `cells_of` has it."""
        return cells_of([self], level, basis)[0]


def cells_of(
    rows: Sequence[BenchRow], level: Level | None = None, basis: Basis | None = None
) -> list[Cell]:
    """What the decision rule reads: the lower bound at a level, over a reference.

    Without them, the rows' own: `speedup_lo` where a row has it, `speedup` otherwise.

    Raises:
        EvidenceError: a cell did not run, or lacks that bound.
    """
    every = Rows.of(rows)
    bounds: Sequence[Any] = lower_bounds(every, level, basis)
    maes = every.column("mae")
    if None in bounds or None in maes:
        found = enumerate(zip(bounds, maes, strict=True))
        number, (bound, _) = next(each for each in found if None in each[1])
        own = level is None or basis is None
        missing = "mae" if bound is not None else "speedup" if own else f"{level}_{basis}_lo"
        row = every[number]
        raise EvidenceError("not measured", file=row.file, line=row.line, column=missing)
    devices = [device or "" for device in every.column("device")]
    return tuples(Cell, every.column("family"), every.column("L"), bounds, maes, devices)


def lower_bounds(
    rows: Rows[BenchRow], level: Level | None = None, basis: Basis | None = None
) -> Sequence[float | None]:
    """Of the speedups that `cells_of` reads; None where a row has none.

    A bound above the ratio of the times, which rounding and its slack allow, counts as that ratio.
    From then on they are the rows' column `operator_strongest_bound`, or that of the others.
    """
    if level is None or basis is None:
        return rows.derived("own_bound", _own_bounds)
    return rows.derived(f"{level}_{basis}_bound", partial(_bounds, level, basis))


def _own_bounds(rows: Rows[BenchRow]) -> list[float | None]:
    ratios = rows.column("speedup")
    lows = _no_higher(rows.column("speedup_lo"), ratios)
    return [ratio if low is None else low for low, ratio in zip(lows, ratios, strict=True)]


def _bounds(level: Level, basis: Basis, rows: Rows[BenchRow]) -> Sequence[float | None]:
    def of(some: Rows[BenchRow], *own: str | None) -> Sequence[float | None]:
        lows, ratios = some.column(f"{level}_{basis}_lo"), some.column("speedup")
        if own == (level, basis):
            pairs = zip(lows, some.column("speedup_lo"), strict=True)
            lows = [other if low is None else low for low, other in pairs]
        else:
            ours, theirs = some.column(f"{level}_tri_ms"), some.column(f"{level}_{basis}_ms")
            if all(ours) and all(theirs):
                ratios = list(map(truediv, theirs, ours))
            else:
                times = zip(theirs, ours, strict=True)
                ratios = [each / own if each and own else None for each, own in times]
        return _no_higher(lows, ratios)

    return rows.together(of, "level", "basis")


def _no_higher(lows: Sequence[Any], ratios: Sequence[Any]) -> Sequence[float | None]:
    """Each bound, or the ratio where that is below it; None where there is no bound."""
    if ascending(lows, ratios):
        return lows  # as they should be
    return [
        ratio if low is not None and ratio is not None and ratio < low else low
        for low, ratio in zip(lows, ratios, strict=True)
    ]


@dataclass(frozen=True)
class BenchTable:
    """A CSV's rows, and whether it is whole."""

    file: str
    columns: tuple[str, ...]
    rows: Rows[BenchRow]
    complete: bool
    """The end mark is there and counts the rows."""
    ended: bool
    """The end mark is there."""
    problem: str | None = None
    gaps: frozenset[str] = frozenset()
    """Columns that are empty in some row."""

    def lacks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are not among the columns."""
        return tuple(name for name in names if name not in self.columns)


def parse_bench(data: bytes, name: str = "CSV") -> BenchTable:
    """Read a bench CSV.

    Raises:
        EvidenceError: not a CSV of the contract or the source project, appended to, a document
            column missing, or a field that is not what its column says (NaN included).
    """
    text = text_of(data, name, MAX_BYTES)
    try:
        records = Records(text, name)
        refuse_wide(records.columns, name, 1)
        for column in contract.DENSE_COLUMNS:
            if column not in records.columns:
                raise EvidenceError("missing from the header", file=name, column=column)
        reading = _Reading(name, records.columns)
        for lines, columns in records.blocks():
            reading.take(lines, columns)
    except contract.ContractError as error:
        raise _relocated(error, name) from None
    problem = records.problem
    return BenchTable(
        name,
        records.columns,
        reading.rows(),
        problem is None,
        records.ended,
        problem,
        frozenset(reading.gaps),
    )


def _relocated(error: contract.ContractError, name: str) -> EvidenceError:
    """The contract's error, with its `file, line n: ` taken apart."""
    message = str(error)
    found = re.match(re.escape(name) + r"(?:, line (\d+))?:? ", message)
    if not found:
        return EvidenceError(message, file=name)
    line = int(found[1]) if found[1] else None
    return EvidenceError(message[found.end() :], file=name, line=line)


_KINDS: dict[str, type] = {
    name: (get_args(kind) or (kind,))[0]
    for name, kind in get_type_hints(BenchRow).items()
    if name not in ("file", "line", "family")
}
"""What each column holds: str, int or float."""


class _Reading:
    """The rows that were read so far, and their columns."""

    def __init__(self, file: str, names: Sequence[str]) -> None:
        self.gaps: set[str] = set()
        self._file = file
        self._names = names
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("ok", "line", "family", *_KINDS)
        }
        self._families: dict[tuple[object, ...], str] = {}

    def take(self, lines: Sequence[int], columns: Sequence[Sequence[str]]) -> None:
        """Read some rows, each column by the type that `BenchRow` gives it."""
        text = Slice(self._file, self._names, lines, columns)
        every = (True,) * len(lines)
        # What a cell that did not run leaves in its columns is no evidence, good or bad.
        ran = [status in (None, _OK) for status in text.read("status", str, every)]
        read = {
            name: text.read(name, kind, every if name in _COUNTS else ran)
            for name, kind in _KINDS.items()
        }
        self.gaps |= text.gaps
        read = {"line": text.lines, "family": families_of(read, self._families), **read}
        for name, values in {"ok": ran, **read}.items():
            self._columns[name] += values

    def rows(self) -> Rows[BenchRow]:
        """All rows.

        Raises:
            EvidenceError: a field is empty, not above zero or no word of the contract, and must be.
        """
        files = [self._file] * len(self._columns["line"])
        rows = Rows.read(BenchRow, {"file": files, **self._columns})
        for wrong, (name, *others) in _RULES:
            for row in rows.where(wrong, name, *others):
                problem = wrong(*(getattr(row, each) for each in (name, *others)))
                self._refuse(row, name, problem)
        for name in self.gaps.intersection(_MEASURED):
            for row in rows.where(lambda ok, value: ok and value is None, "ok", name):
                self._refuse(row, name, EMPTY)
        return rows

    def _refuse(self, row: BenchRow, column: str, problem: str | None) -> NoReturn:
        if problem == EMPTY and column not in self._names:
            problem = "missing from the header"
        newer = column == "contract" and (row.contract or 0) > contract.CONTRACT_VERSION
        raise EvidenceError(
            str(problem),
            file=self._file,
            line=row.line,
            column=column,
            remedy=_UPDATE if newer else None,
        )


_UPDATE = "Update orchestrate: a newer benchmark wrote this."
_RULES: tuple[tuple[Callable[..., str | None], tuple[str, ...]], ...] = (
    (no_mode, ("mode",)),
    *((partial(no_word, choices), (name,)) for name, choices in CHOICES.items()),
    *((no_count, (name,)) for name in _COUNTS),
    *((negative, (name,)) for name in _NEVER_NEGATIVE),
    (no_spans, ("nspans", "mode")),
    (no_version, ("contract",)),
)
"""What is wrong with a value of the first column, as the others are."""

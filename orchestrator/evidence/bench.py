"""Bench CSVs as typed rows: the contract's, or the source project's without our extra columns.

Read column by column, some rows at a time: row by row, a hundred thousand of them took most of a
judgement's time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_type_hints

from kernels.bench import contract
from kernels.bench.contract import Cell
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import NUMBER, refuse_wide, text_of

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

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+", re.ASCII)
_LARGE = 10**18
_AT_ONCE = 64
"""Rows whose text is held at a time: few enough for the processor's cache."""
_OK = "ok"
_COUNTS = ("N", "H", "D", "Dv", "L", "streams")
_NEVER_NEGATIVE = (
    "iters", "warmup", "tri_cv", "ref_cv", "max_err",
    "ref_max_err", "bytes", "flops", "tri_streams", "ref_streams", "flush_mib", "l2_mib",
    "launch_us", "sm_mhz", "sm_max_mhz", "mem_mhz",
)  # fmt: skip
_MEASURED = ("tri_ms", "ref_ms", "speedup", "mae")
"""What every cell that ran has."""
IDENTITY = (
    "mode", "dist", "N", "H", "D", "Dv", "nspans", "streams", "dtype", "level", "form", "ragged",
)  # fmt: skip
"""What the contract may name a family by."""


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
        """What the decision rule reads: the lower bound at a level, over a reference.

        Without them, the row's own: `speedup_lo` where it has it, `speedup` otherwise. A bound
        above the ratio of the times, which rounding and its slack allow, counts as that ratio.

        Raises:
            EvidenceError: the cell did not run, or lacks that bound.
        """
        if level is None or basis is None:
            bound = self.speedup if self.speedup_lo is None else self.speedup_lo
            column = "speedup"
        else:
            column = f"{level}_{basis}_lo"
            bound = getattr(self, column)
            if bound is None and (self.level, self.basis) == (level, basis):
                bound = self.speedup_lo
        ratio = self.speedup if level is None or basis is None else self.speedup_of(level, basis)
        if bound is not None and ratio is not None:
            bound = min(bound, ratio)
        for name, value in ((column, bound), ("mae", self.mae)):
            if value is None:
                raise EvidenceError("not measured", file=self.file, line=self.line, column=name)
        assert bound is not None and self.mae is not None  # noqa: S101, PT018 - just looked at
        return Cell(self.family, self.L, bound, self.mae, self.device or "")


@dataclass(frozen=True)
class BenchTable:
    """A CSV's rows, and whether it is whole."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[BenchRow, ...]
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
        records = contract.Records(text, name)
        refuse_wide(records.columns, name, 1)
        for column in contract.DENSE_COLUMNS:
            if column not in records.columns:
                raise EvidenceError("missing from the header", file=name, column=column)
        rows: list[BenchRow] = []
        gaps: set[str] = set()
        reading = iter(records)
        while some := list(islice(reading, _AT_ONCE)):
            rows += _Columns(name, records.columns, some).rows(gaps)
    except contract.ContractError as error:
        raise _relocated(error, name) from None
    problem = records.problem
    return BenchTable(
        name,
        records.columns,
        tuple(rows),
        problem is None,
        records.ended,
        problem,
        frozenset(gaps),
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


class _Columns:
    """Reads some rows column by column, each by the type that `BenchRow` gives it."""

    def __init__(
        self, file: str, names: Sequence[str], records: Sequence[tuple[int, list[str]]]
    ) -> None:
        self._file = file
        self._lines = [line for line, _ in records]
        columns = zip(*(fields for _, fields in records), strict=True)
        self._columns = dict(zip(names, map(_stripped, columns), strict=True))
        self._none = ("",) * len(records)
        self._ran = [status in ("", _OK) for status in self._fields("status")]

    def rows(self, gaps: set[str]) -> Iterable[BenchRow]:
        """The rows; the columns that are empty in one of them are added to `gaps`."""
        for number, mode in enumerate(self._fields("mode")):
            if mode not in ("dense", "varlen"):
                self._bad(number, "mode", f"{mode!r} is neither dense nor varlen" if mode else "")
        read = {name: self._read(name, kind) for name, kind in _KINDS.items()}
        self._check(read)
        gaps.update(name for name, values in read.items() if None in values)
        file = [self._file] * len(self._lines)
        return map(
            BenchRow._make,
            zip(file, self._lines, families_of(read), *read.values(), strict=True),
        )

    def _check(self, read: Mapping[str, Sequence[Any]]) -> None:
        """What must be there, and above zero; and words that must be of the contract."""
        for name, choices in CHOICES.items():
            if not {None, *choices}.issuperset(read[name]):
                number, value = next(
                    (n, v) for n, v in enumerate(read[name]) if v is not None and v not in choices
                )
                self._bad(number, name, f"{value[:40]!r} is none of {', '.join(choices)}")
        for name in _COUNTS:
            for number, value in enumerate(read[name]):
                if value is None or value < 1:
                    self._bad(number, name, "" if value is None else f"{value} is not positive")
        for name in _NEVER_NEGATIVE:
            if min(filter(None, read[name]), default=0) < 0:
                number, value = next((n, v) for n, v in enumerate(read[name]) if v and v < 0)
                self._bad(number, name, f"{value:g} is below zero")
        for name in _MEASURED:
            if None in read[name]:
                for number, (value, ran) in enumerate(zip(read[name], self._ran, strict=True)):
                    if ran and value is None:
                        self._bad(number, name, "")
        for number, (mode, spans) in enumerate(zip(read["mode"], read["nspans"], strict=True)):
            if mode == "varlen" and (spans is None or spans < 1):
                self._bad(number, "nspans", "" if spans is None else f"{spans} is not positive")
        for number, version in enumerate(read["contract"]):
            if version is not None and not 1 <= version <= contract.CONTRACT_VERSION:
                self._bad(
                    number, "contract", f"version {version}; this is {contract.CONTRACT_VERSION}"
                )

    def _fields(self, name: str) -> Sequence[str]:
        return self._columns.get(name, self._none)

    def _read(self, name: str, kind: type) -> Sequence[Any]:
        fields = self._fields(name)
        first, count = fields[0], len(fields)
        if fields.count(first) == count:  # as most columns are; and the rows share the value
            only = self._one(name, kind, 0)
            if only is not None or not first:
                return [only] * count
        if kind is not str:
            numbers = _all_plain(fields, kind)
            if numbers is not None:
                return numbers
        return [self._one(name, kind, number) for number in range(count)]

    def _one(self, name: str, kind: type, number: int) -> str | int | float | None:
        value = self._fields(name)[number]
        if kind is str or not value:
            return value or None
        pattern, what = (_INTEGER, "a whole number") if kind is int else (NUMBER, "a finite number")
        parsed: int | float = kind(value) if pattern.fullmatch(value) else math.nan
        if math.isfinite(parsed):
            return parsed
        # What a cell that did not run leaves in its columns is no evidence, good or bad.
        if self._ran[number] or name in _COUNTS:
            hint = ": write a point, not a decimal comma" if _DECIMAL_COMMA.fullmatch(value) else ""
            self._bad(number, name, f"{value[:40]!r} is not {what}{hint}")
        return None

    def _bad(self, number: int, column: str, problem: str) -> NoReturn:
        if not problem:
            problem = "empty" if column in self._columns else "missing from the header"
        line = self._lines[number]
        raise EvidenceError(problem, file=self._file, line=line, column=column)


def families_of(read: Mapping[str, Sequence[Any]]) -> list[str]:
    """Named by the contract, from what was read: `01` is `1`. Each is named once."""
    named: dict[tuple[object, ...], str] = {}
    families = []
    for key in zip(*(read[name] for name in IDENTITY), strict=True):
        if key not in named:
            present = zip(IDENTITY, key, strict=True)
            named[key] = contract.family_of({n: str(v) for n, v in present if v is not None})
        families.append(named[key])
    return families


def _stripped(fields: Sequence[str]) -> Sequence[str]:
    joined = "".join(fields)
    return list(map(str.strip, fields)) if " " in joined or "\t" in joined else fields


def _all_plain(fields: Sequence[str], kind: type) -> Sequence[int | float] | None:
    """All numbers of a column at once; None where any field is odd."""
    joined = "".join(fields)
    if not joined.isascii() or "_" in joined:
        return None
    try:
        numbers: list[int | float] = list(map(kind, fields))
    except ValueError:
        return None
    plain = -_LARGE < min(numbers) <= max(numbers) < _LARGE  # never true of NaN
    return numbers if plain and math.isfinite(sum(numbers)) else None

"""Bench CSVs that others wrote: the document's columns, their usual variants, and gaps.

`evidence.bench` is strict, because this project's benchmark wrote what it reads. Here a missing
column is no error: whoever judges names it. Only what cannot be read as a table of cells at all
is refused.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_type_hints

from kernels.bench import contract
from orchestrator.evidence.bench import CHOICES, BenchRow
from orchestrator.evidence.columns import families_of
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.headers import MICRO, TIMES, Header, read_header
from orchestrator.evidence.rows import Rows, tuples
from orchestrator.evidence.text import DECIMAL_COMMA, NOT_FINITE, NUMBER, delimiter_of, text_of

MAX_BYTES = 64 * 2**20
_LARGEST = 1e9
"""No shape has more rows, heads or keys."""

_MEASURED = (*TIMES, "speedup", "mae")
_FINE = ("", "ok", "pass", "passed", "success", "done", "0")
_WITH_UNIT = re.compile(r"(.*?)\s*(ms|us|x)")
_UNSAID = ("", "-", "?", "n/a", "na", "none", "null")
_DTYPES = {
    "float16": "fp16", "half": "fp16", "torch.float16": "fp16", "f16": "fp16",
    "bfloat16": "bf16", "torch.bfloat16": "bf16",
    "float32": "fp32", "float": "fp32", "torch.float32": "fp32", "f32": "fp32",
}  # fmt: skip
_FAILURES = ("ERROR", "FAIL", "OOM", "TIMEOUT", "CRASH")


class ForeignRow(NamedTuple):
    """One row: the contract's columns, each None where the file does not say it.

    Measured numbers may be NaN or infinite: that is what was measured, and the gates refuse it.
    """

    file: str
    line: int
    family: str
    """Everything but L that tells cells apart."""
    failed: str | None
    """What became of a cell that did not run; None for one that did."""
    mode: str
    N: int | None = None
    H: int | None = None
    D: int | None = None
    Dv: int | None = None
    L: int | None = None
    nspans: int | None = None
    streams: int | None = None
    tri_ms: float | None = None
    ref_ms: float | None = None
    speedup: float | None = None
    mae: float | None = None
    dist: str | None = None
    dtype: str | None = None
    device: str | None = None
    level: str | None = None
    basis: str | None = None
    ragged: str | None = None
    form: str | None = None
    kernel: str | None = None
    max_err: float | None = None
    ref_mae: float | None = None
    ref_probe: str | None = None
    speedup_lo: float | None = None
    iters: int | None = None
    kernel_tri_ms: float | None = None
    kernel_shipped_ms: float | None = None
    kernel_strongest_ms: float | None = None
    operator_tri_ms: float | None = None
    operator_shipped_ms: float | None = None
    operator_strongest_ms: float | None = None
    reference: str | None = None
    kernel_launched: str | None = None
    kernel_shipped: str | None = None
    kernel_strongest: str | None = None
    operator_launched: str | None = None
    operator_shipped: str | None = None
    operator_strongest: str | None = None
    bytes: float | None = None
    flops: float | None = None
    tri_streams: int | None = None
    ref_streams: int | None = None
    flush_mib: float | None = None
    launch_us: float | None = None
    sm_mhz: float | None = None
    sm_max_mhz: float | None = None
    temperature_c: float | None = None
    began_ms: float | None = None
    ended_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the cell ran."""
        return self.failed is None

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"

    def cell(self) -> contract.Cell:
        """What the decision rule reads, as `foreign_cells` has it."""
        return foreign_cells(Rows([self]))[0]


def foreign_cells(rows: Rows[ForeignRow]) -> list[contract.Cell]:
    """What the decision rule reads; the times' ratio where nothing better is there.

    Raises:
        EvidenceError: no L, no error, or no speedup.
    """
    bounds = [
        low
        if low is not None
        else theirs / ours
        if speedup is None and ours and theirs
        else speedup
        for low, speedup, ours, theirs in rows.columns("speedup_lo", "speedup", "tri_ms", "ref_ms")
    ]
    lengths, maes = rows.column("L"), rows.column("mae")
    if any(None in column for column in (bounds, lengths, maes)):
        row = next(
            row for row, *needed in zip(rows, bounds, lengths, maes, strict=True) if None in needed
        )
        raise EvidenceError("no L, mae or speedup", file=row.file, line=row.line)
    devices = [device or "" for device in rows.column("device")]
    return tuples(contract.Cell, rows.column("family"), lengths, bounds, maes, devices)


Row = BenchRow | ForeignRow
"""A row of a bench CSV, this project's or another's: what gates of both kinds judge."""

_TYPES: Mapping[str, Any] = get_type_hints(ForeignRow)
_READ = ForeignRow._fields[5:]


@dataclass(frozen=True)
class ForeignTable:
    """A CSV's rows, and how its header was understood."""

    file: str
    rows: Rows[ForeignRow]
    renamed: Mapping[str, str]
    """Columns that are called otherwise in the contract, with its names."""
    others: Mapping[str, Sequence[str]]
    """Columns that the contract has not, as they were written."""
    ended: bool
    """Whether an end mark was there; it counted the rows, then."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of `others`."""
        return tuple(self.others)

    def lacks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` for which no row that ran has a value."""
        ran = self.rows.select(self.rows.column("ok"))
        return tuple(name for name in names if ran.said(name) <= {None})


def parse_foreign(data: bytes, name: str = "CSV") -> ForeignTable:
    """Read a bench CSV of any origin.

    Raises:
        EvidenceError: no text, no header that names L and a time, two columns of one meaning, a
            second header (an appended file), or a row that is cut off.
    """
    return _Reader(text_of(data, name, MAX_BYTES), name).table()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._spaced = not text.isascii() or any(space in text for space in " \t\v\f")
        self._csv = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
        self._header: Header | None = None
        self._fields: list[list[str]] = []
        self._lines: list[int] = []
        self._failed: list[str | None] = []

    def table(self) -> ForeignTable:
        try:
            end = self._read()
        except csv.Error as error:
            raise self._error(f"not a CSV: {error}") from None
        if self._header is None:
            raise EvidenceError("empty", file=self._name)
        count = len(self._fields)
        if end is not None and end != str(count):
            raise EvidenceError(
                f"the end mark counts {end[:20]} rows, the file holds {count}: it is truncated",
                file=self._name,
            )
        header = self._header.with_versions(self._fields)
        columns = zip(*self._fields, strict=True)
        told = dict(zip(header.names, columns, strict=True)) if count else {}
        rows = self._rows(header, told) if count else Rows[ForeignRow]()
        others = {name: told.get(name, ()) for name in header.unknown}
        return ForeignTable(self._name, rows, header.renamed, others, end is not None)

    def _error(self, problem: str, remedy: str | None = None) -> EvidenceError:
        return EvidenceError(problem, file=self._name, line=self._csv.line_num, remedy=remedy)

    def _read(self) -> str | None:
        """Take in all lines; what the end mark counts, None where there is none."""
        end: str | None = None
        header: Header | None = None
        for raw in self._csv:
            fields = [field.strip() for field in raw] if self._spaced else raw
            if not any(fields):
                continue
            if end is not None:
                raise self._error("data after the end mark; the file was appended to")
            if fields[0].startswith("#"):
                if fields[0] == contract.END_MARK:
                    end = fields[1] if len(fields) > 1 else ""
            elif header is None:
                header = self._header = read_header(fields, self._name, self._csv.line_num)
                first = fields[0].lower()
            elif fields[0].lower() == first and header.repeated_by(fields):
                raise self._error("a second header; the file was appended to")
            else:
                whole = len(fields) == len(header.names)
                self._failed.append(None if whole else self._filled_up(fields, len(header.names)))
                self._fields.append(fields)
                self._lines.append(self._csv.line_num)
        return end

    def _filled_up(self, fields: list[str], width: int) -> str:
        """Fill up a row that ends in a word of failure, and return that word."""
        missing = width - len(fields)
        word = next((field for field in fields if field.upper().startswith(_FAILURES)), None)
        if missing < 0:
            raise self._error(
                f"{len(fields)} fields, the header names {width}: decimal commas, or two files in "
                "one",
                remedy="Write decimal points: commas stand between fields only.",
            )
        if word is None:
            raise self._error(
                f"{len(fields)} fields, the header names {width}: truncated, or two files in one"
            )
        fields += [""] * missing
        return word

    # --- column by column -----------------------------------------------------------------------

    def _rows(self, header: Header, told: Mapping[str, Sequence[str]]) -> Rows[ForeignRow]:
        if "status" in told:
            for index, status in enumerate(told["status"]):
                if status.lower() not in _FINE:
                    self._failed[index] = status
        guessed = "varlen" if "nspans" in told or "varlen" in self._name.lower() else "dense"
        modes = told.get("mode", ("",) * self._size)
        nothing = (None,) * self._size
        columns: dict[str, Sequence[Any]] = {"mode": [mode.lower() or guessed for mode in modes]}
        for name in _READ:
            kinds = get_args(_TYPES[name])
            if name not in told:
                columns[name] = nothing
            elif str in kinds:
                columns[name] = _words(name, told[name])
            elif int in kinds:
                columns[name] = self._counts(name, told[name])
            else:
                scale = 1e-3 if name in header.micro else 1.0
                columns[name] = self._numbers(name, told[name], scale)
        files, families = [self._name] * self._size, families_of(columns, {})
        ran = [failed is None for failed in self._failed]
        own: dict[str, Sequence[Any]]
        own = {"file": files, "line": self._lines, "family": families, "failed": self._failed}
        return Rows.read(ForeignRow, {"ok": ran, **own, **columns})

    @property
    def _size(self) -> int:
        return len(self._fields)

    def _numbers(self, name: str, fields: Sequence[str], scale: float) -> list[float | None]:
        if _plain(fields):
            try:
                if scale == 1:
                    return list(map(float, fields))
                return [float(field) * scale for field in fields]
            except ValueError:
                pass  # one that is empty, has a unit, or is a word: field by field then
        numbers: list[float | None] = []
        for index, field in enumerate(fields):
            number = _number(field)
            if number is None and field and name in _MEASURED and self._failed[index] is None:
                comma = DECIMAL_COMMA.fullmatch(field)
                hint = ", with a decimal comma: write a point" if comma else ""
                self._failed[index] = f"{name} is {field}{hint}"
            numbers.append(None if number is None else number * scale)
        return numbers

    def _counts(self, name: str, fields: Sequence[str]) -> Sequence[int | None]:
        """Positive whole numbers; None where nothing is said, or the cell did not run."""
        if _plain(fields):
            try:
                counts = list(map(int, fields))
            except ValueError:
                counts = []
            if counts and min(counts) >= 1 and max(counts) <= _LARGEST:
                return counts
        return [self._count(name, index, field) for index, field in enumerate(fields)]

    def _count(self, name: str, index: int, field: str) -> int | None:
        number = _number(field)
        if number is not None and 1 <= number <= _LARGEST and number == int(number):
            return int(number)
        if field.lower() in _UNSAID or self._failed[index] is not None:
            return None
        raise EvidenceError(
            f"{field[:40]!r} is not a whole number from 1 on",
            file=self._name,
            line=self._lines[index],
            column=name,
        )


def _words(name: str, fields: Sequence[str]) -> Sequence[str | None]:
    if name == "dtype":
        return [_DTYPES.get(field.lower(), field.lower()) or None for field in fields]
    if name in CHOICES:
        return [field.lower() or None for field in fields]
    return [field or None for field in fields]


def _plain(fields: Sequence[str]) -> bool:
    """Whether float() reads what is written; it also takes `1_000` and full-width digits."""
    joined = "".join(fields)
    return joined.isascii() and "_" not in joined


def _number(field: str) -> float | None:
    """`0.18`, `180 us` or `1.3x`; None for a word."""
    with_unit = _WITH_UNIT.fullmatch(field.translate(MICRO))
    bare = with_unit[1] if with_unit else field
    if not NUMBER.fullmatch(bare) and not NOT_FINITE.fullmatch(bare):
        return None
    return float(bare) / 1e3 if with_unit and with_unit[2] == "us" else float(bare)

"""Bench CSVs as typed rows: the contract's, or the source project's without our extra columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from kernels.bench import contract
from kernels.bench.contract import Cell
from orchestrator.evidence.errors import EvidenceError

MAX_BYTES = 64 * 2**20
TRITON_PREFIX = contract.TRITON_PREFIX
"""What `kernel` and `kernel_path` begin with when a Triton kernel ran, not a fallback."""

# int() and float() also take "1_000", full-width digits and "infinity".
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_OK = "ok"


@dataclass(frozen=True)
class BenchRow:
    """One measured cell.

    What is None: a column that the file does not have or leaves empty, and the measurements of a
    cell that did not run (`ok` is False).
    """

    file: str
    line: int
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
    text: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The fields as they were written."""

    @property
    def ok(self) -> bool:
        """Whether the cell ran. A file without a status column has only cells that did."""
        return self.status in (None, _OK)

    @property
    def interpreted(self) -> bool:
        """Whether Triton's interpreter produced it: its times say nothing about any GPU."""
        return self.device == contract.CPU_INTERPRETER

    @property
    def family(self) -> str:
        """Everything but L that tells cells apart."""
        return contract.family_of(self.text)

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"

    def cell(self) -> Cell:
        """What the decision rule reads.

        Raises:
            EvidenceError: the cell did not run.
        """
        try:
            return contract.cell_of(self.text, self.where)
        except contract.ContractError as error:
            raise EvidenceError(str(error), file=self.file, line=self.line) from None


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

    def lacks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are not among the columns."""
        return tuple(name for name in names if name not in self.columns)


def parse_bench(data: bytes, name: str = "CSV") -> BenchTable:
    """Read a bench CSV.

    Raises:
        EvidenceError: not a CSV of the contract or the source project, appended to, a document
            column missing, or a field that is not what its column says (NaN included).
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(
            f"{len(data)} bytes, more than the {MAX_BYTES} that are read", file=name
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EvidenceError("not UTF-8 text", file=name, line=line) from None
    try:
        table = contract.read_table(text, name)
    except contract.ContractError as error:
        raise _relocated(error, name) from None
    for column in contract.DENSE_COLUMNS:
        if column not in table.columns:
            raise EvidenceError("missing from the header", file=name, column=column)
    rows = tuple(
        _Fields(fields, name, line).row()
        for fields, line in zip(table.rows, table.lines, strict=True)
    )
    last = text.rstrip().rpartition("\n")[2]
    ended = last.startswith(contract.END_MARK)
    return BenchTable(name, table.columns, rows, table.complete, ended, table.problem)


def _relocated(error: contract.ContractError, name: str) -> EvidenceError:
    """The contract's error, with its `file, line n: ` taken apart."""
    message = str(error)
    found = re.match(re.escape(name) + r"(?:, line (\d+))?:? ", message)
    if not found:
        return EvidenceError(message, file=name)
    line = int(found[1]) if found[1] else None
    return EvidenceError(message[found.end() :], file=name, line=line)


class _Fields:
    """Reads one row's fields by name and type."""

    def __init__(self, fields: Mapping[str, str], file: str, line: int) -> None:
        self._fields = {name: value.strip() for name, value in fields.items()}
        self._file = file
        self._line = line
        self._ran = self._fields.get("status", "") in ("", _OK)

    def row(self) -> BenchRow:
        version = self._integer("contract", optional=True)
        if version is not None and version != contract.CONTRACT_VERSION:
            self._bad("contract", f"version {version}; this is {contract.CONTRACT_VERSION}")
        mode = self._text("mode")
        if mode not in ("dense", "varlen"):
            self._bad("mode", f"{mode!r} is neither dense nor varlen")
        return BenchRow(
            file=self._file,
            line=self._line,
            mode=mode,
            N=self._count("N"),
            H=self._count("H"),
            D=self._count("D"),
            Dv=self._count("Dv"),
            L=self._count("L"),
            nspans=self._integer("nspans", optional=mode == "dense"),
            streams=self._count("streams"),
            tri_ms=self._measurement("tri_ms"),
            ref_ms=self._measurement("ref_ms"),
            speedup=self._measurement("speedup"),
            mae=self._measurement("mae"),
            contract=version,
            status=self._fields.get("status") or None,
            dist=self._fields.get("dist") or None,
            dtype=self._fields.get("dtype") or None,
            device=self._fields.get("device") or None,
            level=self._fields.get("level") or None,
            kernel=self._fields.get("kernel") or None,
            reference=self._fields.get("reference") or None,
            max_err=self._number("max_err"),
            ref_mae=self._number("ref_mae"),
            ref_max_err=self._number("ref_max_err"),
            ref_probe=self._fields.get("ref_probe") or None,
            speedup_lo=self._number("speedup_lo"),
            speedup_hi=self._number("speedup_hi"),
            iters=self._integer("iters", optional=True),
            warmup=self._integer("warmup", optional=True),
            text=self._fields,
        )

    def _bad(self, column: str, problem: str) -> NoReturn:
        raise EvidenceError(problem, file=self._file, line=self._line, column=column)

    def _text(self, column: str) -> str:
        value = self._fields.get(column, "")
        if not value:
            self._bad(column, "empty" if column in self._fields else "missing from the header")
        return value

    def _integer(self, column: str, *, optional: bool = False) -> int | None:
        if optional and not self._fields.get(column):
            return None
        value = self._text(column)
        if not _INTEGER.fullmatch(value):
            self._bad(column, f"{value[:40]!r} is not a whole number")
        return int(value)

    def _count(self, column: str) -> int:
        value = self._integer(column) or 0
        if value < 1:
            self._bad(column, f"{value} is not a positive number")
        return value

    def _measurement(self, column: str) -> float | None:
        """A number that every cell that ran must have."""
        if self._ran:
            self._text(column)
        return self._number(column)

    def _number(self, column: str) -> float | None:
        value = self._fields.get(column, "")
        number = float(value) if _NUMBER.fullmatch(value) else math.nan
        if math.isfinite(number):
            return number
        # What a cell that did not run leaves in its columns is no evidence, good or bad.
        if self._ran and value:
            self._bad(column, f"{value[:40]!r} is not a finite number")
        return None

"""The contract between the benchmark and whoever judges it: CSV columns and the decision rule.

Standard library only: the controller imports this module on machines that have neither torch,
triton nor numpy (a test proves that the import loads none of them).

The first columns are those of the source playbook, in its order. Ours follow, so that a script
that reads the document's CSV by position or by name keeps working.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TextIO

CONTRACT_VERSION = 2

DENSE_COLUMNS = (
    "mode", "N", "H", "D", "Dv", "L", "streams", "tri_ms", "ref_ms", "speedup", "mae",
)  # fmt: skip
VARLEN_COLUMNS = (
    "mode", "N", "H", "D", "Dv", "L", "nspans", "streams", "tri_ms", "ref_ms", "speedup", "mae",
)  # fmt: skip
EXTRA_COLUMNS = (
    "contract",  # CONTRACT_VERSION of the writer
    "status",  # "ok", or what became of the cell: "error: <one line>"
    "dist",  # few | many | mixed
    "dtype",  # fp16 | bf16 | fp32
    "device",  # name of the CUDA device, or CPU_INTERPRETER
    "level",  # kernel: both sides get packed K/V; operator: both get Q, K, V, ranges
    "kernel",  # the kernel that really ran, from the launcher's record; begins with TRITON_PREFIX
    "reference",  # what ref_ms timed
    "max_err",  # kernel against the fp64 oracle, absolute
    "ref_mae",  # reference against the fp64 oracle
    "ref_max_err",
    "ref_probe",  # "ok": changing the first, a middle and the last key each changed ref's output
    "speedup_lo",  # bounds of the 95 % bootstrap interval of the speedup
    "speedup_hi",
    "iters",
    "warmup",
    # since version 2
    "basis",  # which reference ref_ms is: shipped | strongest; `level` says at which level
    "ragged",  # "equal": all rows have L keys; else how they vary, L being the longest
    "form",  # rows: B=N, S=G=1 over 4L keys each; decode: one shared long cache
    "seed",
    "kernel_tri_ms",  # Triton at each level, and both references at each level
    "kernel_shipped_ms",
    "kernel_strongest_ms",
    "operator_tri_ms",
    "operator_shipped_ms",
    "operator_strongest_ms",
    "kernel_shipped_lo",  # bounds of the 95 % interval of each of the four speedups
    "kernel_shipped_hi",
    "kernel_strongest_lo",
    "kernel_strongest_hi",
    "operator_shipped_lo",
    "operator_shipped_hi",
    "operator_strongest_lo",
    "operator_strongest_hi",
    "kernel_shipped",  # name of each reference
    "kernel_strongest",
    "operator_shipped",
    "operator_strongest",
    "tri_probe",  # as ref_probe, for the kernel
    "tri_p10",  # quantiles of the times behind tri_ms and ref_ms, ms: means of a graph's passes
    "tri_p90",
    "ref_p10",
    "ref_p90",
    "tri_cv",  # coefficient of variation
    "ref_cv",
    "aa_lo",  # A/A control: interval of ref_ms / ref_ms, the reference timed as two sides
    "aa_hi",
    "bytes",  # that any correct implementation must move: Q, the selected K and V, and the output
    "flops",  # 2 * H * (D + Dv) per selected key of a row
    "tri_streams",  # streams that each side really used
    "ref_streams",
    "timer",  # events | graph | wall
    "settled",  # "yes", or why the warm-up or the stop rule did not settle
    "flush_mib",  # overwritten before each pass, its time not counted; 0: not flushed
    "l2_mib",  # 0: unknown
    "launch_us",  # launch floor of this device: a one-element kernel, timed in the same way
    "sm_mhz",  # clocks while the cell was timed; empty where they cannot be read
    "sm_max_mhz",
    "mem_mhz",
    "temperature_c",
    "began_ms",  # wall clock, milliseconds since the epoch
    "ended_ms",
    "torch",  # versions
    "triton",
    "kernel_launched",  # as `kernel`, at each level
    "operator_launched",
)
CANARY_COLUMNS = (
    "when",  # before | after the cells
    "probe",  # copy | l2_read | gemm | launch
    "value",
    "unit",  # of value: GB/s | TFLOP/s | us
    "device",
    "ms",  # median behind value
    "bytes",  # moved in that time
    "flops",
    "sm_mhz",  # as in a cell's row
    "temperature_c",
    "began_ms",
)

CPU_INTERPRETER = "cpu-interpreter"
"""`device` of rows produced by Triton's interpreter. Their times say nothing about any GPU."""

TRITON_PREFIX = "triton."
"""What the name of every kernel of ours begins with; a fallback's does not."""

END_MARK = "#end"
"""First field of the last line, before the number of rows; a file without it is truncated."""

MAX_MAE = 1e-3
"""Largest mean absolute error against the oracle (source playbook, Guardrails)."""

MIN_ITERS = 10
"""Fewest iterations of a trusted row: the bootstrap of fewer pairs is far narrower than the 95 %
that it claims."""
DEVICE_TIMERS = ("events", "graph")
WEAK_FALLBACK = 1.1
"""A shipped reference slower than the strongest by more than this is to be fixed first."""
NOISE = 0.02
"""How far the A/A control may lie from 1, and operator times below kernel times: what medians of
the same work differ by on a quiet card."""
WIDEST_CONTROL = 0.2
"""Width of the A/A control's interval from which on it shows nothing: it could not tell equal times
from a speedup of the usual margin."""
RATIO_SLACK = 0.01
"""By which a speedup may miss the ratio of the times, relative: the columns are rounded."""
DIGITS = 2e-5
"""Relative difference of one number written twice, with six significant digits."""
OPERATOR_PATHS = ("ranges", "dense", "varlen")
"""What the kernels of the operator level are called after `TRITON_PREFIX`."""
ROUNDED_ERROR = {"fp16": 8 * 2.0**-10, "bf16": 8 * 2.0**-7, "fp32": 8 * 2.0**-20}
"""What a kernel may miss beyond twice the reference's largest error: some roundings of an output
of the order of 1. The benchmark, which has the tensors, holds it to less. (fp32 products may run
on TF32 units; their outputs are averages, of which that is what is left.)"""

MEAN_FACTOR = 4
"""How many times the reference's mean error the kernel's may be, and the other way round."""
ROUNDED_MEAN = {dtype: error / 16 for dtype, error in ROUNDED_ERROR.items()}
"""And what it may miss beyond that."""
LARGEST_ERROR = {"fp16": 2.0**-5, "bf16": 2.0**-2, "fp32": 2.0**-8}
"""No rounding of an output of the order of 1 is as large: a wrong row is. (fp32 as above.)"""

DEFAULT_MARGIN = 1.2
KEEP_OFF_MIN_L = 2048
"""`sel_triton_min_L` that keeps Triton effectively off (source playbook, Phase 2), where no length
beyond it was tested."""


class ContractError(ValueError):
    """A CSV that breaks the contract. The message names the file and line."""


def columns(mode: str) -> tuple[str, ...]:
    """Column names of a `dense`, `varlen` or `canary` CSV, in order."""
    known = {
        "dense": DENSE_COLUMNS + EXTRA_COLUMNS,
        "varlen": VARLEN_COLUMNS + EXTRA_COLUMNS,
        "canary": CANARY_COLUMNS,
    }
    if mode not in known:
        raise ContractError(f"mode must be dense or varlen, or canary, got {mode!r}")
    return known[mode]


class BenchWriter:
    """Writes one private CSV: header first, each row fsynced, the end mark only on a clean exit.

    Refuses a path that exists: results of two runs never share a file. With `resume` it goes on
    with a file that has no end mark yet, and `resumed` holds the rows that are in it; a last line
    that was cut short is dropped. Where there is no file, it begins one.
    """

    def __init__(self, path: Path, mode: str, *, resume: bool = False) -> None:
        self.columns = columns(mode)
        self.resumed: tuple[dict[str, str], ...] = ()
        self._path = path
        self._resume = resume
        self._rows = 0
        self._file: TextIO | None = None

    def __enter__(self) -> BenchWriter:
        if self._resume and self._path.exists():
            self._reopen()
            return self
        try:
            self._file = self._path.open("x", newline="", encoding="utf-8")
        except FileExistsError:
            raise ContractError(
                f"{self._path} exists already; results are never appended: name a new file, or "
                "continue an unfinished one with --resume"
            ) from None
        self._write(self.columns)
        return self

    def _reopen(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        table = read_table(whole.decode("utf-8"), str(self._path))
        if table.ended:
            raise ContractError(f"{self._path} has its end mark: there is nothing to resume")
        if table.columns != self.columns:
            raise ContractError(f"{self._path} has other columns: it was not begun by this version")
        os.truncate(self._path, len(whole))
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self.resumed = table.rows
        self._rows = len(table.rows)

    def row(self, values: Mapping[str, object]) -> None:
        """Append one row. `values` must name every column, and no other."""
        missing = [name for name in self.columns if name not in values]
        extra = [name for name in values if name not in self.columns]
        if missing or extra:
            raise ContractError(f"row does not fit: missing {missing}, unknown {extra}")
        self._write([_text(values[name]) for name in self.columns])
        self._rows += 1

    def _write(self, fields: Sequence[object]) -> None:
        assert self._file is not None, "use BenchWriter as a context manager"
        csv.writer(self._file, lineterminator="\n").writerow(fields)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        if kind is None:
            self._write([END_MARK, self._rows])
        self._file.close()


def _text(value: object) -> str:
    return format(value, ".6g") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Table:
    """Rows of a CSV as text, each with its line number; `complete` when the end mark agrees."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]
    complete: bool
    problem: str | None = None
    """Why the table is not complete, in one sentence."""
    ended: bool = False
    """There is an end mark, whatever it counts."""


class Records:
    """Rows of a CSV, one by one, as line number and fields; once all are read, whether it is whole.

    Raises:
        ContractError: empty text, duplicated column, a second header (an appended file), a row
            with the wrong number of fields, or anything after the end mark.
    """

    def __init__(self, text: str, name: str = "CSV") -> None:
        self._name = name
        self._text = text
        # nothing is quoted: fields are what stands between commas and newlines
        self._plain = not any(sign in text for sign in '"\r\0')
        self._start = 0
        """Of the line that comes next, where the text is plain."""
        self._line = 0
        self._reading = self._fields()
        self.count = 0
        self._end: str | None = None
        header = next(filter(None, self._reading), None)
        if header is None:
            raise ContractError(f"{name} is empty")
        self.columns = tuple(field.strip() for field in header)
        twice = sorted(column for column, times in Counter(self.columns).items() if times > 1)
        if twice:
            raise ContractError(f"{self._at}: duplicated column {', '.join(twice)}")

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        width, first = len(self.columns), self.columns[0]
        for fields in self._reading:
            if not fields:
                continue
            if self._end is not None:
                raise ContractError(
                    f"{self._at}: data after the end mark; the file was appended to"
                )
            if fields[0] == END_MARK:
                self._end = fields[1] if len(fields) > 1 else ""
            elif fields[0].strip() == first and tuple(map(str.strip, fields)) == self.columns:
                raise ContractError(f"{self._at}: a second header; the file was appended to")
            elif len(fields) != width:
                why = "truncated?" if len(fields) < width else "is there a decimal comma?"
                raise ContractError(
                    f"{self._at}: {len(fields)} fields, the header names {width}; {why}"
                )
            else:
                self.count += 1
                yield self._line, fields

    def blocks(self) -> Iterator[tuple[Sequence[int], Sequence[Sequence[str]]]]:
        """The same rows, some at a time: their line numbers, and their fields by column.

        Lines that can be nothing but rows are split all at once; the others one by one.
        """
        rows = iter(self)
        while True:
            if columns := self._plain_columns():
                self.count += len(columns[0])
                numbers = range(self._line + 1, self._line + 1 + len(columns[0]))
                self._line = numbers[-1]
                yield numbers, columns
            elif some := list(islice(rows, _AT_ONCE)):
                lines, fields = zip(*some, strict=True)
                yield lines, list(zip(*fields, strict=True))
            else:
                return

    def _plain_columns(self) -> list[list[str]] | None:
        """Columns of the next lines, which are then behind us; None if some may be no rows."""
        end = self._text.rfind("\n", self._start, self._start + _BLOCK)
        if not self._plain or self._end is not None or end < 0:
            return None
        block, width = self._text[self._start : end], len(self.columns)
        lines = block.split("\n")
        if {line.count(",") for line in lines} != {width - 1} or len(block) > _longest_field():
            return None
        fields = ",".join(lines).split(",")
        columns = [fields[number::width] for number in range(width)]
        if any(field.strip() in (END_MARK, self.columns[0]) for field in set(columns[0])):
            return None
        self._start = end + 1
        return columns

    def _fields(self) -> Iterator[list[str]]:
        """Fields of each line, whose number is `_line` then; none of an empty one."""
        if self._plain:
            yield from self._split()
            return
        reader = csv.reader(io.StringIO(self._text, newline=""))
        try:
            for fields in reader:
                self._line = reader.line_num
                yield fields
        except csv.Error as error:
            self._line = max(self._line + 1, reader.line_num)
            raise ContractError(f"{self._at}: not a CSV: {error}") from None

    def _split(self) -> Iterator[list[str]]:
        """Fields of each line of a plain text, in a third of the time that the csv module takes."""
        while self._start < len(self._text):
            end = self._text.find("\n", self._start)
            line = self._text[self._start : end if end >= 0 else None]
            self._start += len(line) + 1
            self._line += 1
            if len(line) > _longest_field():
                try:
                    yield next(csv.reader([line]))
                except csv.Error as error:
                    raise ContractError(f"{self._at}: not a CSV: {error}") from None
            else:
                yield line.split(",") if line else []

    @property
    def ended(self) -> bool:
        """There was an end mark, whatever it counts."""
        return self._end is not None

    @property
    def problem(self) -> str | None:
        """Why the table is not complete, in one sentence; None when the end mark agrees."""
        if self._end is None:
            return "no end mark: the file is truncated, or was not written by this benchmark"
        if self._end != str(self.count):
            return f"the end mark counts {self._end} rows, the file holds {self.count}"
        return None

    @property
    def _at(self) -> str:
        return f"{self._name}, line {self._line}"


_BLOCK = 2**17
"""Characters that are split at once: few enough for the processor's cache."""
_AT_ONCE = 256
"""And rows, where they are not."""


def _longest_field() -> int:
    """What the csv module refuses to read more of."""
    return csv.field_size_limit()


def read_table(text: str, name: str = "CSV") -> Table:
    """Parse a CSV of this contract or of the source project (which has no end mark).

    Raises:
        ContractError: as `Records`.
    """
    records = Records(text, name)
    lines, rows = [], []
    for line, fields in records:
        lines.append(line)
        rows.append(dict(zip(records.columns, fields, strict=True)))
    problem = records.problem
    return Table(
        records.columns, tuple(rows), tuple(lines), problem is None, problem, records.ended
    )


class Cell(NamedTuple):
    """One tested cell, reduced to what the decision rule reads."""

    family: str
    """Everything but L that tells cells apart: distribution, shape, dtype, stream count."""
    L: int
    speedup: float
    """Lower confidence bound of ref_ms / tri_ms."""
    mae: float
    device: str


@dataclass(frozen=True)
class Threshold:
    """Result of the rule: `min_L` is None when no length is admissible."""

    min_L: int | None
    margin: float
    families: tuple[str, ...]
    longest: int
    """Longest tested length."""
    obstacles: tuple[str, ...] = field(default=())
    """Why the next smaller tested length (every length, if none) is not admissible."""

    def setting(self, current: int = 0) -> int:
        """Value for `runtime.sel_triton_min_L`, given the one in force.

        Where no length is admissible it is above every length that was tested: Triton must not be
        switched on where it has just lost.
        """
        if self.min_L is not None:
            return self.min_L
        return max(current, KEEP_OFF_MIN_L, self.longest + 1)


def shortfall(cell: Cell, margin: float) -> str | None:
    """Why this cell does not admit Triton at its length; None when it does."""
    if cell.device == CPU_INTERPRETER:
        why = "timed in Triton's interpreter, no CUDA device"
    elif not (math.isfinite(cell.mae) and cell.mae <= MAX_MAE):
        why = f"MAE {cell.mae:.3g} > {MAX_MAE:g}"
    elif not (math.isfinite(cell.speedup) and cell.speedup >= margin):
        why = f"speedup {cell.speedup:.3f} (lower bound) < {margin:g}"
    else:
        return None
    return f"{cell.family}, L={cell.L}: {why}"


def threshold(cells: Iterable[Cell], margin: float = DEFAULT_MARGIN) -> Threshold:
    """Smallest L that is tested in every family and from which on every tested cell passes.

    `min_L` switches Triton on for every length at or above it, so one good length proves nothing:
    all longer ones must be good too. It must lie in the tested range of every family, because a
    family first measured at 128 says nothing about 64.

    Raises:
        ContractError: no cells, or two cells with equal family and L.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ContractError(f"margin must be a positive number, got {margin}")
    by_family: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        lengths = by_family.setdefault(cell.family, {})
        if cell.L in lengths:
            raise ContractError(f"{cell.family}, L={cell.L} was measured twice")
        lengths[cell.L] = cell
    if not by_family:
        raise ContractError("no cells to decide from")
    families = tuple(sorted(by_family))
    shortest = {family: min(lengths) for family, lengths in by_family.items()}
    tested = sorted(set.union(*(set(lengths) for lengths in by_family.values())), reverse=True)
    best: int | None = None
    obstacles: list[str] = []
    for length in tested:
        for family in families:
            tested_cell = by_family[family].get(length)
            why = shortfall(tested_cell, margin) if tested_cell else None
            if why:
                obstacles.append(why)
            elif length < shortest[family]:
                obstacles.append(f"{family}: nothing measured at L={length} or below")
        if obstacles:
            break
        if all(length in by_family[family] for family in families):
            best = length
    return Threshold(best, margin, families, tested[0], tuple(obstacles))


def family_of(row: Mapping[str, str]) -> str:
    """Readable identity of a row's family, from whichever identifying columns it carries."""
    parts = [row.get("mode", "?")]
    if row.get("dist"):
        parts.append(row["dist"])
    parts += [
        f"{name}={row[name]}"
        for name in ("N", "H", "D", "Dv", "nspans", "streams")
        if row.get(name)
    ]
    parts += [row[name] for name in ("dtype", "level") if row.get(name)]
    usual = {"ragged": "equal", "form": "rows"}
    parts += [row[name] for name, value in usual.items() if row.get(name, value) not in ("", value)]
    return " ".join(parts)


def cell_of(
    row: Mapping[str, str], at: str, *, level: str = "operator", reference: str = "strongest"
) -> Cell:
    """Read a row's cell.

    The lower bound of the speedup at `level` (`kernel`, `operator`) over `reference` (`shipped`,
    `strongest`) decides where the row has it; in older files `speedup_lo` and, failing that, the
    source project's `speedup`, whatever they were measured against.

    Raises:
        ContractError: a needed field is missing or is not a finite number; `at` locates it.
    """

    def number(name: str, parse: Callable[[str], float]) -> float:
        try:
            value = parse(row[name])
        except KeyError:
            raise ContractError(f"{at}: column {name} is missing") from None
        except ValueError:
            raise ContractError(f"{at}: {name}={row[name]!r} is not a number") from None
        if not math.isfinite(value):
            raise ContractError(f"{at}: {name} is {row[name]}")
        return value

    bounds = (f"{level}_{reference}_lo", "speedup_lo")
    speedup = next((name for name in bounds if row.get(name)), "speedup")
    return Cell(
        family=family_of(row),
        L=int(number("L", int)),
        speedup=number(speedup, float),
        mae=number("mae", float),
        device=row.get("device", ""),
    )

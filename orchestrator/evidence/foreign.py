"""Bench CSVs that others wrote: the document's columns, their usual variants, and gaps.

`evidence.bench` is strict, because this project's benchmark wrote what it reads. Here a missing
column is no error: whoever judges names it. Only what cannot be read as a table of cells at all
is refused.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernels.bench import contract
from orchestrator.evidence.errors import EvidenceError

MAX_BYTES = 64 * 2**20
FAILED = "error"

_KNOWN = (*contract.VARLEN_COLUMNS, *contract.EXTRA_COLUMNS)
# By the contract's name: how others call it, in lower case, signs as underscores.
_ALIASES: dict[str, tuple[str, ...]] = {
    "mode": ("kind", "path", "variant"),
    "N": ("rows", "n_rows", "num_rows"),
    "H": ("heads", "n_heads", "num_heads"),
    "D": ("dk", "head_dim", "d_k", "dim"),
    "Dv": ("d_v", "dim_v", "v_dim"),
    "L": ("len", "length", "seq_len", "seqlen", "l_sel", "selected"),
    "nspans": ("n_spans", "spans", "num_spans"),
    "streams": ("n_streams", "num_streams"),
    "tri_ms": ("triton_ms", "tri", "triton", "triton_time_ms", "tri_time_ms", "kernel_ms",
               "time_triton_ms"),
    "ref_ms": ("sdpa_ms", "ref", "sdpa", "reference_ms", "packed_ms", "packed_sdpa_ms", "torch_ms",
               "baseline_ms", "sdpa_time_ms", "ref_time_ms", "time_ref_ms"),
    "speedup": ("speed_up", "speedup_x", "ratio"),
    "mae": ("mean_abs_err", "mean_abs_error", "mean_absolute_error", "max_mae"),
    "max_err": ("max_abs_err", "max_abs_error", "max_error"),
    "device": ("gpu", "gpu_name", "device_name", "card"),
    "dtype": ("precision", "type"),
    "dist": ("distribution",),
    "status": ("state", "result", "outcome"),
}  # fmt: skip
_NAMES = {
    **{name.lower(): name for name in _KNOWN},
    **{alias: name for name, aliases in _ALIASES.items() for alias in aliases},
}
_TIMES = ("tri_ms", "ref_ms")
_MEASURED = ("tri_ms", "ref_ms", "speedup", "mae")
_FINE = ("", "ok", "pass", "passed", "success", "done", "0")
_NUMBER = re.compile(r"([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?)\s*(ms|us|x)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class ForeignRow:
    """One row, by the contract's names where a column is known, by its own elsewhere."""

    file: str
    line: int
    text: Mapping[str, str]
    status: str | None
    """What became of a cell that did not run; None for one that did."""

    @property
    def ok(self) -> bool:
        """Whether the cell ran."""
        return self.status is None

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class ForeignTable:
    """A CSV's rows, and how its header was understood."""

    file: str
    rows: tuple[ForeignRow, ...]
    renamed: Mapping[str, str]
    """Columns that are called otherwise in the contract, with its names."""
    unknown: tuple[str, ...]
    ended: bool
    """Whether an end mark was there; it counted the rows, then."""

    def lacks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` for which no row that ran has a value."""
        ran = [row for row in self.rows if row.ok]
        return tuple(name for name in names if not any(row.text.get(name) for row in ran))


def parse_foreign(data: bytes, name: str = "CSV") -> ForeignTable:
    """Read a bench CSV of any origin.

    Raises:
        EvidenceError: no text, no header that names L and a time, two columns of one meaning, a
            second header (an appended file), or a row that is cut off.
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(f"{len(data)} bytes are more than the {MAX_BYTES} read", file=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EvidenceError("not UTF-8 text", file=name, line=line) from None
    return _Reader(text, name).table()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        head = next((line for line in text.splitlines() if line.strip(" #\t")), "")
        delimiter = max(",;\t", key=head.count)
        self._csv = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        self._header: list[str] = []
        self._names: list[str] = []
        self._micro: frozenset[str] = frozenset()
        self._mode = "varlen" if "varlen" in name.lower() else "dense"

    def table(self) -> ForeignTable:
        rows: list[ForeignRow] = []
        end: str | None = None
        try:
            for fields in self._csv:
                if not any(fields):
                    continue
                if end is not None:
                    raise self._error("data after the end mark; the file was appended to")
                if fields[0] == contract.END_MARK:
                    end = fields[1] if len(fields) > 1 else ""
                elif fields[0].startswith("#"):
                    continue
                elif not self._names:
                    self._read_header(fields)
                else:
                    rows.append(self._row(fields))
        except csv.Error as error:
            raise self._error(f"not a CSV: {error}") from None
        if not self._names:
            raise EvidenceError("empty", file=self._name)
        if end is not None and end != str(len(rows)):
            raise EvidenceError(
                f"the end mark counts {end[:20]} rows, the file holds {len(rows)}: it is truncated",
                file=self._name,
            )
        return ForeignTable(
            self._name,
            tuple(rows),
            {
                h: n
                for h, n in zip(self._header, self._names, strict=True)
                if n != h and n in _KNOWN
            },
            tuple(n for n in self._names if n not in _KNOWN),
            end is not None,
        )

    def _error(self, problem: str, column: str | None = None) -> EvidenceError:
        return EvidenceError(problem, file=self._name, line=self._csv.line_num, column=column)

    def _read_header(self, fields: Sequence[str]) -> None:
        self._header = [field.strip() for field in fields]
        names, micro = [], set()
        for field in self._header:
            plain = re.sub(r"[^a-z0-9]+", "_", field.lower()).strip("_")
            in_us = re.sub(r"_?(us|usec)$", "_ms", plain)
            name = _NAMES.get(plain)
            if name is None and in_us != plain and _NAMES.get(in_us) in _TIMES:
                name = _NAMES[in_us]
                micro.add(name)
            names.append(name or field)
        for name in names:
            if names.count(name) > 1:
                both = " and ".join(
                    repr(h) for h, n in zip(self._header, names, strict=True) if n == name
                )
                raise self._error(f"{both} both mean {name}", column=name)
        if "L" not in names or not set(_TIMES) & set(names):
            raise self._error(
                "the header names no L and no time: expected "
                f"{','.join(contract.DENSE_COLUMNS)}, or variants such as triton_ms and sdpa_ms"
            )
        self._names = names
        self._micro = frozenset(micro)
        if "nspans" in names:
            self._mode = "varlen"

    def _row(self, fields: Sequence[str]) -> ForeignRow:
        stripped = [field.strip() for field in fields]
        if stripped == self._header:
            raise self._error("a second header; the file was appended to")
        word = next((field for field in stripped if _is_failure(field)), None)
        if len(stripped) != len(self._names) and word is None:
            raise self._error(
                f"{len(stripped)} fields, the header names {len(self._names)}: truncated, or two "
                "files in one"
            )
        text = dict(zip(self._names, stripped, strict=False))
        status = text.get("status", "")
        failed = None if status.lower() in _FINE else status
        for column in _MEASURED:
            value = text.get(column)
            if value:
                read = _measurement(value, micro=column in self._micro)
                if read is None:
                    failed = failed or f"{column} is {value}"
                else:
                    text[column] = read
        if failed is None and word is not None:
            failed = word
        text["mode"] = (text.get("mode") or self._mode).lower()
        return ForeignRow(self._name, self._csv.line_num, text, failed)


def _is_failure(field: str) -> bool:
    return field.upper().startswith(("ERROR", "FAIL", "OOM", "TIMEOUT", "CRASH"))


def _measurement(value: str, *, micro: bool) -> str | None:
    """A number as the contract writes it (ms, no unit); None for a word in its place.

    NaN and infinity stay what they are: they were measured, and the gates refuse them.
    """
    if _NOT_FINITE.fullmatch(value):
        return value
    found = _NUMBER.fullmatch(value)
    if found is None:
        return None
    if micro or found[4] == "us":
        number = float(found[1]) / 1e3
        return f"{number:.9g}" if math.isfinite(number) else None
    return found[1]

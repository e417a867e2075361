"""A CSV of the contract as a file: written row by row, ended by a mark, and read back whole.

Standard library only, as `kernels.bench.contract` and for its reason.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kernels.bench.contract import END_MARK, ContractError, columns


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
        except FileNotFoundError:
            raise ContractError(f"{self._path}: there is no folder {self._path.parent}") from None
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
            raise ContractError(
                f"{self._path} has other columns: it was begun by another version, or for rows of "
                "another mode (dense, varlen)"
            )
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
                fewer = len(fields) < width
                why = "it may be truncated" if fewer else "one may hold a decimal comma"
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
        # of a single column an empty line would be a row
        if not self._plain or self._end is not None or end < 0 or len(self.columns) < 2:
            return None
        block, width = self._text[self._start : end], len(self.columns)
        fields = block.replace("\n", ",\n").split(",")
        columns = [fields[number::width] for number in range(width)]
        first = columns[0] = "".join(columns[0]).split("\n")
        # lines begin where they have to, with as many fields each, and nowhere else
        whole = block.count("\n") == len(first) - 1 and len(fields) == width * len(first)
        if not whole or len(block) > _longest_field():
            return None
        if any(field.strip() in (END_MARK, self.columns[0]) for field in set(first)):
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

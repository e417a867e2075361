"""From text to typed values, one column at a time: row by row it takes several times as long."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kernels.bench import contract
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import DECIMAL_COMMA, NUMBER

IDENTITY = (
    "mode", "dist", "N", "H", "D", "Dv", "nspans", "streams", "dtype", "level", "form", "ragged",
)  # fmt: skip
"""What the contract may name a family by."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_LARGE = 10**18


class Slice:
    """Some rows of a strict CSV as text; `file` and each row's line are for messages."""

    def __init__(
        self,
        file: str,
        names: Sequence[str],
        lines: Sequence[int],
        columns: Sequence[Sequence[str]],
    ) -> None:
        self.file = file
        self.gaps: set[str] = set()
        """Of the columns that were read, those that are empty in some row."""
        self.lines = lines
        self._columns = dict(zip(names, columns, strict=True))
        self._nothing = ("",) * len(lines)
        self._numbers: dict[
            tuple[type, str, str], tuple[Sequence[str], Sequence[int | float] | None]
        ] = {}
        """Columns that were read, by kind and ends."""

    def read(self, name: str, kind: type, needed: Sequence[bool]) -> Sequence[Any]:
        """A column as str, int or float; None where a field is empty.

        What is not a finite number of that kind is None too, in rows that are not `needed`.

        Raises:
            EvidenceError: it stands in one that is.
        """
        fields = self._columns.get(name, self._nothing)
        first, count = fields[0], len(fields)
        if first == fields[-1] and fields.count(first) == count:
            # as most columns are; and the rows share the value
            only = self._one(name, kind, 0, needed[0])
            if not first:
                self.gaps.add(name)
            if only is not None or not first:
                return [only] * count
        if kind is not str:
            # the columns that level and basis name are there twice
            known, numbers = self._numbers.get((kind, first, fields[-1]), ((), None))
            if known != fields:
                numbers = plain_numbers(fields, kind)
                self._numbers[kind, first, fields[-1]] = fields, numbers
            if numbers is not None:
                return numbers
        values = [self._one(name, kind, number, needed[number]) for number in range(count)]
        if None in values:
            self.gaps.add(name)
        return values

    def _one(self, name: str, kind: type, number: int, needed: bool) -> str | int | float | None:
        value = self._columns.get(name, self._nothing)[number].strip()
        if kind is str or not value:
            return value or None
        pattern, what = (_INTEGER, "a whole number") if kind is int else (NUMBER, "a finite number")
        parsed: int | float = kind(value) if pattern.fullmatch(value) else math.nan
        if math.isfinite(parsed):
            return parsed
        if needed:
            comma = DECIMAL_COMMA.fullmatch(value)
            remedy = "Write a point, not a decimal comma." if comma else None
            self._bad(number, name, f"{value[:40]!r} is not {what}", remedy)
        return None

    def _bad(self, number: int, column: str, problem: str, remedy: str | None) -> NoReturn:
        line = self.lines[number]
        raise EvidenceError(problem, file=self.file, line=line, column=column, remedy=remedy)


def plain_numbers(fields: Sequence[str], kind: type) -> Sequence[int | float] | None:
    """All numbers of a column at once; None where any field is odd.

    float() and int() read more than numbers, such as `1_000` and full-width digits.
    """
    joined = "".join(fields)
    if not joined.isascii() or "_" in joined:
        return None
    try:
        numbers: list[int | float] = list(map(kind, fields))
    except ValueError:
        return None
    if kind is int:
        return numbers if min(numbers) > -_LARGE and max(numbers) < _LARGE else None
    return numbers if math.isfinite(sum(numbers)) else None


def families_of(
    read: Mapping[str, Sequence[Any]], named: dict[tuple[object, ...], str]
) -> list[str]:
    """Named by the contract, from what was read: `01` is `1`. Each is named once, into `named`."""
    families = []
    for key in zip(*(read[name] for name in IDENTITY), strict=True):
        family = named.get(key)
        if family is None:
            present = zip(IDENTITY, key, strict=True)
            family = contract.family_of({n: str(v) for n, v in present if v is not None})
            named[key] = family
        families.append(family)
    return families

"""Rows of a table, and their columns beside them.

What every row has to satisfy is held against columns: a hundred thousand rows of eighty fields lie
all over the memory, the numbers of one column lie together, and most columns say few things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)


class Rows(tuple[R_co, ...], Generic[R_co]):
    """Rows in their order. A column is any attribute of theirs, by its name."""

    _columns: dict[str, Sequence[Any]]
    _origin: tuple[Rows[R_co], Sequence[int]] | None
    """The rows that these were picked from, and which of them they are."""

    def __new__(  # noqa: D102
        cls, rows: Iterable[R_co] = (), columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Rows[R_co]:
        self = super().__new__(cls, rows)
        self._columns = dict(columns or {})
        self._origin = None
        return self

    @classmethod
    def of(cls, rows: Iterable[R_co]) -> Rows[R_co]:
        """The same rows; themselves, where they have columns already."""
        return rows if isinstance(rows, Rows) else cls(rows)

    def column(self, name: str) -> Sequence[Any]:
        """What each row says of `name`."""
        if name not in self._columns:
            if self._origin is None:
                self._columns[name] = list(map(attrgetter(name), self))
            else:
                whole, numbers = self._origin
                column = whole.column(name)
                self._columns[name] = [column[number] for number in numbers]
        return self._columns[name]

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """What each row says of all `names`, row by row."""
        return zip(*map(self.column, names), strict=True)

    def having(self, **columns: Sequence[Any]) -> Rows[R_co]:
        """The same rows with more columns, which may be of anything that belongs to them."""
        rows = Rows(self, {**self._columns, **columns})
        rows._origin = self._origin
        return rows

    def said(self, *names: str) -> set[Any]:
        """The different things that rows say of `names`: values of one name, tuples of several."""
        return set(self.column(names[0]) if len(names) == 1 else self.columns(*names))

    def where(self, wrong: Callable[..., object], *names: str) -> list[R_co]:
        """Rows whose values of `names` are `wrong`, which is asked once of equal ones."""
        if len(names) == 1:
            odd = {value for value in self.said(*names) if wrong(value)}
            values: Iterable[Any] = self.column(names[0])
        else:
            odd = {value for value in self.said(*names) if wrong(*value)}
            values = self.columns(*names)
        if not odd:
            return []
        return [row for row, value in zip(self, values, strict=True) if value in odd]

    def select(self, kept: Sequence[object]) -> Rows[R_co]:
        """Those rows that are `kept`; themselves, where all are."""
        if all(kept):
            return self
        return self._at([number for number, keep in enumerate(kept) if keep])

    def by(self, *names: str) -> dict[Any, Rows[R_co]]:
        """Rows that say the same of `names`, by what they say; in the order of their first rows."""
        values = self.column(names[0]) if len(names) == 1 else list(self.columns(*names))
        if len(set(values)) < 2:
            return dict.fromkeys(values, self)
        groups: dict[Any, list[int]] = {}
        for number, value in enumerate(values):
            groups.setdefault(value, []).append(number)
        return {value: self._at(numbers) for value, numbers in groups.items()}

    def _at(self, numbers: Sequence[int]) -> Rows[R_co]:
        some = Rows([self[number] for number in numbers])
        some._origin = self, numbers
        return some

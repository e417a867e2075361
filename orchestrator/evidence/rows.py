"""Rows of a table, and their columns beside them.

What every row has to satisfy is held against columns: a hundred thousand rows of eighty fields lie
all over the memory, the numbers of one column lie together, and most columns say few things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, product
from operator import attrgetter
from typing import Any, Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)


class Rows(tuple[R_co, ...], Generic[R_co]):
    """Rows in their order. A column is any attribute of theirs, by its name."""

    _columns: dict[str, Sequence[Any]]
    _said: dict[str, set[Any]]
    _find: Callable[[str], Sequence[Any]] | None
    """Where a column comes from that is not in `_columns` yet, if not from the rows."""

    def __new__(  # noqa: D102
        cls, rows: Iterable[R_co] = (), columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Rows[R_co]:
        self = super().__new__(cls, rows)
        self._columns = dict(columns or {})
        self._said = {}
        self._find = None
        return self

    @classmethod
    def of(cls, rows: Iterable[R_co]) -> Rows[R_co]:
        """The same rows; themselves, where they have columns already."""
        return rows if isinstance(rows, Rows) else cls(rows)

    @classmethod
    def joined(cls, parts: Sequence[Rows[R_co]]) -> Rows[R_co]:
        """All rows, those of one part after those of another."""

        def whole(name: str) -> Sequence[Any]:
            column: list[Any] = []
            for part in parts:
                column += part.column(name)
            return column

        rows = cls(chain.from_iterable(parts))
        rows._find = whole
        return rows

    def column(self, name: str) -> Sequence[Any]:
        """What each row says of `name`."""
        if name not in self._columns:
            find = self._find
            self._columns[name] = find(name) if find else list(map(attrgetter(name), self))
        return self._columns[name]

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """What each row says of all `names`, row by row."""
        return zip(*map(self.column, names), strict=True)

    def derived(self, name: str, of: Callable[[Rows[R_co]], Sequence[Any]]) -> Sequence[Any]:
        """A column that is computed `of` the others, once; rows picked from these have it too."""
        if name not in self._columns:
            self._columns[name] = of(self)
        return self._columns[name]

    def said(self, *names: str) -> Set[Any]:
        """The different things that rows say of `names`: values of one name, tuples of several."""
        if len(names) > 1:
            each = [self.said(name) for name in names]
            several = sum(len(values) > 1 for values in each) > 1
            return set(self.columns(*names) if several else product(*each))
        (name,) = names
        if name not in self._said:
            self._said[name] = set(self.column(name))
        return self._said[name]

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
        said = self.said(*names)
        if len(said) < 2:
            return dict.fromkeys(said, self)
        values = self.column(names[0]) if len(names) == 1 else self.columns(*names)
        groups: dict[Any, list[int]] = {}
        for number, value in enumerate(values):
            groups.setdefault(value, []).append(number)
        return {value: self._at(numbers) for value, numbers in groups.items()}

    def _at(self, numbers: Sequence[int]) -> Rows[R_co]:
        """Those of ascending numbers; the rows of a family mostly follow each other."""
        first, end = (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
        unbroken = end - first == len(numbers)

        def picked(values: Sequence[Any]) -> Sequence[Any]:
            return values[first:end] if unbroken else [values[number] for number in numbers]

        rows = Rows(picked(self))
        rows._find = lambda name: picked(self.column(name))
        return rows

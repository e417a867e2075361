"""Rows of a table, held as columns.

What every row has to satisfy is held against columns: a hundred thousand rows of eighty fields lie
all over the memory, the numbers of one column lie together, and most columns say few things. A row
itself is made when somebody asks for it, which is when there is something to say about it.
"""

from __future__ import annotations

import marshal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import accumulate, chain, compress, pairwise, product
from operator import attrgetter, le
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_SAMPLE = 256
"""Rows by which a column is taken for one that says much ..."""
_MANY = 128
"""... because so many of them differ."""


class Rows(Sequence[R_co], Generic[R_co]):
    """Rows in their order. A column is any attribute of theirs, by its name."""

    def __init__(
        self, rows: Iterable[R_co] = (), columns: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        given = tuple(rows)
        self._count = len(given)
        self._row: Callable[[int], R_co] = given.__getitem__
        self._columns: dict[str, Sequence[Any]] = dict(columns or {})
        self._said: dict[tuple[str, ...], Set[Any]] = {}
        self._told: dict[str, Sequence[Any]] = {}
        self._grouped: dict[tuple[str, ...], dict[Any, Rows[R_co]]] = {}
        self._find: Callable[[str], Sequence[Any]] | None = None
        """Where a column comes from that is not in `_columns` yet, if not from the rows."""
        self._parts: Sequence[Rows[R_co]] = ()
        """What they were joined of: what a part has found out is not looked for again."""
        self._read: tuple[type[R_co], Mapping[str, Sequence[Any]]] | None = None
        """What `read` made them of."""
        self.kinds: frozenset[type] = frozenset(map(type, given))
        """Classes that the rows may be of."""

    @classmethod
    def of(cls, rows: Iterable[R_co]) -> Rows[R_co]:
        """The same rows; themselves, where they have columns already."""
        return rows if isinstance(rows, Rows) else cls(rows)

    @classmethod
    def read(cls, kind: type[R_co], columns: Mapping[str, Sequence[Any]]) -> Rows[R_co]:
        """Rows that are named tuples of one `kind`: each of its fields is a column."""
        fields = [columns[name] for name in kind._fields]  # type: ignore[attr-defined]
        rows = cls._lazy(
            len(fields[0]), lambda number: kind(*(field[number] for field in fields)), {kind},
            columns,
        )  # fmt: skip
        rows._read = kind, columns
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: rows that were read, their columns packed one by one."""
        if self._read is None:
            return type(self), (tuple(self),)
        kind, columns = self._read
        return self._unpacked, (len(self), kind, {n: _packed(c) for n, c in columns.items()})

    @classmethod
    def _unpacked(
        cls, count: int, kind: type[R_co], packed: Mapping[str, tuple[bytes, int]]
    ) -> Rows[R_co]:
        """The same rows; a column is unpacked when it is asked for, as most never are."""
        names = kind._fields  # type: ignore[attr-defined]

        def row(number: int) -> R_co:
            return kind(*(rows.column(name)[number] for name in names))

        def find(name: str) -> Sequence[Any]:
            if name not in packed:
                return list(map(attrgetter(name), rows))
            values, times = packed[name]
            return marshal.loads(values) * times  # type: ignore[no-any-return]  # noqa: S302

        rows = cls._lazy(count, row, {kind})
        rows._find = find
        return rows

    @classmethod
    def joined(cls, parts: Sequence[Rows[R_co]]) -> Rows[R_co]:
        """All rows, those of one part after those of another."""
        ends = list(accumulate(map(len, parts)))

        def row(number: int) -> R_co:
            part = bisect_right(ends, number)
            return parts[part][number - ends[part]]

        joined = cls._lazy(ends[-1] if ends else 0, row, {k for part in parts for k in part.kinds})
        joined._find = lambda name: list(chain.from_iterable(p.column(name) for p in parts))
        joined._parts = parts
        return joined

    @classmethod
    def _lazy(
        cls,
        count: int,
        row: Callable[[int], R_co],
        kinds: Iterable[type],
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Rows[R_co]:
        rows = cls((), columns)
        rows._count, rows._row, rows.kinds = count, row, frozenset(kinds if count else ())
        return rows

    # --- as rows --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> R_co: ...
    @overload
    def __getitem__(self, number: slice) -> Rows[R_co]: ...
    def __getitem__(self, number: int | slice) -> R_co | Rows[R_co]:
        numbers = range(self._count)[number]
        return self._row(numbers) if isinstance(numbers, int) else self._at(numbers)

    def __iter__(self) -> Iterator[R_co]:
        return map(self._row, range(self._count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    # --- as columns -----------------------------------------------------------------------------

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
        """A column that is computed `of` the others, once; rows picked from these have it too.

        What it says of a row must not depend on the other rows.
        """
        if name not in self._columns:
            for part in self._parts:
                part.derived(name, of)
            self._columns[name] = self.column(name) if self._parts else of(self)
        return self._columns[name]

    def together(self, of: Callable[..., Sequence[Any]], *names: str) -> Sequence[Any]:
        """Something for each row, found at once for all that say the same of `names`.

        `of` gets such rows and the values of `names`, and returns something for each of the rows.
        """
        one = len(names) == 1
        found = {
            said: of(some, said) if one else of(some, *said)
            for said, some in self.by(*names).items()
        }
        if len(found) == 1:
            return next(iter(found.values()))
        following = {said: iter(each) for said, each in found.items()}
        return [next(following[said]) for said in self._each(names)]

    def _each(self, names: Sequence[str]) -> Iterable[Any]:
        """What each row says: values of one name, tuples of several."""
        return self.column(*names) if len(names) == 1 else self.columns(*names)

    def told(self, name: str) -> Sequence[Any]:
        """A column without the rows that say nothing."""
        if name not in self._told:
            self._told[name] = [value for value in self.column(name) if value is not None]
        return self._told[name]

    def said(self, *names: str) -> Set[Any]:
        """The different things that rows say of `names`: values of one name, tuples of several."""
        if names not in self._said:
            if self._parts:
                self._said[names] = set().union(*(part.said(*names) for part in self._parts))
            elif len(names) == 1:
                self._said[names] = set(self.column(*names))
            else:
                each = [self.said(name) for name in names]
                several = sum(len(values) > 1 for values in each) > 1
                self._said[names] = set(self.columns(*names) if several else product(*each))
        return self._said[names]

    def _says_much(self, name: str) -> bool:
        """Whether to look for equal values would take longer than to look at each."""
        return len(set(self.column(name)[:_SAMPLE])) > _MANY

    # --- some of the rows -------------------------------------------------------------------------

    def where(self, wrong: Callable[..., object], *names: str) -> Rows[R_co]:
        """Rows whose values of `names` are `wrong`; where few differ, it is asked once of each."""
        if any(map(self._says_much, names)):
            found: Iterable[object] = map(wrong, *map(self.column, names))
        elif len(names) == 1:
            odd = {value for value in self.said(*names) if wrong(value)}
            found = map(odd.__contains__, self.column(*names)) if odd else ()
        else:
            odd = {values for values in self.said(*names) if wrong(*values)}
            found = map(odd.__contains__, self.columns(*names)) if odd else ()
        return self._at(list(compress(range(self._count), found)))

    def select(self, kept: Sequence[object]) -> Rows[R_co]:
        """Those rows that are `kept`; themselves, where all are."""
        if all(kept):
            return self
        return self._at(list(compress(range(self._count), kept)))

    def telling(self, *names: str) -> Rows[R_co]:
        """Those rows that say all of `names`."""
        if all(len(self.told(name)) == self._count for name in names):
            return self
        return self.select([None not in values for values in self.columns(*names)])

    def by(self, *names: str) -> Mapping[Any, Rows[R_co]]:
        """Rows that say the same of `names`, by what they say; in the order of their first rows."""
        if names not in self._grouped:
            self._grouped[names] = self._groups(names)
        return self._grouped[names]

    def _groups(self, names: Sequence[str]) -> dict[Any, Rows[R_co]]:
        if self._parts:
            found: dict[Any, list[Rows[R_co]]] = {}
            for part in self._parts:
                for value, some in part.by(*names).items():
                    found.setdefault(value, []).append(some)
            return {
                value: some[0] if len(some) == 1 else self.joined(some)
                for value, some in found.items()
            }
        several = [name for name in names if len(self.said(name)) > 1]
        if not several:
            return dict.fromkeys(self.said(*names), self)
        if len(names) > 1 and len(several) == 1:
            (one,) = several
            at = names.index(one)
            key = next(iter(self.said(*names)))
            return {(*key[:at], own, *key[at + 1 :]): some for own, some in self.by(one).items()}
        groups: dict[Any, list[int]] = {}
        for number, value in enumerate(self._each(names)):
            groups.setdefault(value, []).append(number)
        return {value: self._at(numbers) for value, numbers in groups.items()}

    def _at(self, numbers: Sequence[int]) -> Rows[R_co]:
        """Those of ascending numbers; the rows of a family mostly follow each other."""
        first, end = (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
        unbroken = end - first == len(numbers)

        def picked(name: str) -> Sequence[Any]:
            values = self.column(name)
            return values[first:end] if unbroken else [values[number] for number in numbers]

        rows = self._lazy(len(numbers), lambda number: self._row(numbers[number]), self.kinds)
        rows._find = picked
        return rows


def tuples(kind: type[T], *columns: Sequence[Any]) -> list[T]:
    """Named tuples of one `kind`, given field by field: in half the time of calling it for each."""
    make: Callable[[Iterable[Any]], T] = partial(tuple.__new__, kind)  # type: ignore[type-var]
    return list(map(make, zip(*columns, strict=True)))


def ascending(*columns: Sequence[Any]) -> bool:
    """Whether no row's values fall from one column to the next; not so where one says nothing."""
    told = all(None not in column for column in columns)
    return told and all(all(map(le, lower, upper)) for lower, upper in pairwise(columns))


def _packed(column: Sequence[Any]) -> tuple[bytes, int]:
    """Values, and how often they follow each other; zeros, whose signs may differ, one by one."""
    first = column[0] if column else None
    if first and column.count(first) == len(column):
        return marshal.dumps([first]), len(column)
    # to look for values that are there twice pays for words alone
    return marshal.dumps([*column], marshal.version if isinstance(first, str) else 2), 1

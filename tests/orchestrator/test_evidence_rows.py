from __future__ import annotations

import pickle
from typing import NamedTuple

import pytest

from orchestrator.evidence.rows import Rows, ascending, tuples


class Cell(NamedTuple):
    family: str
    L: int
    ms: float | None

    @property
    def long(self) -> bool:
        return self.L > 100


CELLS = [Cell("a", 64, 1.0), Cell("b", 64, None), Cell("a", 128, 2.0)]


def test_rows_are_a_sequence_of_themselves():
    rows = Rows(CELLS)
    assert rows == tuple(CELLS)
    assert rows[-1] == CELLS[2]
    assert rows[1:] == CELLS[1:]
    with pytest.raises(IndexError):
        rows[3]
    assert Rows.of(rows) is rows
    assert Rows.of(CELLS) == rows


def test_a_column_is_any_attribute():
    rows = Rows(CELLS)
    assert rows.column("L") == [64, 64, 128]
    assert rows.column("long") == [False, False, True]
    assert list(rows.columns("family", "ms")) == [("a", 1.0), ("b", None), ("a", 2.0)]
    with pytest.raises(AttributeError):
        rows.column("width")


def test_a_given_column_goes_before_the_rows():
    assert Rows(CELLS, {"L": [1, 2, 3]}).column("L") == [1, 2, 3]


def test_said_are_the_combinations_that_there_are():
    rows = Rows(CELLS)
    assert rows.said("family") == {"a", "b"}
    assert rows.said("family", "L") == {("a", 64), ("b", 64), ("a", 128)}
    short = rows.select([not long for long in rows.column("long")])
    assert short.said("family", "L") == {("a", 64), ("b", 64)}
    assert Rows[Cell]().said("family", "L") == set()


def test_where_asks_once_of_equal_values():
    asked = []

    def odd(family: str) -> bool:
        asked.append(family)
        return family == "a"

    assert Rows(CELLS).where(odd, "family") == [CELLS[0], CELLS[2]]
    assert sorted(asked) == ["a", "b"]
    assert Rows(CELLS).where(lambda family, ms: family == "b" and ms is None, "family", "ms") == [
        CELLS[1]
    ]
    assert Rows(CELLS).where(lambda length: length > 1000, "L") == []


def test_rows_that_were_read_are_made_of_their_columns():
    columns = {"family": ("a", "b"), "L": [64, 128], "ms": [1.0, None], "ok": [True, False]}
    rows = Rows.read(Cell, columns)
    assert rows == [Cell("a", 64, 1.0), Cell("b", 128, None)]
    assert rows.column("ok") == [True, False]
    assert rows.column("long") == [False, True]
    assert rows.select(rows.column("ok")) == [Cell("a", 64, 1.0)]
    assert Rows.joined([rows, rows[1:]])[2] == Cell("b", 128, None)


def test_kinds_are_the_classes_of_rows_that_there_are():
    read = Rows.read(Cell, {"family": ["a"], "L": [64], "ms": [None]})
    assert read.kinds == Rows(CELLS).kinds == {Cell}
    assert Rows.joined([read, Rows([1])]).kinds == {Cell, int}
    assert Rows.joined([read, Rows([1])[1:]]).kinds == {Cell}


@pytest.mark.parametrize("different", [1, 3, 1000])
def test_where_finds_the_same_rows_however_many_values_differ(different):
    rows = Rows(Cell("a", number % different, number / 7) for number in range(1000))
    assert rows.where(lambda length: length % 3 == 2, "L") == [r for r in rows if r.L % 3 == 2]
    assert rows.where(lambda length, ms: length == 2 and ms > 1, "L", "ms") == [
        row for row in rows if row.L == 2 and row.ms is not None and row.ms > 1
    ]


def test_picked_rows_have_the_columns_of_all():
    rows = Rows(CELLS, {"number": [10, 11, 12]})
    picked = rows.select([True, False, True])
    assert picked == (CELLS[0], CELLS[2])
    assert picked.column("number") == [10, 12]
    assert rows.select([True, True, True]) is rows
    groups = rows.by("family")
    assert {family: some.column("number") for family, some in groups.items()} == {
        "a": [10, 12],
        "b": [11],
    }
    assert groups["a"].by("family") == {"a": groups["a"]}
    assert rows.by("family", "L")["a", 128] == (CELLS[2],)
    assert Rows[Cell]().by("family") == {}


def test_joined_rows_have_the_columns_of_their_parts():
    parts = [Rows(CELLS, {"number": [10, 11, 12]}), Rows([CELLS[0]], {"number": [13]})]
    joined = Rows.joined(parts)
    assert joined == (*CELLS, CELLS[0])
    assert joined.column("number") == [10, 11, 12, 13]
    assert joined.column("L") == [64, 64, 128, 64]


def test_joined_rows_ask_their_parts():
    first, second = Rows(CELLS), Rows([CELLS[0], Cell("c", 64, 3.0)])
    joined = Rows.joined([first, second, Rows[Cell]()])
    assert joined.said("family") == {"a", "b", "c"}
    assert joined.said("family", "L") == {("a", 64), ("b", 64), ("a", 128), ("c", 64)}
    groups = joined.by("family")
    assert list(groups) == ["a", "b", "c"]
    assert groups["a"] == (CELLS[0], CELLS[2], CELLS[0])
    assert groups["b"] is first.by("family")["b"]
    assert joined.by("L", "family")[64, "a"] == (CELLS[0], CELLS[0])
    double = joined.derived("double", lambda rows: [2 * length for length in rows.column("L")])
    assert double == [128, 128, 256, 128, 128]
    assert [groups[name].column("double") for name in "ac"] == [[128, 256, 128], [128]]


def test_rows_come_through_to_another_process():
    columns = {"family": ["a", "b", "a"], "L": [64] * 3, "ms": [0.0, -0.0, 1.5], "ok": [True] * 3}
    rows = Rows.read(Cell, columns)
    for told in (rows, Rows(rows), rows[:0], Rows.joined([rows, rows])):
        again = pickle.loads(pickle.dumps(told))  # noqa: S301 - ours
        assert again == told
        assert again.kinds == told.kinds
    again = pickle.loads(pickle.dumps(rows))  # noqa: S301 - ours
    assert str(list(again)) == str(list(rows))  # zeros keep their signs
    assert {name: again.column(name) for name in columns} == columns
    assert again.column("long") == [False] * 3


def test_tuples_are_of_their_kind():
    assert tuples(Cell, "ab", [64, 65], [1.0, None]) == [Cell("a", 64, 1.0), Cell("b", 65, None)]
    assert all(type(cell) is Cell for cell in tuples(Cell, "a", [64], [1.0]))
    with pytest.raises(ValueError, match="shorter"):
        tuples(Cell, "ab", [64], [1.0])


def test_columns_ascend_where_every_row_says_so():
    assert ascending([1, 2], [1, 3], [4, 3])
    assert not ascending([1, 2], [1, 1])
    assert not ascending([1, 2], [1, 3], [4, 2])
    assert not ascending([1, None], [1, 3])
    assert not ascending([1, 2], [None, 3])


def test_a_derived_column_is_computed_once():
    computed = []

    def double(rows: Rows[Cell]) -> list[int]:
        computed.append(len(rows))
        return [2 * length for length in rows.column("L")]

    rows = Rows(CELLS)
    assert rows.derived("double", double) == rows.derived("double", double) == [128, 128, 256]
    assert rows.by("family")["a"].column("double") == [128, 256]
    assert computed == [3]


def test_rows_that_tell_all_of_some_columns():
    rows = Rows(CELLS)
    assert rows.told("ms") == [1.0, 2.0]
    assert rows.telling("ms", "L") == [CELLS[0], CELLS[2]]
    assert rows.telling("L") is rows


def test_what_is_found_together_comes_back_row_by_row():
    looked_at = []

    def shares(rows: Rows[Cell], family: str) -> list[str]:
        looked_at.append(family)
        total = sum(rows.column("L"))
        return [f"{family} {length / total:.2f}" for length in rows.column("L")]

    assert Rows(CELLS).together(shares, "family") == ["a 0.33", "b 1.00", "a 0.67"]
    assert looked_at == ["a", "b"]
    assert Rows(CELLS)[1:2].together(shares, "family") == ["b 1.00"]
    assert Rows[Cell]().together(shares, "family") == []

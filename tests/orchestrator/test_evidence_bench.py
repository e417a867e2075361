from __future__ import annotations

import math

import pytest
from evidence_samples import csv_of, row, write_csv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.bench import bench_csv
from kernels.bench.bench_csv import Records, Table, read_table
from kernels.bench.contract import CPU_INTERPRETER, ContractError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence import bench as module
from orchestrator.evidence.bench import BenchTable, parse_bench

FOREIGN = b"""mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae
dense,1024,4,64,64,1024,1,0.381,0.018,0.047,0.151
"""
GOOD = csv_of("varlen", row("varlen", 128), row("varlen", 256))


def test_reads_what_the_benchmark_writes(tmp_path):
    data = write_csv(tmp_path / "a.csv", "dense", [row("dense", 64), row("dense", 128)])
    table = parse_bench(data, "sel_dense.csv")
    assert (table.complete, table.ended, table.problem) == (True, True, None)
    first, second = table.rows
    assert (first.line, second.line) == (2, 3)
    assert second.where == "sel_dense.csv, line 3"
    assert (first.L, first.N, first.nspans) == (64, 1024, None)
    assert (first.tri_ms, first.ref_ms, first.speedup_lo) == (0.1, 0.15, 1.45)
    assert first.ok
    assert not first.interpreted
    assert first.cell().speedup == 1.45
    assert first.family == second.family


def test_reads_the_source_projects_csv():
    table = parse_bench(FOREIGN)
    (only,) = table.rows
    assert not table.complete
    assert not table.ended
    assert (only.tri_ms, only.device, only.kernel, only.ref_mae) == (0.381, None, None, None)
    assert only.ok
    assert table.lacks(["status", "L", "kernel"]) == ("status", "kernel")
    assert only.cell().speedup == 0.047


def test_a_cell_that_did_not_run_has_no_measurements():
    broken = row("dense", 64, status="error: MLIR", tri_ms=None, ref_ms="nan", speedup="", mae="x")
    (only,) = parse_bench(csv_of("dense", broken)).rows
    assert not only.ok
    assert (only.tri_ms, only.ref_ms, only.speedup, only.mae) == (None, None, None, None)
    with pytest.raises(EvidenceError):
        only.cell()


def test_interpreter_rows_are_known():
    assert (
        parse_bench(csv_of("dense", row("dense", 64, device=CPU_INTERPRETER))).rows[0].interpreted
    )


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "1e999", "1_0", "٣", "", "abc"])
@pytest.mark.parametrize("column", ["tri_ms", "mae", "speedup"])
def test_a_measurement_is_a_finite_number(column, value):
    with pytest.raises(EvidenceError) as caught:
        parse_bench(
            csv_of("dense", row("dense", 64), row("dense", 128, **{column: value})), "a.csv"
        )
    assert str(caught.value).startswith(f"a.csv, line 3, column {column}: ")
    assert (caught.value.line, caught.value.column) == (3, column)


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"N": 0}, "N"),
        ({"L": "64.0"}, "L"),
        ({"ref_mae": "nan"}, "ref_mae"),
        ({"contract": 3}, "contract"),
        ({"contract": 0}, "contract"),
        ({"iters": "many"}, "iters"),
        ({"L": "9" * 5000}, "L"),
    ],
)
def test_a_field_is_what_its_column_says(changes, column):
    with pytest.raises(EvidenceError) as caught:
        parse_bench(csv_of("dense", row("dense", 64, **changes)))
    assert caught.value.column == column


def test_a_row_has_a_span():
    with pytest.raises(EvidenceError, match="column nspans: 0 is not positive"):
        parse_bench(csv_of("varlen", row("varlen", 64, nspans=0)))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("level", "operators"),
        ("basis", "Strongest"),
        ("dtype", "float16"),
        ("dist", "some"),
        ("form", "row"),
    ],
)
def test_a_word_is_one_of_the_contracts(column, value):
    with pytest.raises(EvidenceError, match=f"'{value}' is none of ") as caught:
        parse_bench(csv_of("dense", row("dense", 64), row("dense", 128, **{column: value})), "a")
    assert (caught.value.line, caught.value.column) == (3, column)


def test_a_decimal_comma_is_called_one():
    with pytest.raises(EvidenceError, match="'0,18' is not a finite number") as caught:
        parse_bench(csv_of("dense", row("dense", 64, tri_ms='"0,18"')))
    assert caught.value.remedy == "Write a point, not a decimal comma."


def test_a_varlen_row_needs_its_spans():
    data = FOREIGN.replace(b"\ndense", b"\nvarlen")
    with pytest.raises(EvidenceError, match="column nspans: missing from the header"):
        parse_bench(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "sel.csv: is empty"),
        (FOREIGN.replace(b"\ndense", b"\nsparse"), "line 2, column mode: 'sparse' is neither"),
        (GOOD + GOOD, "line 5: data after the end mark"),
        (FOREIGN + FOREIGN, "line 3: a second header"),
        (FOREIGN.replace(b"ref_ms", b"tri_ms"), "line 1: duplicated column tri_ms"),
        (FOREIGN.replace(b",mae", b"").replace(b",0.151", b""), "column mae: missing from the"),
        (FOREIGN[:-8], "line 2: 10 fields"),
        (b"\xff" + FOREIGN, "line 1: not UTF-8"),
        (FOREIGN + b"x" * 200_000, "not a CSV"),
    ],
)
def test_other_files_are_refused(data, says):
    with pytest.raises(EvidenceError, match=says):
        parse_bench(data, "sel.csv")


def test_a_truncated_file_says_so():
    table = parse_bench(GOOD[: GOOD.index(b"#end")])
    assert (table.complete, table.ended) == (False, False)
    assert table.problem is not None
    short = parse_bench(GOOD.replace(b"#end,2", b"#end,3"))
    assert (short.complete, short.ended) == (False, True)


def test_size_is_capped(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(EvidenceError, match="more than the 10"):
        parse_bench(GOOD)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    _read_or_refuse(data)


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=20))
def test_any_damage_is_read_or_refused(start, length, patch):
    _read_or_refuse(GOOD[:start] + patch + GOOD[start + length :])


@given(st.lists(st.tuples(*(st.text("0123456789.-+eEnaif,\"'_ ", max_size=6),) * 11), max_size=4))
def test_any_fields_are_read_or_refused(rows):
    _read_or_refuse(FOREIGN + "\n".join(",".join(fields) for fields in rows).encode())


@given(st.text('01,\n\r\0 #end"\u2028', max_size=60))
def test_what_is_not_quoted_is_split_as_the_csv_module_does(text):
    header = "a,b\n"
    quoted = header.replace("a", '"a"')  # which only the csv module reads
    assert _table_or_error(header + text) == _table_or_error(quoted + text)


def test_a_long_field_is_refused_quoted_or_not():
    for field in ("x" * 200_000, f'"{"x" * 200_000}"'):
        with pytest.raises(ContractError, match=r"^CSV, line 3: not a CSV: field larger than"):
            read_table(f"a,b\n1,2\n1,{field}\n")
    assert read_table(f"a,b\n1,2\n{'x' * 100_000},{'x' * 100_000}\n").lines == (2, 3)


def _table_or_error(text: str) -> Table | str:
    try:
        return read_table(text)
    except ContractError as error:
        return str(error)


def _read_or_refuse(data: bytes) -> None:
    try:
        table = parse_bench(data)
    except EvidenceError:
        return
    assert isinstance(table, BenchTable)
    for read in table.rows:
        numbers = [read.tri_ms, read.ref_ms, read.speedup, read.mae, read.max_err, read.ref_mae]
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert not read.ok or None not in numbers[:4]
        assert isinstance(read.family, str)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["1,2,3", "1,2,3", "1,2,3", "x,y,z", "", " a,b,c", "a,b,c", "1,2", "1,2,3,4", "#end,2",
             '"1",2,3', "#end", ",,", "1,2,\r"]
        )
    ),
    st.booleans(),
)  # fmt: skip
def test_blocks_hold_the_rows_that_are_there_one_by_one(monkeypatch, lines, ended):
    monkeypatch.setattr(bench_csv, "_BLOCK", 16)
    text = "\n".join(["a,b,c", *lines]) + "\n" * ended

    def by_block(records):
        for numbers, columns in records.blocks():
            yield from zip(numbers, map(list, zip(*columns, strict=True)), strict=True)

    def read(records, rows):
        found = []
        try:
            found += ((number, list(fields)) for number, fields in rows(records))
        except ContractError as error:
            return str(error)
        return found, records.count, records.ended, records.problem

    one_by_one = read(Records(text, "x"), iter)
    assert read(Records(text, "x"), by_block) == one_by_one

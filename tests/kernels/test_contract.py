"""The CSV contract and the decision rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernels.bench import contract
from kernels.bench.bench_csv import BenchWriter, read_table
from kernels.bench.contract import (
    CPU_INTERPRETER,
    Cell,
    ContractError,
    cell_of,
    columns,
    family_of,
    threshold,
)

ROOT = Path(contract.__file__).parents[2]


@pytest.mark.parametrize("module", ["contract", "sel_threshold_from_csv", "bench_sel_triton"])
def test_import_loads_neither_torch_nor_triton_nor_numpy(module):
    code = f"import sys, kernels.bench.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "kernels" in loaded
    assert not loaded & {"torch", "triton", "numpy"}


def test_documented_columns_come_first_and_in_order():
    assert columns("dense")[:11] == (
        "mode",
        "N",
        "H",
        "D",
        "Dv",
        "L",
        "streams",
        "tri_ms",
        "ref_ms",
        "speedup",
        "mae",
    )
    assert columns("varlen")[:12] == (
        "mode",
        "N",
        "H",
        "D",
        "Dv",
        "L",
        "nspans",
        "streams",
        "tri_ms",
        "ref_ms",
        "speedup",
        "mae",
    )
    assert columns("canary")[:4] == ("when", "probe", "value", "unit")
    with pytest.raises(ContractError, match="dense or varlen"):
        columns("sparse")


def row(mode="dense", **changes):
    return dict.fromkeys(columns(mode), 1) | {"mode": mode} | changes


class TestWriter:
    def test_what_is_written_is_read_back(self, tmp_path):
        path = tmp_path / "x.csv"
        with BenchWriter(path, "dense") as writer:
            writer.row(row(L=64, status='error: "a, b"', mae=1.25e-4))
            writer.row(row(L=128))
        table = read_table(path.read_text())
        assert table.complete
        assert [r["L"] for r in table.rows] == ["64", "128"]
        assert table.rows[0]["status"] == 'error: "a, b"'
        assert table.rows[0]["mae"] == "0.000125"
        assert table.lines == (2, 3)

    def test_a_crash_leaves_an_incomplete_file(self, tmp_path):
        path = tmp_path / "x.csv"
        with pytest.raises(KeyboardInterrupt), BenchWriter(path, "dense") as writer:
            writer.row(row())
            raise KeyboardInterrupt
        table = read_table(path.read_text())
        assert len(table.rows) == 1
        assert not table.complete
        assert "no end mark" in table.problem

    def test_an_existing_file_is_left_alone(self, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text("kept")
        with pytest.raises(ContractError, match="never appended"), BenchWriter(path, "dense"):
            pass
        assert path.read_text() == "kept"

    def test_an_unfinished_file_is_resumed(self, tmp_path):
        path = tmp_path / "x.csv"
        with pytest.raises(KeyboardInterrupt), BenchWriter(path, "dense") as writer:
            writer.row(row(L=64, status="grüße"))
            writer.row(row(L=128))
            raise KeyboardInterrupt
        path.write_bytes(path.read_bytes() + b"dense,4,8,gr\xc3")  # cut short while it was written
        with BenchWriter(path, "dense", resume=True) as writer:
            assert [r["L"] for r in writer.resumed] == ["64", "128"]
            writer.row(row(L=256))
        table = read_table(path.read_text(encoding="utf-8"))
        assert table.complete
        assert [r["L"] for r in table.rows] == ["64", "128", "256"]
        assert table.rows[0]["status"] == "grüße"

    def test_resume_begins_a_file_where_there_is_none(self, tmp_path):
        with BenchWriter(tmp_path / "x.csv", "dense", resume=True) as writer:
            writer.row(row())
        assert read_table((tmp_path / "x.csv").read_text()).complete

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (",".join(columns("dense")) + "\n#end,0\n", "has its end mark"),
            ("a,b\n", "has other columns"),
            ("", "is empty"),
        ],
    )
    def test_what_cannot_be_resumed_is_left_alone(self, text, message, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text(text)
        with (
            pytest.raises(ContractError, match=message),
            BenchWriter(path, "dense", resume=True),
        ):
            pass
        assert path.read_text() == text

    def test_rows_must_fit(self, tmp_path):
        with BenchWriter(tmp_path / "x.csv", "dense") as writer:
            with pytest.raises(ContractError, match=r"unknown \['nspans'\]"):
                writer.row(row("varlen"))
            with pytest.raises(ContractError, match=r"missing \['mae'\]"):
                writer.row({k: v for k, v in row().items() if k != "mae"})


class TestReader:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("a,b,a\n", "duplicated column a"),
            ("a,b, a\n", "duplicated column a"),
            ("a,b\n1,2\na,b\n3,4\n#end,2\n", "line 3: a second header"),
            ("a,b\n1,2\n#end,1\na,b\n", "line 4: data after the end mark"),
            ("a,b\n1,2\n3\n#end,2\n", "line 3: 1 fields, the header names 2; it may be truncated"),
            (
                "a,b\n1,0,18\n#end,1\n",
                "line 2: 3 fields, the header names 2; one may hold a decimal",
            ),
        ],
    )
    def test_broken(self, text, message):
        with pytest.raises(ContractError, match=message):
            read_table(text)

    @pytest.mark.parametrize("end", ["", "#end,2\n", "#end\n"])
    def test_incomplete(self, end):
        table = read_table("a,b\n1,2\n" + end)
        assert not table.complete
        assert table.problem


class TestCell:
    ROW = {"mode": "dense", "N": "4", "L": "64", "speedup": "1.5", "mae": "1e-4", "device": "GPU"}

    def test_lower_bound_decides_where_there_is_one(self):
        assert cell_of(self.ROW, "x").speedup == 1.5
        assert cell_of(self.ROW | {"speedup_lo": "1.1"}, "x").speedup == 1.1

    def test_level_and_reference_choose_the_bound(self):
        row = self.ROW | {
            "speedup_lo": "1.1",
            "kernel_shipped_lo": "1.2",
            "operator_strongest_lo": "1.3",
        }
        assert cell_of(row, "x").speedup == 1.3
        assert cell_of(row, "x", level="kernel", reference="shipped").speedup == 1.2
        assert cell_of(row, "x", level="operator", reference="shipped").speedup == 1.1

    def test_families_tell_cells_apart_and_stay_readable(self):
        plain = {"mode": "varlen", "dist": "many", "N": "4", "level": "operator"}
        assert family_of(plain) == "varlen many N=4 operator"
        assert family_of(plain | {"ragged": "equal", "form": "rows"}) == family_of(plain)
        assert family_of(plain | {"ragged": "", "form": ""}) == family_of(plain)
        assert family_of(plain | {"ragged": "uniform", "form": "decode"}) == (
            "varlen many N=4 operator uniform decode"
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"mae": "nan"}, "line 7: mae is nan"),
            ({"speedup": "inf"}, "speedup is inf"),
            ({"speedup_lo": "nan"}, "speedup_lo is nan"),
            ({"L": "64.5"}, "is not a number"),
            ({"mae": ""}, "is not a number"),
        ],
    )
    def test_numbers_must_be_finite(self, changes, message):
        with pytest.raises(ContractError, match=message):
            cell_of(self.ROW | changes, "line 7")

    def test_missing_column_is_named(self):
        with pytest.raises(ContractError, match="column mae is missing"):
            cell_of({k: v for k, v in self.ROW.items() if k != "mae"}, "x")


def cells(family, **speedups):
    return [Cell(family, int(L[1:]), s, 1e-4, "GPU") for L, s in speedups.items()]


class TestThreshold:
    def test_smallest_length_from_which_on_everything_passes(self):
        found = threshold(cells("dense", L64=1.1, L128=1.2, L256=1.5))
        assert found.min_L == 128
        assert found.setting(current=2048) == 128
        assert "L=64: speedup 1.100" in found.obstacles[0]

    def test_one_good_length_proves_nothing(self):
        found = threshold(cells("dense", L64=9.0, L128=0.5, L256=1.1))
        assert found.min_L is None
        assert found.setting(current=64) == 2048
        assert found.setting(current=4096) == 4096

    @pytest.mark.parametrize(
        ("longest", "current", "setting"),
        [
            (1024, 0, 2048),
            (2047, 0, 2048),
            (2048, 0, 2049),
            (8192, 2048, 8193),
            (8192, 16384, 16384),
        ],
    )
    def test_what_keeps_it_off_is_above_every_tested_length(self, longest, current, setting):
        measured = [Cell("dense", length, 0.49, 1e-4, "GPU") for length in (512, longest)]
        found = threshold(measured)
        assert (found.min_L, found.longest) == (None, longest)
        assert found.setting(current) == setting

    def test_varlen_counts_whatever_its_streams(self):
        dense = cells("dense few streams=1", L128=1.5, L256=1.5)
        varlen = cells("varlen many streams=2", L128=0.04, L256=0.04)
        found = threshold(dense + varlen)
        assert found.min_L is None
        assert found.families == ("dense few streams=1", "varlen many streams=2")

    def test_wrong_result_is_not_admissible_however_fast(self):
        fast = cells("dense", L64=3.0, L128=3.0)
        for mae in (0.15, float("nan"), float("inf")):
            wrong = [fast[0], fast[1]._replace(mae=mae)]
            assert threshold(wrong).min_L is None
        assert threshold([fast[0]._replace(mae=0.15), fast[1]]).min_L == 128

    def test_interpreter_times_are_not_admissible(self):
        found = threshold([c._replace(device=CPU_INTERPRETER) for c in cells("dense", L64=3.0)])
        assert found.min_L is None
        assert "interpreter" in found.obstacles[0]

    def test_a_family_says_nothing_below_its_shortest_length(self):
        found = threshold(cells("dense", L64=2.0, L128=2.0) + cells("varlen", L128=2.0))
        assert found.min_L == 128
        assert "nothing measured at L=64" in found.obstacles[0]

    def test_a_larger_margin_never_lowers_the_threshold(self):
        measured = cells("dense", L64=1.1, L128=1.3, L256=1.25, L512=2.0)
        found = [threshold(measured, margin).min_L for margin in (1.0, 1.1, 1.2, 1.28, 1.5, 3.0)]
        assert found == [64, 64, 128, 512, 512, None]

    @pytest.mark.parametrize("margin", [0, -1, float("nan"), float("inf")])
    def test_margin_must_be_positive(self, margin):
        with pytest.raises(ContractError, match="positive"):
            threshold(cells("dense", L64=2.0), margin)

    def test_ambiguous_or_no_cells(self):
        with pytest.raises(ContractError, match="measured twice"):
            threshold(cells("dense", L64=2.0) * 2)
        with pytest.raises(ContractError, match="no cells"):
            threshold([])

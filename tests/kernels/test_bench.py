"""The benchmark as users start it, and the judge of its results, attacked."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from selection_cases import DEVICE, DEVICE_NAME

from kernels.bench import bench_sel_triton, sel_threshold_from_csv, workloads
from kernels.bench.contract import CONTRACT_VERSION, CPU_INTERPRETER, columns, read_table
from kernels.bench.timing import PairedTimes, time_pair

ROOT = Path(bench_sel_triton.__file__).parents[2]
TINY = ("--N", "3", "--H", "2", "--D", "16", "--Dv", "24", "--iters", "2", "--warmup", "0")


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
    """The caller's own NSA_* variables would choose other kernels."""
    for name in [name for name in os.environ if name.startswith("NSA_")]:
        monkeypatch.delenv(name)


def start(*arguments, env=(), cwd=ROOT):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **dict(env)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows_of(path):
    table = read_table(path.read_text())
    assert table.complete, table.problem
    return table.rows


@pytest.mark.parametrize(
    "how", [("-m", "kernels.bench.bench_sel_triton"), ("kernels/bench/bench_sel_triton.py",)]
)
def test_command_line(how, tmp_path):
    path = tmp_path / "dense.csv"
    done = start(*how, *TINY, "--L_list", "1,17", "--dist", "few", "--csv", str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_text().splitlines()[0] == ",".join(columns("dense"))
    for row, length in zip(rows_of(path), ("1", "17"), strict=True):
        assert row["L"] == length
        assert (row["mode"], row["dist"], row["status"]) == ("dense", "few", "ok")
        assert row["device"] == DEVICE_NAME
        assert row["kernel"] == "triton.dense_rows_fwd.group"
        assert row["ref_probe"] == "ok"
        assert float(row["tri_ms"]) > 0
        assert float(row["ref_ms"]) > 0
        assert float(row["speedup_lo"]) <= float(row["speedup"]) <= float(row["speedup_hi"])
        assert float(row["mae"]) <= 1e-3
        assert float(row["ref_mae"]) <= 1e-3
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[1/2] dense few L=1  tri ")
    assert " ms  speedup " in lines[1]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a CUDA device")
def test_without_device_or_interpreter(tmp_path):
    path = tmp_path / "x.csv"
    done = start(
        "-m", "kernels.bench.bench_sel_triton", "--csv", str(path), env={"TRITON_INTERPRET": "0"}
    )
    assert done.returncode == 2
    assert "no CUDA device; set TRITON_INTERPRET=1" in done.stderr
    assert not path.exists()


def bench(path, *arguments):
    return bench_sel_triton.main([*TINY, *arguments, "--csv", str(path)])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--dist", "many"),
            ("varlen", "8", "kernel", "triton.varlen_rows_fwd.group", "packed_sdpa"),
        ),
        (
            ("--dist", "mixed", "--streams", "2"),
            ("varlen", "8", "kernel", "triton.varlen_rows_fwd.group", "packed_sdpa.masked"),
        ),
        (
            ("--dist", "many", "--decode"),
            (
                "varlen",
                "8",
                "operator",
                "triton.ranges_fwd.group",
                "grouped_selection_attention_packed",
            ),
        ),
        (
            ("--dist", "mixed", "--level", "operator", "--streams", "3"),
            (
                "varlen",
                "8",
                "operator",
                "triton.ranges_fwd.group",
                "grouped_selection_attention_packed",
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_distributions_and_levels(arguments, expected, tmp_path):
    path = tmp_path / "varlen.csv"
    assert bench(path, "--L_list", "20", "--dtype", "fp32", *arguments) == 0
    (row,) = rows_of(path)
    names = ("mode", "nspans", "level", "kernel", "reference")
    assert tuple(row[name] for name in names) == expected
    assert (row["status"], row["ref_probe"], row["dtype"]) == ("ok", "ok", "fp32")


def test_flags_choose_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("NSA_SEL_TRITON_GROUP", "0")
    monkeypatch.setenv("NSA_DEBUG_TIMING", "1")
    monkeypatch.setenv("NSA_DEBUG_COMPARE", "1")
    monkeypatch.setenv("NSA_DEBUG_SHAPES", "1")
    monkeypatch.setenv("NSA_DIAGNOSTICS", str(tmp_path / "lines.jsonl"))
    assert bench(tmp_path / "dense.csv", "--L_list", "5") == 0
    assert rows_of(tmp_path / "dense.csv")[0]["kernel"] == "triton.dense_rows_fwd.head"
    line = json.loads((tmp_path / "lines.jsonl").read_text())
    assert line["kernels"] == ["dense_rows_fwd.head"]
    assert line["bucket"] == 8
    assert line["ms"] > 0
    assert line["mae"] <= 1e-3
    assert line["shapes"]["K"] == [15, 16]


def test_a_bad_cell_does_not_stop_the_others(tmp_path, capsys):
    path = tmp_path / "varlen.csv"
    assert bench(path, "--dist", "many", "--L_list", "4,9") == 1
    bad, good = rows_of(path)
    assert bad["status"] == "error: ValueError: L=4 is less than the 8 spans of a row"
    assert bad["tri_ms"] == "nan"
    assert good["status"] == "ok"
    assert "1 of 2 cells failed" in capsys.readouterr().out


def test_results_are_never_appended(tmp_path, capsys):
    path = tmp_path / "dense.csv"
    path.write_text("kept")
    assert bench(path, "--L_list", "4") == 2
    assert path.read_text() == "kept"
    assert "never appended" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--L_list", "4,4"), "names a length twice"),
        (("--L_list", "4;5"), "expected lengths like"),
        (("--L_list", "0"), "is not positive"),
        (("--streams", "4"), "more than the 3 rows"),
        (("--iters", "0"), "is not positive"),
    ],
)
def test_usage_errors(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        bench(tmp_path / "x.csv", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_bad_flag_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NSA_SEL_TRITON_GROUP", "perhaps")
    assert bench(tmp_path / "x.csv") == 2
    assert "NSA_SEL_TRITON_GROUP='perhaps'" in capsys.readouterr().err


def first_key(Q, K, V, lengths=None):
    """SDPA with `is_causal` and one query: attends the first key only."""
    heads = [
        F.scaled_dot_product_attention(Q[:, h, None], K, V, is_causal=True)
        for h in range(Q.shape[1])
    ]
    return torch.cat(heads, dim=1)


def first_64_keys(Q, K, V, lengths=None):
    return F.scaled_dot_product_attention(Q, K[:, :64], V[:, :64])


class TestAttacks:
    @pytest.mark.parametrize(
        ("wrong", "length", "ignored"),
        [(first_key, 40, "middle key"), (first_64_keys, 65, "last key")],
    )
    @pytest.mark.parametrize("dist", ["few", "many"])
    def test_wrong_reference(self, wrong, length, ignored, dist, tmp_path, monkeypatch):
        monkeypatch.setattr(workloads, "dense_attention_packed", wrong)
        path = tmp_path / "x.csv"
        assert bench(path, "--dist", dist, "--L_list", str(length)) == 1
        (row,) = rows_of(path)
        assert row["ref_probe"].startswith("ignored: ")
        assert ignored in row["ref_probe"]
        assert row["status"].startswith("error: the reference does not attend to")
        assert row["tri_ms"] == row["ref_ms"] == row["speedup"] == "nan"
        assert float(row["ref_mae"]) > (0.05 if wrong is first_key else 1e-3)
        assert float(row["mae"]) <= 1e-3

    def test_reference_that_reads_every_key_but_scales_wrongly(self, tmp_path, monkeypatch):
        def unscaled(Q, K, V, lengths=None):
            return F.scaled_dot_product_attention(Q, K, V, scale=1.0)

        monkeypatch.setattr(workloads, "dense_attention_packed", unscaled)
        assert bench(tmp_path / "x.csv", "--L_list", "40") == 1
        (row,) = rows_of(tmp_path / "x.csv")
        assert row["status"].startswith("error: mean error of the reference")
        assert float(row["ref_mae"]) > 1e-3

    def test_wrong_kernel_is_not_timed(self, tmp_path, monkeypatch):
        launch = workloads.op.sel_attn_fwd_dense_group
        monkeypatch.setattr(
            workloads.op,
            "sel_attn_fwd_dense_group",
            lambda Q, K, V, flags: launch(Q, K[:, :-1], V[:, :-1], flags=flags),
        )
        assert bench(tmp_path / "x.csv", "--L_list", "40") == 1
        (row,) = rows_of(tmp_path / "x.csv")
        assert row["status"].startswith("error: mean error of the kernel")
        assert row["speedup"] == "nan"
        assert (row["ref_probe"], row["kernel"]) == ("ok", "triton.dense_rows_fwd.group")

    def test_fallback_in_place_of_a_kernel(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            workloads.op,
            "sel_attn_fwd_dense_group",
            lambda Q, K, V, flags: workloads.dense_attention_packed(Q, K, V),
        )
        assert bench(tmp_path / "x.csv", "--L_list", "40") == 1
        (row,) = rows_of(tmp_path / "x.csv")
        assert row["status"] == "error: no Triton kernel was launched"


class TestTiming:
    def test_sides_must_have_equal_streams(self):
        with pytest.raises(ValueError, match="2 streams against 1"):
            time_pair([int, int], [int], iters=1, warmup=0, device=torch.device("cpu"))

    def test_sides_take_turns_and_keep_their_times(self):
        order = []

        def side(name, loops):
            def call():
                order.append(name)
                sum(range(loops))

            return call

        times = time_pair(
            [side("t", 300_000)], [side("r", 1)], iters=5, warmup=1, device=torch.device("cpu")
        )
        assert "".join(order) == "tr" + "trrttrrttr"
        assert min(times.triton) > max(times.reference)

    def test_interval(self):
        rng = random.Random(1)  # noqa: S311 - made-up times
        triton = tuple(rng.gauss(1, 0.05) for _ in range(50))
        reference = tuple(rng.gauss(2, 0.05) for _ in range(50))
        times = PairedTimes(triton, reference)
        low, high = times.speedup_interval()
        assert low < times.speedup < high
        assert 1.9 < low < high < 2.1
        assert times.speedup_interval() == (low, high)

    def test_interval_of_one_iteration_is_the_point(self):
        assert PairedTimes((2.0,), (3.0,)).speedup_interval() == (1.5, 1.5)


def csv_file(path, mode, speedups, /, **changes):
    """A complete CSV as a GPU would give, with `changes` to the first row."""
    base = dict.fromkeys(columns(mode), "1") | {
        "mode": mode,
        "contract": str(CONTRACT_VERSION),
        "status": "ok",
        "dist": "few" if mode == "dense" else "many",
        "device": "NVIDIA Test",
        "mae": "1e-4",
        "ref_mae": "1e-4",
        "ref_probe": "ok",
        "ragged": "equal",
        "form": "rows",
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(mode), lineterminator="\n")
        writer.writeheader()
        for i, (length, speedup) in enumerate(speedups.items()):
            bounds = dict.fromkeys(("speedup", "speedup_lo", "operator_strongest_lo"), speedup)
            row = base | {"L": length} | bounds
            writer.writerow(row | (changes if i == 0 else {}))
        file.write(f"#end,{len(speedups)}\n")
    return path


GOOD = {64: 0.9, 128: 1.3, 256: 1.4}


def judge(tmp_path, dense, varlen, *arguments):
    code = sel_threshold_from_csv.main(
        [
            *("--dense", str(dense), "--varlen", str(varlen), *arguments),
            *("--out", str(tmp_path / "report.md"), "--json", str(tmp_path / "report.json")),
        ]
    )
    return code, json.loads((tmp_path / "report.json").read_text())


class TestThresholdCommand:
    def test_enable(self, tmp_path, capsys):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 1.3, 128: 1.25, 256: 2})
        code, found = judge(tmp_path, dense, varlen)
        assert code == 0
        assert (found["decision"], found["min_L"], found["sel_triton_min_L"]) == (
            *("ENABLE", 128, 128),
        )
        assert len(found["families"]) == 2
        report = (tmp_path / "report.md").read_text()
        assert "**ENABLE from L = 128: `runtime.sel_triton_min_L: 128`**" in report
        assert report.count("| ok |") == 5
        assert report.count("| short |") == 1
        assert "ENABLE from L = 128" in capsys.readouterr().out

    def test_keep_off(self, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2, 128: 2, 256: 0.04})
        code, found = judge(tmp_path, dense, varlen)
        assert code == 0
        assert (found["decision"], found["min_L"], found["sel_triton_min_L"]) == (
            *("KEEP_OFF", None, 2048),
        )
        assert "0.040" in found["obstacles"][0]

    def test_margin(self, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2, 128: 2, 256: 2})
        assert judge(tmp_path, dense, varlen, "--margin", "1.35")[1]["min_L"] == 256
        assert judge(tmp_path, dense, varlen, "--margin", "0.8")[1]["min_L"] == 64

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"device": CPU_INTERPRETER}, "interpreter"),
            ({"status": "error: out of memory"}, "out of memory"),
            ({"status": ""}, "no status"),
            ({"ref_probe": "ignored: last key"}, "ignored: last key"),
            ({"ref_probe": ""}, "not run"),
            ({"ref_mae": "0.15"}, "reference is wrong"),
            ({"ref_mae": "nan"}, "reference is wrong"),
            ({"ref_mae": ""}, "reference is wrong"),
            ({"mode": "varlen"}, "in the dense file"),
            ({"contract": "99"}, "contract version"),
            ({"mae": "nan"}, "mae is nan"),
            ({"operator_strongest_lo": "fast"}, "not a number"),
            ({"L": "256"}, "measured twice"),
        ],
        ids=str,
    )
    def test_undecided(self, changes, problem, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD, **changes)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2, 128: 2, 256: 2})
        code, found = judge(tmp_path, dense, varlen)
        assert code == 4
        assert (found["decision"], found["sel_triton_min_L"]) == ("UNDECIDED", None)
        assert problem in "\n".join(found["problems"])
        assert "**UNDECIDED" in (tmp_path / "report.md").read_text()

    def test_files_that_break_the_contract(self, tmp_path):
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2, 128: 2, 256: 2})
        text = csv_file(tmp_path / "d.csv", "dense", GOOD).read_text()
        dense = tmp_path / "broken.csv"
        for broken, problem in (
            (text + text, "appended"),
            (text[: text.index("#end")], "no end mark"),
            (text.replace("#end,3", "#end,4"), "counts 4 rows"),
            ("", "is empty"),
            (text.splitlines()[0] + "\n#end,0\n", "no rows"),
            (text.replace("ref_probe", "probe"), "no column ref_probe"),
        ):
            dense.write_text(broken)
            code, found = judge(tmp_path, dense, varlen)
            assert code == 4, problem
            assert problem in "\n".join(found["problems"])

    def test_missing_file(self, tmp_path, capsys):
        arguments = [f"--{name}={tmp_path / name}" for name in ("dense", "varlen", "out")]
        assert sel_threshold_from_csv.main(arguments) == 2
        assert "No such file" in capsys.readouterr().err

    def test_markup_in_a_file_is_inert_in_the_report(self, tmp_path):
        status = "error: <script>|**`x`"
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD, status=status)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        judge(tmp_path, dense, varlen)
        assert r"\<script\>\|\*\*\`x\`" in (tmp_path / "report.md").read_text()

    @pytest.mark.parametrize(
        "how",
        [
            ("-m", "kernels.bench.sel_threshold_from_csv"),
            ("kernels/bench/sel_threshold_from_csv.py",),
        ],
    )
    def test_command_line(self, how, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        report = tmp_path / "report.md"
        done = start(*how, f"--dense={dense}", f"--varlen={varlen}", f"--out={report}")
        assert done.returncode == 0, done.stderr
        assert "ENABLE from L = 128" in done.stdout
        assert report.exists()

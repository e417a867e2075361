"""The judge of the benchmark's results, attacked."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.bench import sel_threshold_from_csv
from kernels.bench.contract import CONTRACT_VERSION, CPU_INTERPRETER, columns

ROOT = Path(sel_threshold_from_csv.__file__).parents[2]


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
        "tri_probe": "ok",
        "ragged": "equal",
        "form": "rows",
        "level": "operator",
        "basis": "strongest",
        "iters": "50",
        **dict.fromkeys(("kernel", "kernel_launched", "operator_launched"), "triton.test"),
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(mode), lineterminator="\n")
        writer.writeheader()
        for i, (length, speedup) in enumerate(speedups.items()):
            bounds = dict.fromkeys(("ref_ms", "speedup", "operator_strongest_lo"), speedup)
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
            ({"ref_probe": ""}, "reference probe: not run"),
            ({"tri_probe": "ignored: last key"}, "kernel probe: ignored: last key"),
            ({"ref_mae": "0.15"}, "reference is wrong"),
            ({"ref_mae": "nan"}, "reference is wrong"),
            ({"ref_mae": ""}, "reference is wrong"),
            ({"mode": "varlen"}, "in the dense file"),
            ({"contract": "99"}, "contract version"),
            ({"mae": "nan"}, "kernel is wrong: mae nan"),
            ({"operator_strongest_lo": "fast"}, "operator_strongest_lo is fast, not a speedup"),
            ({"operator_strongest_lo": ""}, "operator_strongest_lo is missing"),
            ({"device": ""}, "device '' is no CUDA device"),
            ({"device": "cpu"}, "device 'cpu' is no CUDA device"),
            ({"device": "NVIDIA Other"}, "rows of more than one device: NVIDIA Other, NVIDIA Test"),
            ({"level": "kernel"}, "rows of more than one level: kernel, operator"),
            ({"basis": "shipped"}, "rows of more than one basis: shipped, strongest"),
            ({"kernel": "packed_sdpa"}, "kernel is 'packed_sdpa', no kernel of triton."),
            ({"operator_launched": ""}, "operator_launched is ''"),
            ({"tri_ms": "0"}, "tri_ms is 0, not a time above zero"),
            ({"operator_shipped_ms": "-1"}, "operator_shipped_ms is -1"),
            ({"ref_ms": "inf"}, "ref_ms is inf"),
            ({"tri_ms": "0.9", "ref_ms": "1"}, "speedup 0.9 is not ref_ms / tri_ms = 1.111"),
            ({"iters": "9"}, "9 iterations, at least 10"),
            ({"iters": ""}, "unknown iterations"),
            ({"mae": "0"}, "errors of exactly zero (mae)"),
            ({"ref_max_err": "0.0"}, "errors of exactly zero (ref_max_err)"),
            ({"tri_streams": "2"}, "2 streams against 1, asked for 1"),
            ({"ref_streams": ""}, "1 streams against unknown"),
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

    def test_a_single_key_has_no_error(self, tmp_path):
        exact = dict.fromkeys(("mae", "max_err", "ref_mae", "ref_max_err"), "0")
        dense = csv_file(tmp_path / "d.csv", "dense", {1: 2, 64: 2}, **exact)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2})
        assert judge(tmp_path, dense, varlen)[1]["min_L"] == 64

    def test_markup_in_a_file_is_inert_in_the_report(self, tmp_path, capsys):
        status = "error: \x1b[31m<script>|**`x`"
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD, status=status)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        judge(tmp_path, dense, varlen)
        assert r"\<script\>\|\*\*\`x\`" in (tmp_path / "report.md").read_text()
        assert "\x1b" not in capsys.readouterr().out

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
        done = subprocess.run(
            [sys.executable, *how, f"--dense={dense}", f"--varlen={varlen}", f"--out={report}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "ENABLE from L = 128" in done.stdout
        assert report.exists()

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

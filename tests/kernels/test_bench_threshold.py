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
        "N": "8",
        "dtype": "fp16",
        "device": "NVIDIA Test",
        "ref_probe": "ok",
        "tri_probe": "ok",
        "ragged": "equal",
        "form": "rows",
        "level": "operator",
        "basis": "strongest",
        "iters": "50",
        "timer": "events",
        "flush_mib": "256",
        "l2_mib": "72",
        "aa_lo": "0.99",
        "aa_hi": "1.01",
        **dict.fromkeys(("mae", "max_err", "ref_mae", "ref_max_err"), "1e-4"),
        **dict.fromkeys(("kernel", "kernel_launched", "operator_launched"), f"triton.{mode}"),
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(mode), lineterminator="\n")
        writer.writeheader()
        for i, (length, speedup) in enumerate(speedups.items()):
            row = base | dict.fromkeys(SPEEDUPS, speedup) | {"L": length}
            writer.writerow(row | (changes if i == 0 else {}))
        file.write(f"#end,{len(speedups)}\n")
    return path


def pair(level, basis):
    """The columns of a speedup and its reference's time: with tri_ms at 1 all are one number."""
    return (f"{level}_{basis}_{what}" for what in ("ms", "lo", "hi"))


SPEEDUPS = (
    *("ref_ms", "speedup", "speedup_lo", "speedup_hi"),
    *(name for level in ("kernel", "operator") for name in pair(level, "shipped")),
    *(name for level in ("kernel", "operator") for name in pair(level, "strongest")),
)
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
            ({"mae": "-5"}, "kernel is wrong: mae -5, not from 0 to 0.001"),
            ({"max_err": "9e-5"}, "max_err 9e-5 cannot be the largest of 8 errors"),
            ({"max_err": "1e9"}, "max_err 1e9 cannot be the largest of 8 errors"),
            ({"ref_max_err": ""}, "ref_max_err missing cannot be the largest"),
            (
                {"N": "1024", "max_err": "0.009", "ref_max_err": "5e-4"},
                "kernel is wrong: max_err 0.009 > 0.00881",
            ),
            ({"operator_strongest_lo": "fast"}, "operator_strongest_lo is fast, not a speedup"),
            ({"operator_strongest_lo": "1_4"}, "operator_strongest_lo is 1_4, not a speedup"),
            ({"operator_strongest_lo": "inf"}, "operator_strongest_lo is inf, not a speedup"),
            # the times say 0.9
            (
                dict.fromkeys(("operator_strongest_lo", "speedup_lo"), "1000")
                | dict.fromkeys(("operator_strongest_hi", "speedup_hi"), "1001"),
                "operator_strongest_lo to operator_strongest_hi, 1000 to 1001, is no interval "
                "around operator_strongest_ms / operator_tri_ms = 0.9",
            ),
            (
                dict.fromkeys(("operator_strongest_lo", "speedup_lo"), "0.905")
                | dict.fromkeys(("operator_strongest_hi", "speedup_hi"), "0.895"),
                "0.905 to 0.895, is no interval",
            ),
            ({"kernel_shipped_hi": "0.5"}, "kernel_shipped_lo to kernel_shipped_hi, 0.9 to 0.5"),
            ({"speedup_lo": "0.89"}, "speedup_lo is 0.89 and operator_strongest_lo 0.9"),
            ({"operator_tri_ms": "1.1"}, "tri_ms is 1 and operator_tri_ms 1.1, which must be"),
            ({"kernel_strongest_ms": "1"}, "kernel_strongest_ms is above kernel_shipped_ms"),
            (
                dict.fromkeys(pair("operator", "shipped"), "1.1"),
                "the shipped reference (1) takes 1.22 times as long as the strongest (1): fix the "
                "fallback first",
            ),
            ({"timer": "wall"}, "timer 'wall': not timed on the device"),
            ({"timer": ""}, "timer '': not timed on the device"),
            ({"flush_mib": "0"}, "0 MiB overwritten before an iteration, L2 of 72 MiB"),
            ({"flush_mib": "72"}, "nothing shows that it was cold"),
            ({"l2_mib": "0"}, "L2 of 0 MiB: nothing shows that it was cold"),
            ({"aa_lo": "0.4", "aa_hi": "0.5"}, "the A/A control, 0.4 to 0.5, does not hold 1"),
            ({"aa_lo": "1.01", "aa_hi": "0.99"}, "the A/A control, 1.01 to 0.99, is no interval"),
            ({"aa_lo": ""}, "the A/A control, missing to 1.01, is no interval"),
            ({"aa_lo": "0.8", "aa_hi": "1.2"}, "0.8 to 1.2, is too wide"),
            ({"reference": "triton.dense"}, "reference is 'triton.dense', which names no ref"),
            ({"operator_shipped": ""}, "operator_shipped is '', which names no reference"),
            ({"reference": "other"}, "reference is 'other' and operator_strongest '1', which"),
            ({"kernel": "triton.ranges"}, "kernel is 'triton.ranges' and operator_launched 'tri"),
            ({"kernel_launched": "triton.varlen"}, "'triton.varlen', no dense kernel"),
            ({"operator_launched": "triton.dense+triton.x"}, "no ranges or dense or varlen"),
            ({"level": "both"}, "level 'both' and basis 'strongest' are not both known"),
            ({"dtype": "int8"}, "dtype 'int8' is none of fp16, bf16, fp32"),
            ({"N": "banana"}, "N is 'banana', not a positive whole number"),
            ({"H": "1.5"}, "H is '1.5', not a positive whole number"),
            ({"D": "0"}, "D is '0', not a positive whole number"),
            ({"L": "\uff16\uff14"}, "L is '\uff16\uff14', not a positive whole number"),
            ({"iters": "\uff15\uff10"}, "\uff15\uff10 iterations, at least 10"),
            ({"iters": "5_0"}, "5_0 iterations, at least 10"),
            ({"torch": "2"}, "rows of more than one torch: 1, 2"),
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
            (
                {"N": "1024", "max_err": "0.04", "ref_max_err": "0.04"},
                "kernel is wrong: max_err 0.04 is no rounding in fp16",
            ),
            (
                {"N": "1024", "mae": "9e-4", "max_err": "1e-3"},
                "kernel is wrong: mae 9e-4 > 0.000888",
            ),
            (
                {"N": "1024", "ref_mae": "9e-4", "ref_max_err": "9e-3"},
                "reference is wrong: ref_max_err 9e-3 > 0.00801",
            ),
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

    @pytest.mark.parametrize(
        ("lengths", "problem"),
        [
            ((64, 128), "varlen many N=8 H=1 D=1 Dv=1 nspans=1 streams=1 fp16 operator: "
             "not measured at L=256, L=512, where others are"),
            ((64, 128, 512), "not measured at L=256, where others are"),
            ((512,), "measured at L=512 alone, which shows no threshold"),
        ],
    )  # fmt: skip
    def test_every_family_needs_the_lengths_that_others_have(self, lengths, problem, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", dict.fromkeys((64, 128, 256, 512), 2))
        varlen = csv_file(tmp_path / "v.csv", "varlen", dict.fromkeys(lengths, 2))
        code, found = judge(tmp_path, dense, varlen)
        assert (code, found["decision"]) == (4, "UNDECIDED")
        assert problem in "\n".join(found["problems"])

    def test_a_family_may_begin_at_a_longer_length(self, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", {32: 2, 64: 2, 128: 2, 256: 2})
        varlen = csv_file(tmp_path / "v.csv", "varlen", {128: 2, 256: 2})
        assert judge(tmp_path, dense, varlen)[1]["min_L"] == 128

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
        dense = csv_file(tmp_path / "d.csv", "dense", {1: 2, 64: 2, 128: 2}, **exact)
        varlen = csv_file(tmp_path / "v.csv", "varlen", {64: 2, 128: 2})
        assert judge(tmp_path, dense, varlen)[1]["min_L"] == 64

    def test_markup_in_a_file_is_inert_in_the_report(self, tmp_path, capsys):
        status = "error: \x1b[31m<script>|**`x`"
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD, status=status)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        judge(tmp_path, dense, varlen)
        assert r"\<script\>\|\*\*\`x\`" in (tmp_path / "report.md").read_text()
        assert "\x1b" not in capsys.readouterr().out

    def test_what_is_not_judged_is_said(self, tmp_path, capsys):
        """It cannot know cards, nor what they can do."""
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD, device="banana")
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        for path in (dense, varlen):
            path.write_text(path.read_text().replace("NVIDIA Test", "banana"))
        assert judge(tmp_path, dense, varlen)[0] == 0
        line = "hysics, machine and flatness are not judged here: orchestrate judge"
        assert line in capsys.readouterr().out.splitlines()[-1]
        assert line in (tmp_path / "report.md").read_text()

    def test_as_excel_saves_it(self, tmp_path):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        dense.write_text(dense.read_text(), encoding="utf-8-sig", newline="\r\n")
        assert judge(tmp_path, dense, varlen)[1]["min_L"] == 128

    @pytest.mark.parametrize(
        ("name", "option"),
        [("d.csv", "--out"), ("v.csv", "--json"), ("link.csv", "--out"), ("new.md", "--json")],
    )
    def test_a_report_overwrites_no_input(self, name, option, tmp_path, capsys):
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        (tmp_path / "link.csv").hardlink_to(varlen)
        before = {path: path.read_text() for path in tmp_path.iterdir()}
        arguments = [f"--dense={dense}", f"--varlen={varlen}", f"--out={tmp_path / 'new.md'}"]
        with pytest.raises(SystemExit) as end:
            sel_threshold_from_csv.main([*arguments, option, str(tmp_path / name)])
        assert end.value.code == 2
        assert "is named twice: a report would overwrite it" in capsys.readouterr().err
        assert {path: path.read_text() for path in tmp_path.iterdir()} == before

    def test_nobody_reads_the_answer(self, tmp_path):
        """`| head -0`: the report is written, and no traceback."""
        dense = csv_file(tmp_path / "d.csv", "dense", GOOD)
        varlen = csv_file(tmp_path / "v.csv", "varlen", GOOD)
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "kernels.bench.sel_threshold_from_csv"),
                *(f"--dense={dense}", f"--varlen={varlen}", f"--out={tmp_path / 'report.md'}"),
            ],
            cwd=ROOT,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / "report.md").exists()

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

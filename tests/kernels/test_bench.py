"""The benchmark as users start it: options, files, processes that die."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from selection_cases import DEVICE, DEVICE_NAME

from kernels.bench import bench_sel_triton, child
from kernels.bench.bench_csv import read_table
from kernels.bench.contract import CANARY_COLUMNS, columns
from kernels.bench.options import parse
from kernels.bench.process import Child

ROOT = Path(bench_sel_triton.__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_flags")

# each iteration runs in Triton's interpreter, and how often is not the point here
ITERS = ("--iters", "1", "--warmup", "0") if DEVICE.type == "cpu" else ()
TINY = ("--N", "3", "--H", "2", "--D", "16", "--Dv", "24", *ITERS)
MATRIX = ROOT / "kernels/bench/matrices/document.json"

# The real child, but the compiler of one kernel aborts, as the MLIR assertions of Triton 3.0 do.
ABORTS = """
import os, sys
from kernels.selection import op
launch = op.sel_attn_fwd_dense_group
def compile_and_die(Q, K, V, **options):
    if K.shape[1] == 5:
        print("loc: Assertion `isa<X>()' failed.", "#0 a frame", sep="\\n", file=sys.stderr)
        os.abort()
    return launch(Q, K, V, **options)
op.sel_attn_fwd_dense_group = compile_and_die
from kernels.bench import child
child.main(int(sys.argv[1]))
"""

# The real child, which then writes down beside itself what it has imported.
TELLS_IMPORTS = """
import pathlib, sys
from kernels.bench import child
child.main(int(sys.argv[1]))
pathlib.Path(__file__).with_name("modules").write_text(" ".join(sys.modules))
"""


# The real child, but something kills it while it compiles ahead for rows of one head, or, with
# `waits` for its name, when it has done so and waits for its turn.
DIES_PREPARING = """
import os, sys, threading
from kernels.bench import child
def die(family, *rest):
    if family.H == 1:
        if "waits" in __file__:
            threading.Timer(0.5, os.abort).start()
        else:
            os.abort()
child._prepare = die
child.main(int(sys.argv[1]))
"""


# The real child on a card, of which the control of the first cell is off the first time.
UNEVEN = """
import sys
from kernels.bench import child
measure, lengths = child.measure, []
def uneven(family, length, *rest):
    lengths.append(length)
    row = measure(family, length, *rest) | {"timer": "graph", "aa_lo": 0.99, "aa_hi": 1.02}
    return row | {"aa_lo": 1.02, "aa_hi": 1.03} if lengths == [4] else row
child.measure = uneven
child.main(int(sys.argv[1]))
"""


def start(*arguments, env=()):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **dict(env)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def bench(path, *arguments, **options):
    return bench_sel_triton.main([*TINY, *arguments, "--csv", str(path)], **options)


def rows_of(path):
    table = read_table(path.read_text())
    assert table.complete, table.problem
    return table.rows


def test_command_line(tmp_path):
    path = tmp_path / "dense.csv"
    (tmp_path / "matrix.json").write_text('[{"H": [2, 1], "L_list": [17]}]')
    matrix = ("--matrix", str(tmp_path / "matrix.json"), "--jobs", "2")
    script = "kernels/bench/bench_sel_triton.py"
    done = start(script, *TINY, *matrix, "--dist", "few", "--csv", str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_text().splitlines()[0] == ",".join(columns("dense"))
    for row, cell in zip(rows_of(path), (("2", "17"), ("1", "17")), strict=True):
        assert (row["H"], row["L"]) == cell
        assert (row["mode"], row["dist"], row["status"]) == ("dense", "few", "ok")
        assert row["device"] == DEVICE_NAME
        assert float(row["speedup_lo"]) <= float(row["speedup"]) <= float(row["speedup_hi"])
    lines = done.stdout.splitlines()
    assert any(line.startswith("left out at kernel level: ") for line in lines)
    cell = "[2/2] dense few N=3 H=1 D=16 Dv=24 streams=1 L=17  tri "
    assert any(line.startswith(cell) for line in lines)
    canary = read_table((tmp_path / "dense.canary.csv").read_text())
    assert canary.complete
    assert canary.columns == CANARY_COLUMNS
    probes = [(row["when"], row["probe"]) for row in canary.rows]
    names = ("copy", "l2_read", "gemm", "launch")
    assert probes == [(when, name) for when in ("before", "after") for name in names]
    assert all(float(row["value"]) > 0 and row["device"] == DEVICE_NAME for row in canary.rows)


@pytest.fixture(scope="module")
def flagged(tmp_path_factory):
    """A folder with what one run leaves, all debug flags on, and what its child has imported."""
    path = tmp_path_factory.mktemp("flagged")
    script = path / "child.py"
    script.write_text(TELLS_IMPORTS)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NSA_")]:
            patch.delenv(name)
        patch.setenv("NSA_SEL_TRITON_GROUP", "0")
        patch.setenv("NSA_DEBUG_TIMING", "1")
        patch.setenv("NSA_DEBUG_COMPARE", "1")
        patch.setenv("NSA_DEBUG_SHAPES", "1")
        patch.setenv("NSA_DIAGNOSTICS", str(path / "lines.jsonl"))
        arguments = ("--L_list", "5", "--level", "kernel")
        assert bench(path / "dense.csv", *arguments, command=[sys.executable, str(script)]) == 0
    return path


@pytest.mark.skipif(DEVICE.type == "cuda", reason="flex_attention is compiled there")
def test_no_compiler_is_loaded_on_a_cpu(flagged):
    """It takes seconds, and leaves a folder in TMPDIR."""
    modules = (flagged / "modules").read_text().split()
    assert {"torch", "triton", "kernels.bench.trial"} <= set(modules)
    assert not {"torch._dynamo", "torch._inductor"} & set(modules)


def test_flags_choose_the_kernel_and_leave_a_line(flagged):
    (row,) = rows_of(flagged / "dense.csv")
    assert row["kernel"] == row["kernel_launched"] == "triton.dense_rows_fwd.head"
    line = json.loads((flagged / "lines.jsonl").read_text())
    assert (line["path"], line["kernels"]) == ("bench.kernel", ["dense_rows_fwd.head"])
    assert (line["L"], line["bucket"]) == (5, 8)
    assert line["ms"] > 0
    assert line["mae"] <= 1e-3
    assert line["shapes"]["K"] == [3, 1, 20, 16]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a CUDA device")
def test_without_device_or_interpreter(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert bench(tmp_path / "x.csv") == 2
    assert "no CUDA device; set TRITON_INTERPRET=1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_flag_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NSA_SEL_TRITON_GROUP", "perhaps")
    assert bench(tmp_path / "x.csv") == 2
    assert "NSA_SEL_TRITON_GROUP='perhaps'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.csv", "x.canary.csv"])
def test_results_are_never_appended(name, tmp_path, capsys):
    (tmp_path / name).write_text("kept")
    assert bench(tmp_path / "x.csv", "--L_list", "4") == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]
    assert f"{name} exists already; results are never appended" in capsys.readouterr().err


@pytest.fixture
def aborting(tmp_path):
    script = tmp_path / "aborting.py"
    script.write_text(ABORTS)
    return [sys.executable, str(script)]


def test_a_compiler_abort_costs_one_cell_and_what_is_missing_is_resumed(aborting, tmp_path, capsys):
    path = tmp_path / "x.csv"
    arguments = ("--L_list", "4,5,6")
    assert bench(path, *arguments, command=aborting) == 1
    rows = rows_of(path)
    assert [row["L"] for row in rows] == ["4", "5", "6"]
    assert [row["status"] == "ok" for row in rows] == [True, False, True]
    died = rows[1]
    assert died["status"] == (
        "error: the process died of SIGABRT: loc: Assertion `isa<X>()' failed."
    )
    assert (died["device"], died["tri_ms"], died["kernel"]) == (DEVICE_NAME, "nan", "")
    assert "1 of 3 cells failed" in capsys.readouterr().out

    # as if the whole benchmark had been killed while it wrote its last row
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])
    canary = tmp_path / "x.canary.csv"
    canary.write_text("".join(canary.read_text().splitlines(keepends=True)[:5]))
    assert bench(path, *arguments, "--resume") == 1
    again = rows_of(path)
    assert again[:2] == rows[:2]
    assert (again[2]["L"], again[2]["status"]) == ("6", "ok")
    assert "[3/3] dense few L=6" in capsys.readouterr().out
    assert [row["when"] for row in rows_of(canary)] == ["before"] * 8 + ["after"] * 4
    # what has its end mark is finished
    assert bench(path, *arguments, "--resume") == 2
    assert "nothing to resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dies.py", "waits.py"])
def test_a_death_before_its_turn_costs_nothing(name, tmp_path):
    script = tmp_path / name
    script.write_text(DIES_PREPARING)
    (tmp_path / "matrix.json").write_text('[{"H": [2, 1], "L_list": [4]}]')
    arguments = ("--matrix", str(tmp_path / "matrix.json"), "--jobs", "2")
    path = tmp_path / "x.csv"
    assert bench(path, *arguments, command=[sys.executable, str(script)]) == 0
    assert [(row["H"], row["status"]) for row in rows_of(path)] == [("2", "ok"), ("1", "ok")]


def test_a_cell_whose_control_is_off_is_measured_again_and_the_log_says_so(tmp_path, capsys):
    script = tmp_path / "uneven.py"
    script.write_text(UNEVEN)
    path = tmp_path / "x.csv"
    assert bench(path, "--L_list", "4,5", command=[sys.executable, str(script)]) == 0
    found = [(row["L"], row["aa_lo"], row["aa_hi"]) for row in rows_of(path)]
    assert found == [("4", "0.99", "1.02"), ("5", "0.99", "1.02")]
    again = [line for line in capsys.readouterr().out.splitlines() if "measured again" in line]
    assert again == ["L=4: measured again, the reference against itself came out at [1.020, 1.030]"]


@pytest.mark.parametrize("timer", ["wall", "graph"])
def test_a_control_that_is_off_counts_where_a_device_was_timed(timer):
    row = {"timer": timer, "aa_lo": 0.9, "aa_hi": 0.98}
    assert child.uneven(row) == (timer == "graph")
    assert not child.uneven(row | {"aa_lo": None})


def test_a_file_is_resumed_on_its_own_machine_only(tmp_path, capsys):
    path = tmp_path / "x.csv"
    (family,) = parse([*TINY, "--L_list", "4", "--csv", "x"]).families
    row = dict.fromkeys(columns("dense"), "1") | {"device": "NVIDIA Test", "status": "ok"}
    row |= {name: str(value) for name, value in family.identity(4).items()}
    row["iters"] = str(family.iters)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns("dense"), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
    text = path.read_text()
    assert bench(path, "--L_list", "5", "--resume") == 2
    said = capsys.readouterr().err
    assert "holds a cell that is not asked for, H=2 L=4 (L 4, asked for 5): resume" in said
    more = family.iters + 1
    assert bench(path, "--L_list", "4", "--iters", str(more), "--resume") == 2
    assert f"(iters {family.iters}, asked for {more})" in capsys.readouterr().err
    assert bench(path, "--L_list", "4", "--resume") == 2
    assert f"begun with device NVIDIA Test, this is {DEVICE_NAME}" in capsys.readouterr().err
    assert path.read_text() == text


def test_what_can_come_to_nothing_is_said_before_it_is_measured(tmp_path, capsys):
    assert bench(tmp_path / "no" / "x.csv", "--L_list", "4") == 2
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse([*TINY, "--L_list", "4", "--csv", "x", "--seed", str(2**63)])
    assert "is not less than 2**63" in capsys.readouterr().err


def test_a_process_that_dies_at_once_is_named_in_every_row(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no torch here: ImportError')"]
    assert bench(tmp_path / "x.csv", "--L_list", "4,5", command=command) == 1
    statuses = [row["status"] for row in rows_of(tmp_path / "x.csv")]
    why = "error: the process ended with exit code 1: no torch here: ImportError"
    assert statuses == [why, why]


def test_what_a_dead_process_has_left_running_is_not_waited_for(tmp_path):
    """A pool of compile workers, say: it holds the pipe open."""
    pid = tmp_path / "pid"
    code = (
        "import os, pathlib, subprocess, sys\n"
        "left = subprocess.Popen(['sleep', '300'], pass_fds=[int(sys.argv[1])])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(left.pid))\n"
        "os.abort()"
    )
    with Child({}, [sys.executable, "-c", code]) as child:
        assert list(child.messages()) == []
        assert child.death() == "the process died of SIGABRT"
        os.kill(int(pid.read_text()), signal.SIGKILL)  # it was still there


def test_what_the_budget_does_not_cover_is_named(tmp_path):
    path = tmp_path / "x.csv"
    sleeper = [sys.executable, "-c", "import time; time.sleep(1)"]
    assert bench(path, "--L_list", "4,5", "--budget", "0.2", command=sleeper) == 1
    statuses = [row["status"] for row in rows_of(path)]
    assert statuses == ["error: not measured: the budget of 0.2 s is spent"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--L_list", "4,4"), "names a length twice"),
        (("--L_list", "4;5"), "expected lengths like"),
        (("--L_list", "0"), "is not positive"),
        (("--streams", "4"), "more than the 3 rows"),
        (("--iters", "0"), "is not positive"),
        (("--budget", "nan"), "is not a positive number of seconds"),
        (("--dist", "many", "--L_list", "4"), "L=4 is less than the 8 spans of a row"),
        (("--matrix", "nowhere.json"), "No such file"),
    ],
)
def test_usage_errors(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        bench(tmp_path / "x.csv", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "expected a list of objects"),
        ("[3]", "entry 1: expected an object"),
        ('[{"N": 4}, {"n": 4}]', "entry 2: 'n' is none of N, H,"),
        ('[{"N": [4, 0]}]', "entry 1: N must be positive whole numbers"),
        ('[{"N": true}]', "N must be positive whole numbers"),
        ('[{"L_list": 64}]', "L_list must be a list"),
        ('[{"N": 4}, {"N": [2, 4]}]', "names a cell twice"),
    ],
)
def test_matrix_errors(text, message, tmp_path, capsys):
    (tmp_path / "matrix.json").write_text(text)
    with pytest.raises(SystemExit):
        bench(tmp_path / "x.csv", "--matrix", str(tmp_path / "matrix.json"))
    assert message in capsys.readouterr().err


def test_the_documents_matrix():
    options = parse(["--matrix", str(MATRIX), "--dist", "many", "--csv", "x.csv"])
    shapes = {(f.N, f.H, f.D, f.Dv) for f in options.families}
    assert shapes == {(N, H, D, D) for N in (256, 1024) for H in (4, 8) for D in (64, 128)}
    assert {f.mode for f in options.families} == {"varlen"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_too_few_iterations_on_a_gpu(tmp_path, capsys):
    assert bench(tmp_path / "x.csv", "--iters", "2") == 2
    assert "--iters must be at least 10" in capsys.readouterr().err

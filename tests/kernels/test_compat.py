"""The compile matrix: real kernels, compiled by the Triton at hand, good ones and bad ones."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.compat import __main__ as cli
from kernels.compat.environments import Environment
from kernels.compat.matrix import Cell, Outcome, Status, Stopped, _telling, compile_cell
from kernels.compat.table import as_json, markdown
from kernels.compat.targets import TARGETS
from kernels.selection.launch import TRITON as TRITON_VERSION

ROOT = Path(__file__).parents[2]
TRITON = importlib.metadata.version("triton")
ADA = TARGETS["sm_89"]
HERE = "tests.kernels.compat_kernels"


def compiled(launches: str, *, timeout_s: float = 60) -> Cell:
    return compile_cell(Environment(TRITON, Path(sys.executable)), ADA, launches, timeout_s)


def without_interpreter(code: str) -> object:
    """What a fresh Python prints as JSON: here Triton's interpreter is on, and stays on."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


BAD = {
    "spills": (Status.SPILLS, "bytes a thread, beside"),
    "too_large": (Status.SHARED, "a program on sm_89 has 101376"),
    "wrong": (Status.FAILED, "no_such_name is not defined"),
    "aborts": (Status.ABORTED, "LLVM ERROR: Invalid $ operand number"),
    "endless": (Status.TIMED_OUT, "nothing for 25 s"),
}


SPLIT_ROWS = """
import json, torch
from kernels.compat.launches import recorded
from kernels.compat.targets import TARGETS
from kernels.compat.worker import _pretend_driver
from kernels.selection import op

target = TARGETS["{target}"]
with recorded(target) as launches:
    Q, K, V = (torch.empty(2, n, 64, dtype=torch.float16, device="cuda") for n in (8, 512, 512))
    index = torch.zeros(2, 1, 1, 1, 2, dtype=torch.int32, device="cuda")
    op.sel_attn_fwd_dense_group(Q, K, V)
    op.sel_attn_fwd_varlen_group(Q, K[0], V[0], index[:, 0, 0, 0].flatten()[:3])
    op.sel_attn_fwd_ranges(Q[:, None, None], K[:, None], V[:, None], index, group=True)
_pretend_driver(target)
found = []
for launch in launches:
    ptx = launch.function.warmup(grid=(1,), **launch.args, **launch.options).asm["ptx"]
    words = [word.strip(";") for line in ptx.splitlines() for word in line.split()]
    kinds = {{"griddepcontrol." + end: end for end in ("launch_dependents", "wait")}}
    memory = ("ld.global", "st.global", "cp.async.c")
    steps = [w for w in words if w in kinds or w.startswith(memory)]
    found.append((launch.name, [kinds.get(w, "memory") for w in steps]))
print(json.dumps(found))
"""


@pytest.mark.skipif(TRITON_VERSION < (3, 6), reason="this Triton cannot overlap launches")
@pytest.mark.parametrize(
    ("target", "split", "joined"),
    [("sm_89", "memory", "memory"), ("sm_90", "launch_dependents", "wait")],
)
def test_parts_are_joined_by_a_kernel_that_waits_before_it_touches_memory(target, split, joined):
    found = without_interpreter(SPLIT_ROWS.format(target=target))
    assert {name for name, _ in found} == {
        *("dense_rows_fwd", "varlen_rows_fwd", "ranges_fwd", "combine_rows")
    }
    for name, (first, *others) in found:
        assert first == (joined if name == "combine_rows" else split)
        assert set(others) == {"memory"}


def test_each_bad_kernel_is_named_with_its_error_and_none_ends_the_matrix():
    """One test, as they are compiled together: it takes most of a minute."""
    cell = compiled(f"{HERE}:bad", timeout_s=25)
    named = [outcome.launch.split()[0] for outcome in cell.outcomes]
    assert named == ["spills", "aborts", "right", "endless", "too_large", "wrong", "right"]
    for kernel, outcome in zip(named, cell.outcomes, strict=True):
        status, error = BAD.get(kernel, (Status.OK, ""))
        assert (kernel, outcome.status) == (kernel, status)
        assert error in outcome.error
        assert "\n" not in outcome.error
    assert len(cell.failures) == len(BAD)
    for kernel, (_, error) in BAD.items():
        assert any(line.startswith(f"{kernel} ") and error in line for line in cell.failures)


def test_what_is_right_has_its_registers_and_no_failure():
    cell = compiled(f"{HERE}:good")
    assert [o.status for o in cell.outcomes] == [Status.OK] * 2
    assert all(0 < o.registers < 64 and o.local_bytes == 0 for o in cell.outcomes)
    assert cell.failures == []


@pytest.mark.parametrize(
    ("launches", "why"),
    [("raising", "exit 1: RuntimeError: they are broken"), ("nothing", "they launch nothing")],
)
def test_nothing_to_compile_is_a_failure_not_an_empty_success(launches, why):
    cell = compiled(f"{HERE}:{launches}")
    assert cell.outcomes == []
    assert cell.failures == [f"the launchers fail: {why}"]


def test_an_interrupted_matrix_leaves_no_compiler_behind(tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600")
    python.chmod(0o755)
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        env = Environment("2.3.1", python)
        cell = pool.submit(compile_cell, env, ADA, "any:thing", 60, stop)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert not cell.done()
            time.sleep(0.01)
        stop.set()
        with pytest.raises(Stopped):
            cell.result(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(("target", "failures"), [("sm_90", 1), ("sm_100", 0)])
def test_a_target_that_aborts_the_compiler_at_once(tmp_path, target, failures):
    # an old Triton, as it speaks and dies; only sm_100 and sm_120 may be unknown
    python = tmp_path / "python"
    start = json.dumps({"is": "start", "triton": "2.3.1", "launches": ["a", "b"]})
    python.write_text(
        f"#!/bin/sh\necho '{start}'\necho 'LLVM ERROR: no such target' >&2\nkill -6 $$"
    )
    python.chmod(0o755)
    cell = compile_cell(Environment("2.3.1", python), TARGETS[target], "any:thing", 5)
    assert cell.unknown == "SIGABRT: LLVM ERROR: no such target"
    assert cell.outcomes == []
    assert len(cell.failures) == failures


def test_every_kernel_is_in_both_lists_and_every_table_entry_in_the_long_one():
    found = without_interpreter(
        "import json, triton\n"
        "from kernels.compat import shipped, targets\n"
        "from kernels.selection import kernel, tuning\n"
        "target = targets.TARGETS['sm_89']\n"
        "jit = triton.runtime.jit.JITFunction\n"
        "names = [k for k, v in vars(kernel).items() if isinstance(v, jit) and k[0] != '_'\n"
        "         and v.__module__ == kernel.__name__]\n"  # not what is imported from tiles
        "quick, long = shipped.quick(target), shipped.launches(target)\n"
        "table = [e for e in tuning.read_table() if e.capability == target.capability]\n"
        "wanted = [[e.D, e.Dv, e.params.block_l, e.params.num_warps, e.params.num_stages]\n"
        "          for e in table]\n"
        "made = [[x.args['D'], x.args['DV'], x.args['BLOCK_L'], *x.options.values()]\n"
        "        for x in long if 'BLOCK_L' in x.args]\n"
        "print(json.dumps([sorted(names), sorted({x.name for x in quick}),\n"
        "                  sorted({x.name for x in long}), len(table),\n"
        "                  [x for x in wanted if x not in made], len(quick), len(long)]))\n"
    )
    names, quick, long, entries, missing, short_count, long_count = found
    assert names == quick == long
    assert len(names) >= 4
    assert entries > 0
    assert missing == []
    assert len(names) < short_count < long_count


def test_every_target_has_entries_in_the_table():
    from kernels.selection.tuning import read_table

    assert {entry.capability for entry in read_table()} >= {t.capability for t in TARGETS.values()}


def test_a_launch_is_recorded_with_what_triton_specialises_on():
    found = without_interpreter(
        "import json, torch\n"
        "from kernels.compat.launches import recorded\n"
        "from kernels.compat.targets import TARGETS\n"
        "from tests.kernels.compat_kernels import right\n"
        "with recorded(TARGETS['sm_120']) as found:\n"
        "    x = torch.empty(64, device='cuda')\n"
        "    on = [str(x.device), x.is_cuda, *torch.cuda.get_device_capability()]\n"
        "    for tensor in (x, x[1:]):\n"
        "        for n in (1, 32, 48, 33, 1 << 40):\n"
        "            right[(1,)](tensor, x, n, BLOCK=128, num_warps=2)\n"
        "print(json.dumps([on, [[a.args['X'].aligned, a.args['n'], a.args['BLOCK'], a.options]\n"
        "                       for a in found]]))\n"
    )
    on, launches = found
    assert on == ["cuda:0", True, 12, 0]
    wide = (1 << 32) + 16
    assert launches == [
        [aligned, n, 128, {"num_warps": 2}] for aligned in (True, False) for n in (1, 16, 17, wide)
    ]


def test_exit_codes_and_files(tmp_path, monkeypatch, capsys):
    page, figures = tmp_path / "compat.md", tmp_path / "compat.json"
    common = ["--target", "sm_89", "--cache", str(tmp_path), "-n", "1", "--json", str(figures)]
    common += ["--markdown", str(page), "--timeout", "60"]
    assert cli.main([*common, "--triton", TRITON, "--launches", f"{HERE}:good"]) == 0
    assert f"| {TRITON} | 2/2<br>" in page.read_text()
    assert "Nothing." in page.read_text()
    assert [x["status"] for x in json.loads(figures.read_text())["cells"][0]["launches"]] == [
        "ok", "ok",
    ]  # fmt: skip
    assert cli.main([*common, "--triton", TRITON, "--launches", f"{HERE}:raising"]) == 1
    assert "they are broken" in page.read_text()
    command = f"python -m kernels.compat --launches {HERE}:raising --triton {TRITON} --target sm_89"
    assert f"by `{command}`" in page.read_text()
    page.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert cli.main([*common, "--triton", "0.0.1"]) == 3
    assert "triton==0.0.1 setuptools<81 cannot be installed" in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--triton", "3"], ["--target", "sm_70"], ["-n", "0"], ["--quick", "--launches", "a:b"]],
)
def test_usage_errors(arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


def test_the_page_counts_and_names():
    good = Outcome("k float16 BLOCK=64", Status.OK, 90, 0, 2048)
    spilled = Outcome("k float16 BLOCK=64", Status.SPILLS, 255, 640, 4096, "640 bytes a thread")
    cells = [
        Cell("3.10.0", ADA, [good]),
        Cell("3.9.0", TARGETS["sm_90"], [spilled]),
        Cell("3.9.0", ADA, [spilled]),
        Cell("3.9.0", TARGETS["sm_100"], unknown="SIGABRT"),
    ]
    page = markdown(cells, "2026-01-02", "python -m kernels.compat", "All of them.")
    made = (
        "Made on 2026-01-02 by `python -m kernels.compat`, without a GPU: 3 launches. All of them."
    )
    assert made in page
    rows = [line for line in page.splitlines() if line.startswith("| 3.")]
    assert rows == [
        "| 3.9.0 | 0/1, 1 spills<br>255 registers, 4.0 KiB "
        "| 0/1, 1 spills<br>255 registers, 4.0 KiB | - |",
        "| 3.10.0 | 1/1<br>90 registers, 2.0 KiB |  |  |",
    ]
    assert (
        "- `k float16 BLOCK=64`: spills: 3.9.0 sm_89 (640 bytes a thread), "
        "3.9.0 sm_90 (640 bytes a thread)"
    ) in page
    assert "| `k float16 BLOCK=64` | 255 / 4.0 **!** | 255 / 4.0 **!** |  |" in page
    assert as_json(cells, "2026-01-02")["cells"][1]["launches"][0]["status"] == "spills"


def test_the_page_says_an_error_once_with_all_places_that_have_it():
    aborted = [Outcome(f"k BLOCK={n}", Status.ABORTED, error="SIGABRT: `isa`") for n in (1, 2)]
    cells = [Cell("3.1.0", ADA, aborted), Cell("3.0.0", ADA, aborted[:1])]
    cells.append(Cell("2.3.1", ADA, unknown="SIGABRT"))
    page = markdown(cells, "2026-01-02", "x", "y")
    assert "- `unknown target: SIGABRT`: 2.3.1 sm_89\n" in page
    error = "- `k` aborts the compiler: `SIGABRT: 'isa'`: 3.0.0 sm_89, 3.1.0 sm_89, 2 launches\n"
    assert error in page


def test_error_lines_name_no_folder_of_the_machine():
    said = 'note: x\nloc("/home/me/kernels/k.py":1:2): error: bad\n#1 stack'
    assert _telling(said) == 'loc("k.py":1:2): error: bad'
    assert _telling("python: /b/c.h:5: cast: Assertion `x' failed.") == "Assertion `x' failed."
    assert _telling("one\ntwo", otherwise_last=True) == "two"

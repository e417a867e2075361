"""Several large files are judged side by side, and nothing that is said tells it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.judge import write
from orchestrator.engine.side_by_side import LARGE
from orchestrator.models.verdict import Verdict

PROCESSORS = """
import os, sys
os.cpu_count = lambda: {processors}
fork = os.fork
def counted():
    child = fork()
    if child:
        print("forked", file=sys.stderr)
    return child
os.fork = counted
"""
SHARES = """
from orchestrator.engine.side_by_side import LARGE, side_by_side
parent = os.getpid()
"""


def _python(script: str, *args: str, processors: int) -> subprocess.CompletedProcess[str]:
    """A process of its own: this one may have threads."""
    script = PROCESSORS.format(processors=processors) + script
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _said(script: str, processors: int = 2) -> str:
    done = _python(SHARES + script, processors=processors)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_found_keeps_its_order_and_small_things_stay_here():
    script = """
sizes = [1, LARGE, 2, LARGE, LARGE, 3]
found = side_by_side(lambda size: (size, os.getpid() == parent), sizes, lambda size: size)
print([size for size, _ in found] == sizes, [here for _, here in found])
"""
    assert _said(script) == "True [True, True, True, False, True, True]"
    assert _said(script, processors=9) == "True [True, True, True, False, False, True]"
    assert _said(script, processors=1) == f"True {[True] * 6}"


def test_with_a_thread_beside_it_nothing_is_forked():
    script = """
import threading
done = threading.Event()
threading.Thread(target=done.wait).start()
print(side_by_side(lambda size: os.getpid() == parent, [LARGE, LARGE], lambda size: size))
done.set()
"""
    assert _said(script) == "[True, True]"


@pytest.mark.parametrize(
    "end",
    ["os._exit(0)", "os.kill(os.getpid(), 9)", "raise KeyboardInterrupt", "return lambda: None"],
)
def test_what_a_process_did_not_tell_is_worked_on_again(end: str):
    script = f"""
def work(size):
    if os.getpid() != parent:
        {end}
    return size
print(side_by_side(work, [LARGE, LARGE + 1], lambda size: size) == [LARGE, LARGE + 1])
"""
    assert _said(script) == "True"


def test_where_no_process_can_start_all_is_worked_on_here():
    script = """
def refused():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = refused
print(side_by_side(lambda size: os.getpid() == parent, [LARGE, LARGE], lambda size: size))
"""
    assert _said(script) == "[True, True]"


def test_where_no_pipe_can_be_had_all_is_worked_on_here():
    script = """
import resource
used = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
print(side_by_side(lambda size: os.getpid() == parent, [LARGE, LARGE], lambda size: size))
"""
    assert _said(script) == "[True, True]"


@pytest.mark.parametrize("ended", [True, False])
def test_whoever_started_this_may_ignore_its_children(ended: bool):
    """The system then reaps them by itself, and there is none to wait for."""
    script = f"""
import signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def work(size):
    if os.getpid() == parent:
        time.sleep(0.2)
        if not {ended}:
            raise ZeroDivisionError
    elif not {ended}:
        time.sleep(60)
    return size
try:
    print(side_by_side(work, [LARGE, LARGE], lambda size: size) == [LARGE, LARGE])
except ZeroDivisionError:
    print(not {ended})
"""
    assert _said(script) == "True"


def test_an_interruption_is_nothing_to_a_child():
    """It is the command's, which then ends its children."""
    script = """
import signal
def work(size):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGINT)
        return "child"
    return "here"
print(side_by_side(work, [LARGE, LARGE], lambda size: size))
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    assert _said(script) == "['here', 'child']\nset()"


def test_no_process_is_left_when_the_work_fails():
    script = """
def work(size):
    if os.getpid() == parent:
        raise ZeroDivisionError
    import time
    time.sleep(60)
try:
    side_by_side(work, [LARGE, LARGE], lambda size: size)
except ZeroDivisionError:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("none")
"""
    assert _said(script) == "none"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("form", ["ours", "document"])
def test_the_command_says_the_same_to_the_byte(form: str, as_json: bool, tmp_path: Path):
    rows = 2_400 if form == "ours" else 20_000
    files = write(form, tmp_path, rows)
    assert all(file.stat().st_size >= LARGE for file in files)
    _same(files, as_json)


@pytest.mark.parametrize("broken", ["a row", "a time", "a number"])
def test_the_command_refuses_the_same(broken: str, tmp_path: Path):
    files = write("ours", tmp_path, 2_400)
    for file in files:  # of which one is judged here, one elsewhere
        lines = file.read_text().split("\n")
        fields = lines[1000].split(",")
        at = lines[0].split(",").index("tri_ms")
        fields[at] = {"a time": "1e-9", "a number": "1_0", "a row": "1,2"}[broken]
        lines[1000] = ",".join(fields)
        file.write_text("\n".join(lines))
    told = _same(files, as_json=False)
    assert told.count(Verdict.INVALID.value) > 2
    for file in files:
        assert f"{file.name}, line 1001" in " ".join(told.split())


def _same(files: list[Path], as_json: bool) -> str:
    """What both ways say."""
    script = "from orchestrator.cli import main\nmain()"
    args = ["judge", *map(str, files), "--device", "RTX 4090", *(["--json"] if as_json else [])]
    alone, beside = (_python(script, *args, processors=number) for number in (1, 2))
    assert "forked" not in alone.stderr
    assert beside.stderr.count("forked") == 1
    assert (beside.stdout, beside.returncode) == (alone.stdout, alone.returncode)
    assert alone.stdout
    return alone.stdout

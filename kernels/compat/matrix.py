"""Run the matrix: a process for each Triton and target, and a verdict on each launch.

The verdicts are made here, from what `worker.py` measured, because a worker may not live to speak:
a compiler that aborts or hangs costs its process and the launch it was at, and the next process
goes on with the one after.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Any

from .environments import Environment, EnvironmentFailed, environment, own_triton, torch_folder
from .targets import Target

ROOT = Path(__file__).parents[2]
"""What holds the package `kernels`, and in a checkout the tests."""
SHIPPED = "kernels.compat.shipped:launches"
QUICK = "kernels.compat.shipped:quick"
STARTUP_S = 300.0
"""For a worker to import Torch and Triton and to run the launchers."""
LONGEST_LINE = 300
_FOLDERS = re.compile(r"(?:/[\w.+-]+)+/")
"""Of this machine, or of the one that built the compiler: they differ from run to run."""
_TELLING = re.compile(r"(?i)\b(?:error|fatal)\s*:|assertion .* failed|LLVM ERROR")


class Stopped(Exception):
    """The matrix was interrupted."""


class Status(str, Enum):
    """What became of one launch."""

    OK = "ok"
    SPILLS = "spills"
    SHARED = "shared memory"
    FAILED = "does not compile"
    ABORTED = "aborts the compiler"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Outcome:
    """One launch on one Triton and target."""

    launch: str
    status: Status
    registers: int = 0
    local_bytes: int = 0
    """Of a thread, for spilled registers."""
    shared_bytes: int = 0
    error: str = ""
    """One line, empty where `status` is `ok`."""


@dataclass
class Cell:
    """One Triton on one target."""

    triton: str
    target: Target
    outcomes: list[Outcome] = field(default_factory=list)
    unknown: str = ""
    """Why this Triton compiles nothing for this target; empty where it does."""
    broken: str = ""
    """Why there was nothing to compile: the launchers themselves failed."""
    seconds: float = 0.0

    @property
    def counts(self) -> Counter[Status]:
        """Launches by status."""
        return Counter(outcome.status for outcome in self.outcomes)

    @property
    def failures(self) -> list[str]:
        """What is wrong, a line each; none where a target need not be known and is not."""
        if self.broken:
            return [f"the launchers fail: {self.broken}"]
        if self.unknown:
            return [f"unknown target: {self.unknown}"] if self.target.required else []
        return [
            f"{outcome.launch}: {outcome.status.value}: {outcome.error}"
            for outcome in self.outcomes
            if outcome.status is not Status.OK
        ]


def run_matrix(
    versions: Sequence[str],
    targets: Sequence[Target],
    *,
    cache: Path,
    launches: str = SHIPPED,
    processes: int,
    timeout_s: float,
    report: Callable[[Cell | EnvironmentFailed], None],
) -> None:
    """Compile everything everywhere; cells are reported as they are done, in any order.

    Args:
        versions: of Triton.
        targets: to compile for.
        cache: folder of the environments.
        launches: `module:function` that gives a `Target`'s launches, run in each environment.
        processes: how many at once.
        timeout_s: for one launch.
        report: called with each cell, and with each environment that cannot be made.
    """
    try:
        torch_at = torch_folder(cache)
    except EnvironmentFailed as error:
        report(error)
        return
    # what needs no installing compiles while the others install
    order = sorted(versions, key=lambda version: version != own_triton())
    stop = threading.Event()
    with ThreadPoolExecutor(processes) as installing, ThreadPoolExecutor(processes) as compiling:
        try:
            made = [installing.submit(environment, version, cache, torch_at) for version in order]
            cells: list[Future[Cell]] = []
            for future in as_completed(made):
                try:
                    env = future.result()
                except EnvironmentFailed as error:
                    report(error)
                    continue
                cells += [
                    compiling.submit(compile_cell, env, target, launches, timeout_s, stop)
                    for target in targets
                ]
            for cell in as_completed(cells):
                report(cell.result())
        except BaseException:  # Ctrl-C too: leave no compiler behind
            stop.set()
            installing.shutdown(wait=False, cancel_futures=True)
            compiling.shutdown(wait=False, cancel_futures=True)
            raise


def compile_cell(
    env: Environment,
    target: Target,
    launches: str,
    timeout_s: float,
    stop: threading.Event | None = None,
) -> Cell:
    """Compile all launches of one Triton and target, in as many processes as it takes.

    Raises:
        Stopped: `stop` was set.
    """
    cell = Cell(env.triton, target)
    started = time.monotonic()
    wanted = 1
    while len(cell.outcomes) < wanted and not (cell.unknown or cell.broken):
        wanted = _one_process(env, cell, launches, timeout_s, stop or threading.Event())
    cell.seconds = time.monotonic() - started
    return cell


def _one_process(
    env: Environment, cell: Cell, launches: str, timeout_s: float, stop: threading.Event
) -> int:
    """Go on with a cell until its process ends; returns how many launches there are."""
    command = [str(env.python), "-m", "kernels.compat.worker"]
    command += ["--target", str(cell.target), "--launches", launches]
    command += ["--skip", str(len(cell.outcomes))]
    names: list[str] = []
    known = timed_out = False
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as file:
        spoken = _Spoken(file)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environ(Path(scratch)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,  # ptxas too is killed
        )
        assert process.stdout is not None
        try:
            for message in _messages(process.stdout, timeout_s, stop):
                if message["is"] == "start":
                    names = message["launches"]
                elif message["is"] == "target":
                    known = True
                else:
                    launch = names[len(cell.outcomes)]
                    said = _telling(spoken.rest())
                    cell.outcomes.append(_judged(launch, cell.target, message, said))
            process.wait(timeout_s)
        except (TimeoutError, subprocess.TimeoutExpired):
            timed_out = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            status = process.wait()
        if names and known and len(cell.outcomes) == len(names):
            return len(names)
        last_words = _telling(spoken.rest(), otherwise_last=True)
    waited = timeout_s if known else STARTUP_S
    error = f"nothing for {waited:.0f} s" if timed_out else f"{_ending(status)}: {last_words}"
    if not names:
        cell.broken = error if status else "they launch nothing"
    elif not known:
        cell.unknown = error
    else:
        ending = Status.TIMED_OUT if timed_out else Status.ABORTED
        cell.outcomes.append(Outcome(names[len(cell.outcomes)], ending, error=error))
    return len(names)


def _judged(launch: str, target: Target, measured: dict[str, Any], said: str) -> Outcome:
    if "error" in measured:
        error = _telling(measured["error"], otherwise_last=True)
        # a failed pass says what failed on standard error only
        return Outcome(launch, Status.FAILED, error=f"{error}: {said}" if said else error)
    registers, local, shared = (
        measured[name] for name in ("registers", "local_bytes", "shared_bytes")
    )
    status, error = Status.OK, ""
    if shared > target.shared_limit:
        status = Status.SHARED
        error = f"{shared} bytes of shared memory, a program on {target} has {target.shared_limit}"
    elif local > 0:
        status = Status.SPILLS
        error = f"{local} bytes a thread, beside {registers} registers"
    return Outcome(launch, status, registers, local, shared, error)


def _environ(scratch: Path) -> dict[str, str]:
    """No setting of the caller's decides what is compiled, and no earlier result is taken."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "NSA_", "PYTHON"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "TRITON_CACHE_DIR": str(scratch),
        "OMP_NUM_THREADS": "1",
    }


def _messages(
    stream: IO[bytes], timeout_s: float, stop: threading.Event
) -> Iterator[dict[str, Any]]:
    """Lines of JSON; each is waited for `timeout_s`, those up to `target` for `STARTUP_S`.

    Raises:
        TimeoutError: it did not come.
        Stopped: `stop` was set.
    """
    rest = b""
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline:
        if stop.is_set():
            raise Stopped
        if not select.select([stream], [], [], 0.2)[0]:
            continue
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            yield message
            if message["is"] != "start":
                deadline = time.monotonic() + timeout_s
    raise TimeoutError


class _Spoken:
    """Standard error of a worker, in a file: a pipe that nobody reads would stop it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._heard = 0

    def rest(self) -> str:
        """What has been written since the last time; `pread`, as the writer shares the offset."""
        data = os.pread(self.file.fileno(), 1 << 24, self._heard)
        self._heard += len(data)
        return data.decode(errors="replace")


def _telling(text: str, *, otherwise_last: bool = False) -> str:
    """The line that names the error: compilers add stacks, dumps and repeat commands to it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if _TELLING.search(line)]
    if not found and otherwise_last:
        found = lines[-1:]
    line = found[0] if found else ""
    line = line[max(line.find("Assertion `"), 0) :]  # before it, where in LLVM and in which type
    return _FOLDERS.sub("", line)[:LONGEST_LINE]


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"

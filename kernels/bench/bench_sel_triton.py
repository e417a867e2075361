"""Times the Triton selection kernels against the best that torch can do, after checking both.

    python -m kernels.bench.bench_sel_triton --dist few --L_list 64,128 --csv sel_dense.csv

One row is one cell, with both levels (kernel, operator) and both references (shipped, strongest).
`docs/benchmark.md` says what is measured and how, and explains the options and the columns.

Each family of cells (all lengths of a shape) is measured by a process of its own; those of a matrix
compile several at once (`--jobs`) and measure one by one. What kills one costs the cell it was at:
the row's `status` says what that was, and the rest goes on in a new process. `--resume` goes on
with a file that has no end mark yet. A canary is written beside, to `<name>.canary.csv`.

`NSA_SEL_TRITON_GROUP`, `_DB`, `_REQUIRE_ALIGN` and, at operator level, `_FORCE_PATH` choose the
kernel, as they do in production; `NSA_DEBUG_*` leave one line a cell in the diagnostics file.

With `TRITON_INTERPRET=1` everything runs on the CPU in Triton's interpreter, GPU or not, and the
rows say so in `device`: their times mean nothing.

Exit codes: 0 every cell was checked and timed; 1 some cell was not; 2 usage, no CUDA device (and
no `TRITON_INTERPRET=1`), or a CSV that exists already.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.bench.bench_csv import BenchWriter
from kernels.bench.contract import ContractError
from kernels.bench.options import Family, Options, parse
from kernels.bench.process import COMMAND, Child

SAME_MACHINE = ("device", "torch", "triton")
"""Columns in which a file that is resumed must agree with the machine that goes on."""


CANARY_S = 120
"""Seconds after which a closing canary is given up."""
UNMEASURED = dict.fromkeys(("tri_ms", "ref_ms", "speedup", "mae"), math.nan)
"""Numbers in every row, for scripts that read the document's columns as such."""


class Refused(RuntimeError):
    """Nothing can be measured here; the message says why."""


def main(argv: Sequence[str] | None = None, command: Sequence[str] = COMMAND) -> int:
    """Measure every cell of the command line; return the exit code.

    Args:
        argv: None takes the process's own.
        command: starts the process that measures a family.
    """
    options = parse(argv)
    try:
        failed, cells = _measure(options, command)
    except (ContractError, Refused, OSError) as error:
        print(f"bench_sel_triton: {error}", file=sys.stderr)
        return 2
    if failed:
        _say(f"{failed} of {cells} cells failed; see the status column of {options.csv}")
    return 1 if failed else 0


def canary_path(csv: Path) -> Path:
    """The canary's file beside a CSV."""
    return csv.with_name(f"{csv.stem}.canary.csv")


def _measure(options: Options, command: Sequence[str]) -> tuple[int, int]:
    """Write both files; how many cells failed, of how many."""
    mode = options.families[0].mode
    paths = (canary_path(options.csv), options.csv)
    begun = [path for path in paths if not path.exists()]
    canary = BenchWriter(paths[0], "canary", resume=options.resume)
    rows = BenchWriter(paths[1], mode, resume=options.resume)
    run = _Run(options, rows, canary, command)
    try:
        # the rows' end mark comes first: while it is missing there is something to resume
        with canary, rows:
            run.all()
    except (ContractError, Refused):
        if not run.written:
            for path in begun:
                path.unlink(missing_ok=True)
        raise
    return run.failed, run.cells


class _Run:
    """Goes through the families and writes what their processes tell."""

    def __init__(
        self, options: Options, rows: BenchWriter, canary: BenchWriter, command: Sequence[str]
    ) -> None:
        self.cells = sum(len(family.lengths) for family in options.families)
        self.written = 0
        self.failed = 0
        self._options = options
        self._rows = rows
        self._canary = canary
        self._command = command
        self._machine: dict[str, object] | None = None
        self._deadline: float | None = None
        if options.budget_s is not None:
            self._deadline = time.monotonic() + options.budget_s

    def all(self) -> None:
        """Measure what is not in the file yet.

        Raises:
            Refused: there is no device, or not the one that the file was begun on.
        """
        done = self._rows.resumed
        self.written = len(done)
        self.failed = sum(row["status"] != "ok" for row in done)
        asked = [(family, L) for family in self._options.families for L in family.lengths]
        for row in done:
            self._check_asked(row, asked)
        work = [
            (family, [L for L in family.lengths if not any(_same(family, L, row) for row in done)])
            for family in self._options.families
        ]
        # the closing canary is due even where every row is there already
        work = [(f, lengths) for f, lengths in work if lengths] or [(work[-1][0], [])]
        todos = [_Todo(family, lengths, []) for family, lengths in work]
        todos[0].canaries.append("before")
        todos[-1].canaries.append("after")
        for i in range(0, len(todos), self._options.jobs):
            self._families(todos[i : i + self._options.jobs])

    def _check_asked(self, row: Mapping[str, str], asked: Sequence[tuple[Family, int]]) -> None:
        """Raise `Refused` unless the options ask for a row that is there already, as it is."""
        cell = f"{self._options.csv} holds a cell that is not asked for, H={row['H']} L={row['L']}"
        others, family = min(
            ((_differences(one, length, row), one) for one, length in asked),
            key=lambda found: len(found[0]),
        )
        timed = int(row["iters"]) if row["iters"].isdecimal() else 0
        if row["status"] == "ok" and timed < family.iters:
            others.append(f"iters {row['iters']}, asked for {family.iters}")
        if others:
            raise Refused(
                f"{cell} ({'; '.join(others)}): resume with the options that it was begun with"
            )

    def _families(self, todos: Sequence[_Todo]) -> None:
        """Compile for all of them at once, then measure one after the other."""
        with contextlib.ExitStack() as stack:
            started: list[Child | None] = [None] * len(todos)
            if len(todos) > 1:
                started = [
                    stack.enter_context(Child(todo.request(prepare=True), self._command))
                    for todo in todos
                ]
            # one that died while it compiled, or took too long, is begun anew: what it dies of
            # then is told
            deadline = self._to_compile()
            ready = [child if child and child.ready(deadline) else None for child in started]
            for todo, child in zip(todos, ready, strict=True):
                self._family(todo, child)

    def _family(self, todo: _Todo, prepared: Child | None) -> None:
        """Measure cells of a family, in as many processes as it takes."""
        while todo.lengths or todo.canaries:
            if todo.lengths and self._over():
                for length in todo.lengths:
                    self._failure(todo.family, length, f"not measured: {self._budget}")
                todo.lengths = []
                continue
            if prepared and todo.lengths:
                # what it dies of before it tells anything came of waiting
                self._process(todo, prepared, again=True)
            else:
                with Child(todo.request(), self._command) as child:
                    self._process(todo, child)
            prepared = None

    def _to_compile(self) -> float | None:
        """Until when families may compile: the other half of what is left is for measuring."""
        if self._deadline is None:
            return None
        return (time.monotonic() + self._deadline) / 2

    def _process(self, todo: _Todo, child: Child, *, again: bool = False) -> None:
        """Write what a process tells, and what it died of, unless what is left begins `again`."""
        told = len(todo.lengths), len(todo.canaries)
        child.go()
        for message in child.messages(lambda: self._end_of(todo)):
            self._told(message, todo)
        died = child.death()
        sys.stderr.write(child.stderr())
        if todo.lengths or todo.canaries:
            got_on = told != (len(todo.lengths), len(todo.canaries))
            why = died or "the process ended before it was done"
            self._died(why, todo, again=again or got_on)

    def _end_of(self, todo: _Todo) -> float | None:
        """When to kill a process: the budget is for cells, the closing canary follows anyway."""
        if todo.lengths:
            return self._deadline
        todo.closing = todo.closing or time.monotonic() + CANARY_S
        return todo.closing

    def _told(self, message: Mapping[str, Any], todo: _Todo) -> None:
        if "refused" in message:
            raise Refused(message["refused"])
        if "machine" in message:
            self._meet(message["machine"])
        elif "canary" in message:
            for row in message["canary"]:
                self._canary.row(row)
            todo.canaries.remove(row["when"])
        elif "begin" in message:
            todo.at = message["begin"]
        elif "say" in message:
            _say(message["say"])
        elif "row" in message:
            self._write(todo.family, todo.lengths.pop(0), message["row"])
            todo.at = None

    def _died(self, what: str, todo: _Todo, *, again: bool) -> None:
        """Charge a death to the cell it was at, else to all that is left; or begin that `again`."""
        if self._over():
            what = f"not measured: {self._budget}"
        if todo.at is not None:
            self._failure(todo.family, todo.lengths.pop(0), what)
        elif again:
            return
        elif todo.lengths and not self._over():
            if "before" in todo.canaries:
                todo.canaries.remove("before")
                _say(f"no canary before the cells: {what}")
                return
            for length in todo.lengths:
                self._failure(todo.family, length, what)
            todo.lengths = []
        elif not todo.lengths:
            todo.canaries = []
            _say(f"no canary after the cells: {what}")
        todo.at = None

    def _meet(self, machine: dict[str, object]) -> None:
        self._machine = machine
        for row in self._rows.resumed:
            for name in SAME_MACHINE:
                if row[name] not in ("", str(machine[name])):
                    raise Refused(
                        f"{self._options.csv} was begun with {name} {row[name]}, this is "
                        f"{machine[name]}: name a new file"
                    )

    def _over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def _budget(self) -> str:
        return f"the budget of {self._options.budget_s:g} s is spent"

    def _failure(self, family: Family, length: int, what: str) -> None:
        machine = self._machine or {}
        self._write(family, length, {**machine, "status": f"error: {what}"})

    def _write(self, family: Family, length: int, measured: Mapping[str, object]) -> None:
        row: dict[str, Any] = {
            "iters": family.iters,
            **UNMEASURED,
            **family.identity(length),
            **measured,
        }
        self._rows.row({name: row.get(name, "") for name in self._rows.columns})
        self.written += 1
        self.failed += row["status"] != "ok"
        shape = f"N={family.N} H={family.H} D={family.D} Dv={family.Dv} streams={family.streams} "
        many = len(self._options.families) > 1
        _say(
            f"[{self.written}/{self.cells}] {family.mode} {family.dist} {shape if many else ''}"
            f"L={length}  {_summary(row)}"
        )


@dataclass
class _Todo:
    """What is left of a family."""

    family: Family
    lengths: list[int]
    canaries: list[str]
    """`before`, `after`: those that are due with this family."""
    at: int | None = None
    """The cell that its process is at."""
    closing: float | None = None
    """When its closing canary is given up."""

    def request(self, *, prepare: bool = False) -> dict[str, Any]:
        """For the process that measures it."""
        return {
            "prepare": prepare,
            "family": self.family.as_json(),
            "lengths": self.lengths,
            "before": "before" in self.canaries,
            "after": "after" in self.canaries,
        }


def _same(family: Family, length: int, row: Mapping[str, str]) -> bool:
    """Whether a row of a file is this cell."""
    return not _differences(family, length, row)


def _differences(family: Family, length: int, row: Mapping[str, str]) -> list[str]:
    """In what a row of a file is another cell."""
    return [
        f"{name} {row[name]}, asked for {value}"
        for name, value in family.identity(length).items()
        if row[name] != str(value)
    ]


def _summary(row: Mapping[str, Any]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    return (
        "tri {tri_ms:.3f} ms  ref {ref_ms:.3f} ms  "
        "speedup {speedup:.2f} [{speedup_lo:.2f}, {speedup_hi:.2f}]  mae {mae:.1e}".format(**row)
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _terminated(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    # so that no process that measures is left behind
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())

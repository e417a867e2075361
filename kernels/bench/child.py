"""The process that measures a family: a request on stdin, one JSON line per event on a pipe.

Asked to `prepare`, it compiles first what takes seconds, says `ready` and waits for a line: several
such processes compile at once, and then measure one after the other.

The pipe is a file descriptor of its own, named on the command line, because kernels and compilers
print where they like. The process may die at any line; `bench_sel_triton` then knows from the last
`begin` which cell it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO

import torch

from kernels.bench import references
from kernels.bench.canary import canary
from kernels.bench.cells import DTYPES, LEVELS, Say, measure, shape_of, triton_side
from kernels.bench.contract import DEVICE_TIMERS, MIN_ITERS, TRITON_PREFIX
from kernels.bench.machine import Machine, NoDevice, this_device, this_machine
from kernels.bench.options import Family
from kernels.bench.workloads import build
from kernels.selection.checks import mean_err
from kernels.selection.diagnostics import append_line, bucket_of, warn_once
from kernels.selection.errors import FlagError
from kernels.selection.flags import Flags

EVEN = 0.01
"""By which a reference that is timed twice over may differ from itself."""


def main(pipe: int) -> None:
    """Do what stdin asks for: `family`, its `lengths` to measure, and canaries `before`/`after`."""
    request = json.loads(sys.stdin.readline())
    family = Family.from_json(request["family"])
    with os.fdopen(pipe, "w", encoding="utf-8") as out:
        try:
            flags = Flags.from_env()
            device = this_device()
        except (FlagError, NoDevice) as error:
            _tell(out, refused=str(error))
            return
        if device.type == "cuda" and (family.iters < MIN_ITERS or family.warmup < 1):
            _tell(
                out,
                refused=f"on a GPU --iters must be at least {MIN_ITERS} and --warmup at least 1: "
                "fewer give no interval of the speedup, or time the compiler",
            )
            return
        if request["prepare"]:
            for length in request["lengths"]:
                _prepare(family, length, device, flags)
            _tell(out, ready=True)
            if not sys.stdin.readline():
                return
        machine = this_machine()
        _tell(out, machine=machine.columns)
        if request["before"]:
            _tell(out, canary=canary(machine, "before"))
        said: set[str] = set()
        for length in request["lengths"]:
            _tell(out, begin=length)
            row = _measured(family, length, machine, flags, lambda line: _once(out, said, line))
            if flags.debug and row["status"] == "ok":
                _log(family, length, machine, flags, row)
            _tell(out, row=row)
            if row["status"] != "ok" and device.type == "cuda":
                torch.cuda.synchronize()  # raises where the error has left no context to go on in
        if request["after"]:
            _tell(out, canary=canary(machine, "after"))


def _measured(
    family: Family, length: int, machine: Machine, flags: Flags, say: Say
) -> dict[str, object]:
    """The cell, measured once more where a reference does not come out equal to itself.

    On a GPU that happens to one cell in a hundred or so, and new buffers mend it. The log says so.
    """
    row = measure(family, length, machine, flags, say)
    if uneven(row):
        say(
            f"L={length}: measured again, the reference against itself came out at "
            f"[{row['aa_lo']:.3f}, {row['aa_hi']:.3f}]"
        )
        row = measure(family, length, machine, flags, say)
    return row


def uneven(row: Mapping[str, object]) -> bool:
    """Whether a device's time of a reference is certainly not its own, by more than `EVEN`."""
    low, high = (row.get(name) for name in ("aa_lo", "aa_hi"))
    if row.get("timer") not in DEVICE_TIMERS:
        return False
    if not (isinstance(low, float) and isinstance(high, float)):
        return False
    return low > 1 + EVEN or high < 1 - EVEN


def _prepare(family: Family, length: int, device: torch.device, flags: Flags) -> None:
    """Run once what is compiled for each shape; what fails here fails, and is told, in its cell."""
    with contextlib.suppress(Exception):
        inputs = build(shape_of(family, length, device))
        for level in LEVELS:
            runs = [triton_side(level, flags)]
            runs += [one.run for one in references.compiled(level, device)]
            for run in runs:
                for part in inputs.at(level).split(family.streams):
                    run(part)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # others compile at the same time


def _tell(out: TextIO, **message: object) -> None:
    print(json.dumps(message), file=out, flush=True)


def _once(out: TextIO, said: set[str], line: str) -> None:
    """The same references are left out of most cells of a family."""
    if line not in said:
        said.add(line)
        _tell(out, say=line)


def _log(
    family: Family, length: int, machine: Machine, flags: Flags, row: dict[str, object]
) -> None:
    """Append the cell to the diagnostics. The cell stands, whatever becomes of its line."""
    try:
        append_line(flags.diagnostics, _log_record(family, length, machine, flags, row))
    except Exception as error:  # noqa: BLE001
        warn_once(flags.diagnostics, error)


def _log_record(
    family: Family, length: int, machine: Machine, flags: Flags, row: dict[str, object]
) -> dict[str, object]:
    record: dict[str, object] = {
        "path": f"bench.{family.level}",
        "kernels": [str(row["kernel"]).removeprefix(TRITON_PREFIX)],
        "reason": f"benchmark cell, dist {family.dist}",
        "L": length,
        "bucket": bucket_of(length),
    }
    if flags.debug_timing:
        record["ms"] = row["tri_ms"]
    if not (flags.debug_compare or flags.debug_shapes):
        return record
    inputs = build(shape_of(family, length, machine.device))
    if flags.debug_compare:
        workload = inputs.at(family.level)
        record["mae"] = mean_err(triton_side(family.level, flags)(workload), inputs.oracle())
    if flags.debug_shapes:
        Q, K, V, ranges = inputs.operator.operands()
        named = (("Q", Q), ("K", K), ("V", V), ("ranges", ranges))
        record["shapes"] = {name: list(tensor.shape) for name, tensor in named}
        record["dtype"] = str(DTYPES[family.dtype]).removeprefix("torch.")
    return record


if __name__ == "__main__":
    main(int(sys.argv[1]))

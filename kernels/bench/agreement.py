"""Does the harness agree with itself, and with others? On a GPU only.

    python -m kernels.bench.agreement --out agreement.md

Measures some cells twice, then the same calls on the same inputs with `triton.testing.do_bench` and
with a loop captured in a CUDA graph, and writes one line a claim:

- A/A: a reference timed as two sides differs by at most 1 %;
- repeat: a second run's medians lie within 3 % of the first's;
- independent: both other harnesses lie within 5 % of ours, where ours is above 20 us.

Exit codes: 0 all claims hold; 1 some does not; 2 no CUDA device, usage.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton.testing

from kernels.bench import references
from kernels.bench.cells import measure, shape_of, triton_side
from kernels.bench.clock import MIN_FLUSH_BYTES, l2_bytes
from kernels.bench.machine import Machine, NoDevice, this_machine
from kernels.bench.options import Family, parse
from kernels.bench.workloads import build
from kernels.capture import captured
from kernels.selection.flags import Flags

AA, REPEAT, INDEPENDENT = 0.01, 0.03, 0.05
ABOVE_MS = 0.020
LOOPS = 20
SIDES = ("kernel_tri_ms", "kernel_shipped_ms", "operator_tri_ms", "operator_shipped_ms")


@dataclass(frozen=True)
class Claim:
    """One number that should be near another."""

    what: str
    value: float
    expected: float
    limit: float
    """Largest relative difference."""

    @property
    def holds(self) -> bool:
        """Whether it is that near; NaN is not."""
        return abs(self.value / self.expected - 1) <= self.limit

    def __str__(self) -> str:
        word = "ok" if self.holds else "FAILS"
        off = self.value / self.expected - 1
        return f"{word}: {self.what}: {off:+.2%} (limit {self.limit:.0%})"


def claims(
    cell: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    others: Mapping[str, Mapping[str, float]],
) -> list[Claim]:
    """What should hold of a cell.

    Args:
        cell: its name.
        first: its row.
        second: its row in another run.
        others: by harness, milliseconds of each of `SIDES`.
    """
    # both ends of the control's interval: its middle would hide how wide it is
    found = [Claim(f"{cell}, A/A {end}", float(first[end]), 1, AA) for end in ("aa_lo", "aa_hi")]
    for side in SIDES:
        ours = float(first[side])
        found.append(Claim(f"{cell}, {side} repeated", float(second[side]), ours, REPEAT))
        if ours > ABOVE_MS:
            found += [
                Claim(f"{cell}, {side} by {name}", times[side], ours, INDEPENDENT)
                for name, times in others.items()
            ]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report, return the exit code."""
    parser = argparse.ArgumentParser(prog="agreement", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="Markdown report to write")
    parser.add_argument("--L_list", default="64,256,1024", help="keys a row")
    args = parser.parse_args(argv)
    try:
        machine = this_machine()
    except NoDevice as error:
        return _refuse(str(error))
    if machine.device.type != "cuda":
        return _refuse("Triton's interpreter has no time to agree on: needs a CUDA device")
    lines = []
    held = True
    for dist in ("few", "many"):
        (family,) = parse(["--dist", dist, "--L_list", args.L_list, "--csv", "-"]).families
        for length in family.lengths:
            cell = f"{dist}, L={length}"
            first, second = (
                measure(family, length, machine, Flags.from_env(), lambda _: None) for _ in range(2)
            )
            broken = [row["status"] for row in (first, second) if row["status"] != "ok"]
            if broken:
                held = False
                lines.append(f"FAILS: {cell}: {broken[0]}")
                print(lines[-1], flush=True)
                continue
            found = claims(cell, first, second, _others(family, length, machine))
            held = held and all(claim.holds for claim in found)
            lines += map(str, found)
            print(*map(str, found), sep="\n", flush=True)
    name, versions = machine.name, f"torch {torch.__version__}, triton {triton.__version__}"
    report = [f"# Agreement on {name}", "", versions, "", *(f"- {line}" for line in lines), ""]
    args.out.write_text("\n".join(report), encoding="utf-8")
    print(f"{'all claims hold' if held else 'some claims FAIL'}: {args.out}")
    return 0 if held else 1


def _others(family: Family, length: int, machine: Machine) -> dict[str, dict[str, float]]:
    inputs = build(shape_of(family, length, machine.device))
    flags = Flags.from_env()
    calls: dict[str, Callable[[], object]] = {}
    for level in ("kernel", "operator"):
        workload = inputs.at(level)
        shipped = references.shipped(level, workload, flags)
        runs = {"tri": triton_side(level, flags), "shipped": shipped.run}
        for side, run in runs.items():
            calls[f"{level}_{side}_ms"] = functools.partial(run, workload)
    return {
        "do_bench": {side: _do_bench_ms(call, machine.device) for side, call in calls.items()},
        "a graph loop": {side: _graph_ms(call, machine.device) for side, call in calls.items()},
    }


def _do_bench_ms(call: Callable[[], object], device: torch.device) -> float:
    """By Triton's harness, of a graph of an idle kernel and the call, less that of such a kernel.

    As it is it would measure how fast Python launches: it starts a call when the device is ready.
    The kernel goes first because what a graph takes to start depends on its first node: where that
    is a memset, as cuDNN's attention has one, it is 2 us less on an H200.
    """
    one = torch.zeros((), device=device)
    call()
    with_call, without = (
        float(triton.testing.do_bench(_captured(calls).replay, return_mode="median"))
        for calls in ([one.zero_, call], [one.zero_])
    )
    return with_call - without


def _graph_ms(call: Callable[[], object], device: torch.device) -> float:
    """Per call, from a graph of `LOOPS` calls, each behind a flush, less the flushes alone."""
    flush = torch.empty(max(2 * l2_bytes(device), MIN_FLUSH_BYTES), dtype=torch.int8, device=device)
    with_call = _replayed([flush.zero_, call] * LOOPS)
    return (with_call - _replayed([flush.zero_] * LOOPS)) / LOOPS


def _replayed(calls: Sequence[Callable[[], object]]) -> float:
    """Least milliseconds of a graph of these calls, of ten replays."""
    for call in calls[:2]:
        call()
    graph = _captured(calls)
    least = math.inf
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        least = min(least, start.elapsed_time(end))
    return least


def _captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with captured(graph):
        for call in calls:
            call()
    return graph


def _refuse(message: str) -> int:
    print(f"agreement: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

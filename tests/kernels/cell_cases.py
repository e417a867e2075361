"""One cell of the benchmark, as small as its tests can have it."""

from __future__ import annotations

from selection_cases import DEVICE

from kernels.bench import cells
from kernels.bench.contract import columns
from kernels.bench.machine import this_machine
from kernels.bench.options import parse
from kernels.bench.workloads import build
from kernels.selection.flags import Flags

# each iteration runs in Triton's interpreter: as many as there are copies of the inputs
ITERS = ("--iters", "3", "--warmup", "0") if DEVICE.type == "cpu" else ()
TINY = ("--N", "3", "--H", "2", "--D", "16", "--Dv", "24", "--csv", "x.csv", *ITERS)
MACHINE = this_machine()


def cell(*arguments, length=20, said=None):
    """The row of one cell."""
    (family,) = parse([*TINY, "--L_list", str(length), *arguments]).families
    say = said.append if said is not None else lambda line: None
    row = family.identity(length) | cells.measure(family, length, MACHINE, Flags.from_env(), say)
    assert set(row) <= set(columns("varlen"))
    return row


def inputs(*arguments, length=20, copy=0):
    (family,) = parse([*TINY, *arguments, "--L_list", str(length)]).families
    return build(cells.shape_of(family, length, DEVICE), copy)

"""The contract between the benchmark and whoever judges it: CSV columns and the decision rule.

The file itself, its header, rows and end mark, is `kernels.bench.bench_csv`.

Standard library only: the controller imports this module on machines that have neither torch,
triton nor numpy (a test proves that the import loads none of them).

The first columns are those of the source playbook, in its order. Ours follow, so that a script
that reads the document's CSV by position or by name keeps working.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CONTRACT_VERSION = 2

DENSE_COLUMNS = (
    "mode", "N", "H", "D", "Dv", "L", "streams", "tri_ms", "ref_ms", "speedup", "mae",
)  # fmt: skip
VARLEN_COLUMNS = (
    "mode", "N", "H", "D", "Dv", "L", "nspans", "streams", "tri_ms", "ref_ms", "speedup", "mae",
)  # fmt: skip
EXTRA_COLUMNS = (
    "contract",  # CONTRACT_VERSION of the writer
    "status",  # "ok", or what became of the cell: "error: <one line>"
    "dist",  # few | many | mixed
    "dtype",  # fp16 | bf16 | fp32
    "device",  # name of the CUDA device, or CPU_INTERPRETER
    "level",  # kernel: both sides get packed K/V; operator: both get Q, K, V, ranges
    "kernel",  # the kernel that really ran, from the launcher's record; begins with TRITON_PREFIX
    "reference",  # what ref_ms timed
    "max_err",  # kernel against the fp64 oracle, absolute
    "ref_mae",  # reference against the fp64 oracle
    "ref_max_err",
    "ref_probe",  # "ok": changing the first, a middle and the last key each changed ref's output
    "speedup_lo",  # bounds of the 95 % bootstrap interval of the speedup
    "speedup_hi",
    "iters",
    "warmup",
    # since version 2
    "basis",  # which reference ref_ms is: shipped | strongest; `level` says at which level
    "ragged",  # "equal": all rows have L keys; else how they vary, L being the longest
    "form",  # rows: B=N, S=G=1 over 4L keys each; decode: one shared long cache
    "seed",
    "kernel_tri_ms",  # Triton at each level, and both references at each level
    "kernel_shipped_ms",
    "kernel_strongest_ms",
    "operator_tri_ms",
    "operator_shipped_ms",
    "operator_strongest_ms",
    "kernel_shipped_lo",  # bounds of the 95 % interval of each of the four speedups
    "kernel_shipped_hi",
    "kernel_strongest_lo",
    "kernel_strongest_hi",
    "operator_shipped_lo",
    "operator_shipped_hi",
    "operator_strongest_lo",
    "operator_strongest_hi",
    "kernel_shipped",  # name of each reference
    "kernel_strongest",
    "operator_shipped",
    "operator_strongest",
    "tri_probe",  # as ref_probe, for the kernel
    "tri_p10",  # quantiles of the times behind tri_ms and ref_ms, ms: means of a graph's passes
    "tri_p90",
    "ref_p10",
    "ref_p90",
    "tri_cv",  # coefficient of variation
    "ref_cv",
    "aa_lo",  # A/A control: interval of ref_ms / ref_ms, the reference timed as two sides
    "aa_hi",
    "bytes",  # that any correct implementation must move: Q, the selected K and V, and the output
    "flops",  # 2 * H * (D + Dv) per selected key of a row
    "tri_streams",  # streams that each side really used
    "ref_streams",
    "timer",  # events | graph | wall
    "settled",  # "yes", or why the warm-up or the stop rule did not settle
    "flush_mib",  # overwritten before each pass, its time not counted; 0: not flushed
    "l2_mib",  # 0: unknown
    "launch_us",  # launch floor of this device: a one-element kernel, timed in the same way
    "sm_mhz",  # clocks while the cell was timed; empty where they cannot be read
    "sm_max_mhz",
    "mem_mhz",
    "temperature_c",
    "began_ms",  # wall clock, milliseconds since the epoch
    "ended_ms",
    "torch",  # versions
    "triton",
    "kernel_launched",  # as `kernel`, at each level
    "operator_launched",
)
CANARY_COLUMNS = (
    "when",  # before | after the cells
    "probe",  # copy | l2_read | gemm | launch
    "value",
    "unit",  # of value: GB/s | TFLOP/s | us
    "device",
    "ms",  # median behind value
    "bytes",  # moved in that time
    "flops",
    "sm_mhz",  # as in a cell's row
    "temperature_c",
    "began_ms",
)

CPU_INTERPRETER = "cpu-interpreter"
"""`device` of rows produced by Triton's interpreter. Their times say nothing about any GPU."""

TRITON_PREFIX = "triton."
"""What the name of every kernel of ours begins with; a fallback's does not."""

END_MARK = "#end"
"""First field of the last line, before the number of rows; a file without it is truncated."""

MAX_MAE = 1e-3
"""Largest mean absolute error against the oracle (source playbook, Guardrails)."""

MIN_ITERS = 10
"""Fewest iterations of a trusted row: the bootstrap of fewer pairs is far narrower than the 95 %
that it claims."""
DEVICE_TIMERS = ("events", "graph")
WEAK_FALLBACK = 1.1
"""A shipped reference slower than the strongest by more than this is to be fixed first."""
NOISE = 0.02
"""How far the A/A control may lie from 1, and operator times below kernel times: what medians of
the same work differ by on a quiet card."""
WIDEST_CONTROL = 0.2
"""Width of the A/A control's interval from which on it shows nothing: it could not tell equal times
from a speedup of the usual margin."""
RATIO_SLACK = 0.01
"""By which a speedup may miss the ratio of the times, relative: the columns are rounded."""
DIGITS = 2e-5
"""Relative difference of one number written twice, with six significant digits."""
OPERATOR_PATHS = ("ranges", "dense", "varlen")
"""What the kernels of the operator level are called after `TRITON_PREFIX`."""
ROUNDED_ERROR = {"fp16": 8 * 2.0**-10, "bf16": 8 * 2.0**-7, "fp32": 8 * 2.0**-20}
"""What a kernel may miss beyond twice the reference's largest error: some roundings of an output
of the order of 1. The benchmark, which has the tensors, holds it to less. (fp32 products may run
on TF32 units; their outputs are averages, of which that is what is left.)"""

MEAN_FACTOR = 4
"""How many times the reference's mean error the kernel's may be, and the other way round."""
ROUNDED_MEAN = {dtype: error / 16 for dtype, error in ROUNDED_ERROR.items()}
"""And what it may miss beyond that."""
LARGEST_ERROR = {"fp16": 2.0**-5, "bf16": 2.0**-2, "fp32": 2.0**-8}
"""No rounding of an output of the order of 1 is as large: a wrong row is. (fp32 as above.)"""

DEFAULT_MARGIN = 1.2
KEEP_OFF_MIN_L = 2048
"""`sel_triton_min_L` that keeps Triton effectively off (source playbook, Phase 2), where no length
beyond it was tested."""


class ContractError(ValueError):
    """A CSV that breaks the contract. The message names the file and line."""


def columns(mode: str) -> tuple[str, ...]:
    """Column names of a `dense`, `varlen` or `canary` CSV, in order."""
    known = {
        "dense": DENSE_COLUMNS + EXTRA_COLUMNS,
        "varlen": VARLEN_COLUMNS + EXTRA_COLUMNS,
        "canary": CANARY_COLUMNS,
    }
    if mode not in known:
        raise ContractError(f"mode must be dense or varlen, or canary, got {mode!r}")
    return known[mode]


class Cell(NamedTuple):
    """One tested cell, reduced to what the decision rule reads."""

    family: str
    """Everything but L that tells cells apart: distribution, shape, dtype, stream count."""
    L: int
    speedup: float
    """Lower confidence bound of ref_ms / tri_ms."""
    mae: float
    device: str


@dataclass(frozen=True)
class Threshold:
    """Result of the rule: `min_L` is None when no length is admissible."""

    min_L: int | None
    margin: float
    families: tuple[str, ...]
    longest: int
    """Longest tested length."""
    obstacles: tuple[str, ...] = field(default=())
    """Why the next smaller tested length (every length, if none) is not admissible."""

    def setting(self, current: int = 0) -> int:
        """Value for `runtime.sel_triton_min_L`, given the one in force.

        Where no length is admissible it is above every length that was tested: Triton must not be
        switched on where it has just lost.
        """
        if self.min_L is not None:
            return self.min_L
        return max(current, KEEP_OFF_MIN_L, self.longest + 1)


def shortfall(cell: Cell, margin: float) -> str | None:
    """Why this cell does not admit Triton at its length; None when it does."""
    if cell.device == CPU_INTERPRETER:
        why = "timed in Triton's interpreter, no CUDA device"
    elif not (math.isfinite(cell.mae) and cell.mae <= MAX_MAE):
        why = f"MAE {cell.mae:.3g} > {MAX_MAE:g}"
    elif not (math.isfinite(cell.speedup) and cell.speedup >= margin):
        why = f"speedup {cell.speedup:.3f} (lower bound) < {margin:g}"
    else:
        return None
    return f"{cell.family}, L={cell.L}: {why}"


def threshold(cells: Iterable[Cell], margin: float = DEFAULT_MARGIN) -> Threshold:
    """Smallest L that is tested in every family and from which on every tested cell passes.

    `min_L` switches Triton on for every length at or above it, so one good length proves nothing:
    all longer ones must be good too. It must lie in the tested range of every family, because a
    family first measured at 128 says nothing about 64.

    Raises:
        ContractError: no cells, or two cells with equal family and L.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ContractError(f"margin must be a positive number, got {margin}")
    by_length: dict[int, dict[str, Cell]] = {}
    for cell in cells:
        at_length = by_length.setdefault(cell.L, {})
        if cell.family in at_length:
            raise ContractError(f"{cell.family}, L={cell.L} was measured twice")
        at_length[cell.family] = cell
    if not by_length:
        raise ContractError("no cells to decide from")
    tested = sorted(by_length, reverse=True)
    shortest = {family: length for length in tested for family in by_length[length]}
    families = tuple(sorted(shortest))
    best: int | None = None
    obstacles: list[str] = []
    for length in tested:
        at_length = by_length[length]
        failing = {
            family: why
            for family, cell in at_length.items()
            if (why := shortfall(cell, margin)) is not None
        }
        if not failing and len(at_length) == len(families):
            best = length
            continue
        for family in families:
            if family in failing:
                obstacles.append(failing[family])
            elif length < shortest[family]:
                obstacles.append(f"{family}: nothing measured at L={length} or below")
        if obstacles:
            break
    return Threshold(best, margin, families, tested[0], tuple(obstacles))


def family_of(row: Mapping[str, str]) -> str:
    """Readable identity of a row's family, from whichever identifying columns it carries."""
    parts = [row.get("mode", "?")]
    if row.get("dist"):
        parts.append(row["dist"])
    parts += [
        f"{name}={row[name]}"
        for name in ("N", "H", "D", "Dv", "nspans", "streams")
        if row.get(name)
    ]
    parts += [row[name] for name in ("dtype", "level") if row.get(name)]
    usual = {"ragged": "equal", "form": "rows"}
    parts += [row[name] for name, value in usual.items() if row.get(name, value) not in ("", value)]
    return " ".join(parts)


def cell_of(
    row: Mapping[str, str], at: str, *, level: str = "operator", reference: str = "strongest"
) -> Cell:
    """Read a row's cell.

    The lower bound of the speedup at `level` (`kernel`, `operator`) over `reference` (`shipped`,
    `strongest`) decides where the row has it; in older files `speedup_lo` and, failing that, the
    source project's `speedup`, whatever they were measured against.

    Raises:
        ContractError: a needed field is missing or is not a finite number; `at` locates it.
    """

    def number(name: str, parse: Callable[[str], float]) -> float:
        try:
            value = parse(row[name])
        except KeyError:
            raise ContractError(f"{at}: column {name} is missing") from None
        except ValueError:
            raise ContractError(f"{at}: {name}={row[name]!r} is not a number") from None
        if not math.isfinite(value):
            raise ContractError(f"{at}: {name} is {row[name]}")
        return value

    bounds = (f"{level}_{reference}_lo", "speedup_lo")
    speedup = next((name for name in bounds if row.get(name)), "speedup")
    return Cell(
        family=family_of(row),
        L=int(number("L", int)),
        speedup=number(speedup, float),
        mae=number("mae", float),
        device=row.get("device", ""),
    )

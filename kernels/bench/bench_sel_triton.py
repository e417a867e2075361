"""Times the Triton selection kernels against packed SDPA, after checking both.

    python -m kernels.bench.bench_sel_triton --dist few --L_list 64,128 --csv sel_dense.csv

`--dist few` writes a dense CSV, `many` and `mixed` a varlen one, with the columns of `contract`.
Before a cell is timed, the kernel and the reference are compared with the fp64 oracle on the very
same tensors, split over the streams as they will be timed, and a mutation probe makes sure that
both read every key. The kernel's mean error must be at most `MAX_MAE`, its largest at most
`checks.max_err_limit`. A cell that is wrong is not timed. Afterwards the last timed outputs of
both sides are compared with the oracle too, and the timed calls must have launched the kernels
that were checked. Whatever fails is said in the row's `status`, and the remaining cells go on.

`NSA_SEL_TRITON_GROUP`, `_DB`, `_REQUIRE_ALIGN` and, at operator level, `_FORCE_PATH` choose the
kernel, as they do in production; `NSA_DEBUG_*` leave one line a cell in the diagnostics file.

With `TRITON_INTERPRET=1` everything runs on the CPU in Triton's interpreter, GPU or not, and the
rows say so in `device`: their times mean nothing.

Exit codes: 0 every cell was checked and timed; 1 some cell was not; 2 usage, no CUDA device (and
no `TRITON_INTERPRET=1`), or a CSV that exists already.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import triton
from torch import Tensor

from kernels.bench.contract import (
    CONTRACT_VERSION,
    CPU_INTERPRETER,
    MAX_MAE,
    TRITON_PREFIX,
    BenchWriter,
    ContractError,
    columns,
)
from kernels.bench.timing import MIN_PAIRS, time_pair
from kernels.bench.workloads import Shape, Workload, kernel_workload, operator_workload
from kernels.selection import op
from kernels.selection.checks import (
    ignored_keys,
    max_err,
    max_err_limit,
    mean_err,
    unwritten_is_nan,
)
from kernels.selection.diagnostics import append_line, bucket_of, warn_once
from kernels.selection.errors import FlagError
from kernels.selection.flags import Flags

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

NUMBERS = (
    "tri_ms", "ref_ms", "speedup", "speedup_lo", "speedup_hi",
    "mae", "max_err", "ref_mae", "ref_max_err",
)  # fmt: skip
UNMEASURED = dict.fromkeys(NUMBERS, math.nan) | dict.fromkeys(
    ("kernel", "reference", "ref_probe"), ""
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every cell of the command line; return the exit code."""
    args = _parse(argv)
    try:
        flags = Flags.from_env()
    except FlagError as error:
        return _refuse(str(error))
    if op.INTERPRETED:  # also beside a GPU: what the interpreter takes is not the GPU's time
        device, device_name = torch.device("cpu"), CPU_INTERPRETER
    elif torch.cuda.is_available():
        device = torch.device("cuda")
        device_name = torch.cuda.get_device_name(device)
        if args.iters < MIN_PAIRS or args.warmup < 1:
            return _refuse(
                f"on a GPU --iters must be at least {MIN_PAIRS} and --warmup at least 1: fewer "
                "give no interval of the speedup, or time the compiler"
            )
    else:
        return _refuse(
            "no CUDA device; set TRITON_INTERPRET=1 to check the kernels (not their speed) "
            "in Triton's interpreter"
        )
    mode = "dense" if args.dist == "few" else "varlen"
    failed = 0
    try:
        with BenchWriter(args.csv, mode) as writer:
            for i, length in enumerate(args.L_list, start=1):
                shape = _shape(args, length, device)
                measured, workload = _run_cell(args, shape, flags)
                row = _identity(args, shape, mode, device_name) | measured
                writer.row({name: row.get(name, "") for name in columns(mode)})
                if flags.debug and workload is not None:
                    _log(workload, shape, flags, row)
                failed += row["status"] != "ok"
                _say(f"[{i}/{len(args.L_list)}] {mode} {args.dist} L={length}  {_summary(row)}")
    except (ContractError, OSError) as error:
        return _refuse(str(error))
    if failed:
        _say(f"{failed} of {len(args.L_list)} cells failed; see the status column of {args.csv}")
    return 1 if failed else 0


def _run_cell(
    args: argparse.Namespace, shape: Shape, flags: Flags
) -> tuple[dict[str, object], Workload | None]:
    """Build, check and time one cell.

    Returns:
        Its measured columns, with `status` for what went wrong, and the workload if nothing did.
    """
    row: dict[str, object] = dict(UNMEASURED) | {"began_ms": _now_ms()}
    try:
        if args.level == "operator":
            workload = operator_workload(shape, decode=args.decode)
        else:
            workload = kernel_workload(shape)
        row["reference"] = workload.reference_name
        parts = workload.split(args.streams)
        oracle = workload.oracle()
        kernels, wrong = _check(workload, parts, oracle, flags, row)
        wrong = wrong or _time(args, parts, oracle, kernels, flags, row)
    except Exception as error:  # noqa: BLE001 - whatever one cell dies of, the others go on
        wrong = _one_line(error)
    row |= {"status": f"error: {wrong}" if wrong else "ok", "ended_ms": _now_ms()}
    return row, None if wrong else workload


def _check(
    workload: Workload,
    parts: Sequence[Workload],
    oracle: Tensor,
    flags: Flags,
    row: dict[str, object],
) -> tuple[list[str], str | None]:
    """Measure both sides against the oracle and probe them.

    Returns:
        The kernels that one pass over the parts launches, and what is wrong, if anything is.
    """
    with op.record_launches() as kernels, unwritten_is_nan():
        out = [part.triton(flags) for part in parts]
    reference = [part.reference() for part in parts]
    ignored = _ignored(workload, lambda changed: changed.reference())
    row |= {
        "kernel": _named(kernels),
        "ref_probe": f"ignored: {'; '.join(ignored)}" if ignored else "ok",
    }
    wrong = _compare(out, reference, oracle, row)
    if ignored:
        wrong = f"the reference does not attend to: {'; '.join(ignored)}"
    row["tri_probe"] = ""
    if not wrong and not kernels:
        wrong = "no Triton kernel was launched"
    if not wrong:
        ignored = _ignored(workload, lambda changed: changed.triton(flags))
        row["tri_probe"] = f"ignored: {'; '.join(ignored)}" if ignored else "ok"
        if ignored:
            wrong = f"the kernel does not attend to: {'; '.join(ignored)}"
    return kernels, wrong


def _ignored(workload: Workload, side: Callable[[Workload], Tensor]) -> tuple[str, ...]:
    return ignored_keys(
        lambda K, V: side(workload.with_keys(K, V)),
        workload.rows,
        *workload.keys,
        workload.places(),
    )


def _compare(
    out: Sequence[Tensor], reference: Sequence[Tensor], oracle: Tensor, row: dict[str, object]
) -> str | None:
    """Record the errors of the joined outputs; what is wrong with them, if anything is."""
    sides = {"reference": torch.cat(list(reference)), "kernel": torch.cat(list(out))}
    for side, joined in sides.items():
        if joined.shape != oracle.shape:
            return f"the {side} gives {list(joined.shape)}, the oracle {list(oracle.shape)}"
    means = {side: mean_err(joined, oracle) for side, joined in sides.items()}
    largest = {side: max_err(joined, oracle) for side, joined in sides.items()}
    row |= {
        "mae": means["kernel"],
        "max_err": largest["kernel"],
        "ref_mae": means["reference"],
        "ref_max_err": largest["reference"],
    }
    for side, error in means.items():
        if not error <= MAX_MAE:  # NaN is not
            return f"mean error of the {side} against the oracle {error:.3g} > {MAX_MAE:g}"
    limit = max_err_limit(largest["reference"], oracle, sides["kernel"].dtype)
    if not largest["kernel"] <= limit:
        return (
            f"largest error of the kernel against the oracle {largest['kernel']:.3g} > {limit:.3g}"
            f" (the reference's is {largest['reference']:.3g})"
        )
    return None


def _time(
    args: argparse.Namespace,
    parts: Sequence[Workload],
    oracle: Tensor,
    kernels: Sequence[str],
    flags: Flags,
    row: dict[str, object],
) -> str | None:
    """Time both sides; what is wrong with what was timed, if anything is."""
    with op.record_launches() as timed:
        times = time_pair(
            [lambda part=part: part.triton(flags) for part in parts],  # type: ignore[misc]
            [part.reference for part in parts],
            iters=args.iters,
            warmup=args.warmup,
            device=oracle.device,
        )
    row["kernel"] = _named(timed)
    rounds = args.iters + args.warmup
    if timed != list(kernels) * rounds:
        return (
            f"the timed calls launched {dict(Counter(timed))}, "
            f"not {rounds} times {dict(Counter(kernels))}"
        )
    wrong = _compare(times.triton_out, times.reference_out, oracle, row)
    if wrong:
        return f"in the last timed iteration: {wrong}"
    low, high = times.speedup_interval(args.seed)
    row |= {
        f"{args.level}_tri_ms": times.triton_ms,
        f"{args.level}_shipped_ms": times.reference_ms,
        f"{args.level}_shipped_lo": low,
        f"{args.level}_shipped_hi": high,
        f"{args.level}_shipped": row["reference"],
        "tri_ms": times.triton_ms,
        "ref_ms": times.reference_ms,
        "speedup": times.speedup,
        "speedup_lo": low,
        "speedup_hi": high,
    }
    return None


def _named(kernels: Sequence[str]) -> str:
    """Distinct kernels in the order of their first launch, as the column `kernel` has them."""
    return TRITON_PREFIX + "+".join(dict.fromkeys(kernels)) if kernels else ""


def _identity(
    args: argparse.Namespace, shape: Shape, mode: str, device_name: str
) -> dict[str, object]:
    return {
        "mode": mode,
        "N": shape.N,
        "H": shape.H,
        "D": shape.D,
        "Dv": shape.Dv,
        "L": shape.L,
        "nspans": shape.nspans,
        "streams": args.streams,
        "contract": CONTRACT_VERSION,
        "dist": shape.dist,
        "dtype": args.dtype,
        "device": device_name,
        "level": args.level,
        "iters": args.iters,
        "warmup": args.warmup,
        "basis": "shipped",
        "ragged": "mixed" if shape.dist == "mixed" else "equal",
        "form": "decode" if args.decode else "rows",
        "seed": args.seed,
        "flops": 2 * shape.N * shape.L * shape.H * (shape.D + shape.Dv),
        "tri_streams": args.streams,
        "ref_streams": args.streams,
        "timer": "wall" if shape.device.type == "cpu" else "events",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def _log(workload: Workload, shape: Shape, flags: Flags, row: dict[str, object]) -> None:
    """Append the cell to the diagnostics. The cell stands, whatever becomes of its line."""
    try:
        append_line(flags.diagnostics, _log_record(workload, shape, flags, row))
    except Exception as error:  # noqa: BLE001
        warn_once(flags.diagnostics, error)


def _log_record(
    workload: Workload, shape: Shape, flags: Flags, row: dict[str, object]
) -> dict[str, object]:
    record: dict[str, object] = {
        "path": f"bench.{workload.level}",
        "kernels": [str(row["kernel"]).removeprefix(TRITON_PREFIX)],
        "reason": f"benchmark cell, dist {shape.dist}",
        "L": shape.L,
        "bucket": bucket_of(shape.L),
    }
    if flags.debug_timing:
        record["ms"] = row["tri_ms"]
    if flags.debug_compare:
        record["mae"] = mean_err(workload.triton(flags), workload.reference())
    if flags.debug_shapes:
        K, V = workload.keys
        record["shapes"] = {"Q": list(workload.rows.shape), "K": list(K.shape), "V": list(V.shape)}
    return record


def _summary(row: dict[str, object]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    return (
        "tri {tri_ms:.3f} ms  ref {ref_ms:.3f} ms  "
        "speedup {speedup:.2f} [{speedup_lo:.2f}, {speedup_hi:.2f}]  mae {mae:.1e}".format(**row)
    )


def _now_ms() -> int:
    return time.time_ns() // 10**6


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}"


def _say(line: str) -> None:
    print(line, flush=True)


def _refuse(message: str) -> int:
    print(f"bench_sel_triton: {message}", file=sys.stderr)
    return 2


def _shape(args: argparse.Namespace, length: int, device: torch.device) -> Shape:
    return Shape(
        args.N, args.H, args.D, args.Dv, length, args.dist, DTYPES[args.dtype], device, args.seed
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_sel_triton", description="Triton selection kernels against packed SDPA."
    )
    add = parser.add_argument
    add("--N", type=_positive, default=1024, help="rows: query positions x groups")
    add("--H", type=_positive, default=8, help="query heads of a row")
    add("--D", type=_positive, default=128, help="head dimension of queries and keys")
    add("--Dv", type=_positive, default=128, help="head dimension of values")
    add(
        "--L_list", type=_lengths, default=[64, 128, 256, 512, 1024], help="keys a row, e.g. 64,128"
    )
    add("--dist", choices=("few", "many", "mixed"), default="few", help="spans a row: 1, 8, either")
    add("--iters", type=_positive, default=50, help="timed iterations of each side")
    add("--warmup", type=_count, default=5, help="untimed iterations of each side")
    add("--streams", type=_positive, default=1, help="streams the rows are split over, both sides")
    add("--csv", type=Path, required=True, help="file to write; must not exist")
    add(
        "--level",
        choices=("kernel", "operator"),
        default="kernel",
        help="kernel: both sides get packed K/V; operator: both get Q, K, V, ranges",
    )
    add(
        "--decode",
        action="store_true",
        help="operator level, one query row a sequence (B=1, S=1, G=N) over a shared cache of "
        "64 * L keys; without it operator level is a prefill (B=1, S=N, G=1)",
    )
    add("--dtype", choices=tuple(DTYPES), default="fp16")
    add("--seed", type=_count, default=0, help="of the inputs and of the bootstrap")
    args = parser.parse_args(argv)
    if args.streams > args.N:
        parser.error(f"--streams {args.streams} is more than the {args.N} rows there are")
    if args.decode:
        args.level = "operator"
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _lengths(text: str) -> list[int]:
    try:
        lengths = [_positive(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected lengths like 64,128") from None
    if len(set(lengths)) != len(lengths):
        raise argparse.ArgumentTypeError(f"{text!r} names a length twice")
    return lengths


if __name__ == "__main__":
    sys.exit(main())

"""Times the Triton selection kernels against packed SDPA, after checking both.

    python -m kernels.bench.bench_sel_triton --dist few --L_list 64,128 --csv sel_dense.csv

`--dist few` writes a dense CSV, `many` and `mixed` a varlen one, with the columns of `contract`.
Before a cell is timed, the kernel and the reference are compared with the fp64 oracle on the very
same tensors, and a mutation probe makes sure that the reference reads every key. A cell that is
wrong is not timed: its row says so in `status`, and the remaining cells go on.

`NSA_SEL_TRITON_GROUP`, `_DB`, `_REQUIRE_ALIGN` and, at operator level, `_FORCE_PATH` choose the
kernel, as they do in production; `NSA_DEBUG_*` leave one line a cell in the diagnostics file.

Exit codes: 0 every cell was checked and timed; 1 some cell was not; 2 usage, no CUDA device (and
no `TRITON_INTERPRET=1`), or a CSV that exists already.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kernels.bench.contract import (
    CONTRACT_VERSION,
    CPU_INTERPRETER,
    MAX_MAE,
    TRITON_PREFIX,
    BenchWriter,
    ContractError,
    columns,
)
from kernels.bench.timing import time_pair
from kernels.bench.workloads import Shape, Workload, kernel_workload, operator_workload
from kernels.selection import op
from kernels.selection.checks import ignored_keys, max_err, mean_err
from kernels.selection.diagnostics import append_line, bucket_of
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
    if torch.cuda.is_available():
        device = torch.device("cuda")
        device_name = torch.cuda.get_device_name(device)
    elif op.INTERPRETED:
        device, device_name = torch.device("cpu"), CPU_INTERPRETER
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
                row = _identity(args, shape, mode, device_name) | _run_cell(args, shape, flags)
                writer.row({name: row[name] for name in columns(mode)})
                failed += row["status"] != "ok"
                _say(f"[{i}/{len(args.L_list)}] {mode} {args.dist} L={length}  {_summary(row)}")
    except (ContractError, OSError) as error:
        return _refuse(str(error))
    if failed:
        _say(f"{failed} of {len(args.L_list)} cells failed; see the status column of {args.csv}")
    return 1 if failed else 0


def _run_cell(args: argparse.Namespace, shape: Shape, flags: Flags) -> dict[str, object]:
    """Build, check and time one cell; its measured columns, with `status` for what went wrong."""
    row: dict[str, object] = dict(UNMEASURED)
    try:
        if args.level == "operator":
            workload = operator_workload(shape, decode=args.decode)
        else:
            workload = kernel_workload(shape)
        row["reference"] = workload.reference_name
        wrong = _check(workload, flags, row)
        if wrong:
            row["status"] = f"error: {wrong}"
            return row
        _time(args, workload, flags, row)
    except Exception as error:  # noqa: BLE001 - whatever one cell dies of, the others go on
        row["status"] = f"error: {_one_line(error)}"
        return row
    row["status"] = "ok"
    if flags.debug:
        _log(workload, shape, flags, row)
    return row


def _check(workload: Workload, flags: Flags, row: dict[str, object]) -> str | None:
    """Measure both sides against the oracle and probe the reference; why they are wrong, if so."""
    oracle = workload.oracle()
    with op.record_launches() as kernels:
        out = workload.triton(flags)
    reference = workload.reference()
    ignored = ignored_keys(
        lambda K, V: workload.with_keys(K, V).reference(),
        workload.rows,
        *workload.keys,
        workload.places(),
    )
    row |= {
        "kernel": TRITON_PREFIX + "+".join(kernels) if kernels else "",
        "mae": mean_err(out, oracle),
        "max_err": max_err(out, oracle),
        "ref_mae": mean_err(reference, oracle),
        "ref_max_err": max_err(reference, oracle),
        "ref_probe": f"ignored: {'; '.join(ignored)}" if ignored else "ok",
    }
    if ignored:
        return f"the reference does not attend to: {'; '.join(ignored)}"
    for name, side in (("ref_mae", "reference"), ("mae", "kernel")):
        error = row[name]
        if not (isinstance(error, float) and error <= MAX_MAE):  # NaN is not
            return f"mean error of the {side} against the oracle {error:.3g} > {MAX_MAE:g}"
    if not kernels:
        return "no Triton kernel was launched"
    return None


def _time(
    args: argparse.Namespace, workload: Workload, flags: Flags, row: dict[str, object]
) -> None:
    parts = workload.split(args.streams)
    times = time_pair(
        [lambda part=part: part.triton(flags) for part in parts],  # type: ignore[misc]
        [part.reference for part in parts],
        iters=args.iters,
        warmup=args.warmup,
        device=workload.rows.device,
    )
    low, high = times.speedup_interval(args.seed)
    row |= {
        "tri_ms": times.triton_ms,
        "ref_ms": times.reference_ms,
        "speedup": times.speedup,
        "speedup_lo": low,
        "speedup_hi": high,
    }


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
    }


def _log(workload: Workload, shape: Shape, flags: Flags, row: dict[str, object]) -> None:
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
    append_line(flags.diagnostics, record)


def _summary(row: dict[str, object]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    return (
        "tri {tri_ms:.3f} ms  ref {ref_ms:.3f} ms  "
        "speedup {speedup:.2f} [{speedup_lo:.2f}, {speedup_hi:.2f}]  mae {mae:.1e}".format(**row)
    )


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

"""Measures launch parameters on the card at hand and writes them into the table that ships.

    python -m kernels.tune                                  # every form, fp16 and fp32
    python -m kernels.tune --forms ranges --dims 128x128    # some
    python -m kernels.tune --table /tmp/table.json          # elsewhere

For each form, dtype, head dimensions, number of heads, length and number of rows, every candidate
is compared with the fp64 oracle on a few rows, then timed on all with cold L2 in a CUDA graph. The
fastest goes into `configs/selection_tuning.json`, unless the table's own is within the noise. What
was derived stays in the table behind what was measured.

Exit codes: 0 written; 1 some cell had no candidate that is right; 2 usage, no CUDA device, or
`TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import triton

from kernels.measure import ColdClock, Rows, dense_rows, ranges_rows, varlen_rows, worst
from kernels.selection.checks import max_err_limit
from kernels.selection.errors import KernelBuildError
from kernels.selection.flags import Flags
from kernels.selection.launch import tile
from kernels.selection.limits import INTERPRETED
from kernels.selection.tuning import (
    KERNELS,
    SPLIT,
    TABLE,
    Entry,
    LaunchParams,
    Request,
    launch_params,
    read_table,
    write_table,
)

CHECKED_ROWS = 8
NOISE = 0.01
"""How much faster than the table's own parameters others must be to replace them."""
LENGTHS = {64: 96, 128: 192, 256: 384, 512: 768, 1024: None}
"""Keys of the rows measured (their mean, in varlen form), and the bound of the entry they make."""
ROWS = {256: 512, 1024: None}
"""Likewise of rows."""
HEADS = {8: 16, 64: 64}
"""Likewise of heads: up to 16 share a tile of 16."""
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
DIMS = ((64, 64), (128, 128), (192, 128), (256, 256))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line names; return the exit code."""
    args = _parse(argv)
    if not torch.cuda.is_available():
        return _refuse("no CUDA device; launch parameters can only be measured on one")
    if INTERPRETED:
        return _refuse("TRITON_INTERPRET is set, and the interpreter's times say nothing")
    torch.manual_seed(0)
    device = torch.device("cuda")
    families = list(itertools.product(args.forms, args.dtypes, args.dims, args.heads))
    _compile_all(families, args.jobs)
    clock = ColdClock(device)
    made, failed = [], 0
    cells = [
        (*family, *size) for family in families for size in itertools.product(LENGTHS, args.rows)
    ]
    for form, dtype, (D, Dv), H, L, N in cells:
        like = torch.empty(0, dtype=DTYPES[dtype], device=device)
        entry = _measure(clock, form, like, D, Dv, H, L, N)
        failed += entry is None
        if entry:
            made.append(entry)
            # at once: what was measured stays when the rest is not
            write_table(merge(read_table(args.table), (entry,)), args.table)
            print(f"{form} {dtype} N={N} D={D} Dv={Dv} H={H} L={L}: {entry.params}", flush=True)
    print(f"{len(made)} entries written to {args.table}; {failed} cells without any")
    return 1 if failed else 0


def candidates(request: Request, shared_bytes: int) -> list[LaunchParams]:
    """What is worth trying: tiles that fit in shared memory, one to eight warps."""
    most = 64 if request.bits == 16 else 16
    heads = sorted({min(tile(request.H), most), 16})
    found = []
    for params in itertools.product(heads, (16, 32, 64, 128), (1, 2, 4, 8), (2, 3, 4, 6)):
        one = LaunchParams(*params)
        tiles = one.num_stages * one.block_l * (request.D + request.Dv) * request.bits // 8
        # a warp takes tiles of 16 heads and of 8 keys; fewer of these than warps leaves some idle
        idle = one.num_warps > max(1, one.heads // 16) * one.block_l // 8
        if tiles <= shared_bytes and not idle:
            found.append(one)
    return found


def best(times: Mapping[LaunchParams, float], now: LaunchParams) -> LaunchParams:
    """The fastest, or the table's own where that is within the noise."""
    fastest = min(times, key=lambda params: times[params])
    return now if times.get(now, math.inf) <= times[fastest] * (1 + NOISE) else fastest


def merge(table: Sequence[Entry], made: Sequence[Entry]) -> tuple[Entry, ...]:
    """Measured entries first, the narrowest of them ahead; new ones replace old ones.

    Derived ones go where a measured one answers all that they would.
    """

    def key(entry: Entry) -> tuple[object, ...]:
        return (entry.capability, entry.kernel, entry.bits, *_bounds(entry))

    measured = {key(e): e for e in (*table, *made) if e.source.startswith("measured: ")}
    found = [measured[k] for k in sorted(measured)]  # type: ignore[type-var]
    for entry in table:
        if not entry.source.startswith("measured: ") and _reached(entry, found):
            found.append(entry)
    return tuple(found)


def _bounds(entry: Entry) -> tuple[float, ...]:
    unbounded = (math.inf if bound is None else bound for bound in (entry.L, entry.N))
    return (entry.D, entry.Dv, entry.H, *unbounded)


def _reached(entry: Entry, before: Sequence[Entry]) -> bool:
    """Whether some launch gets to `entry` behind those before it."""

    def answered(kernel: str) -> bool:
        return any(
            (one.arch, one.bits) == (entry.arch, entry.bits)
            and one.kernel in (kernel, "any")
            and all(a >= b for a, b in zip(_bounds(one), _bounds(entry), strict=True))
            for one in before
        )

    kernels = (*KERNELS, SPLIT) if entry.kernel == "any" else (entry.kernel,)
    return not all(answered(kernel) for kernel in kernels)


Family = tuple[str, str, tuple[int, int], int]
"""Form, dtype, head dimensions and number of heads."""


def _compile_all(families: Sequence[Family], jobs: int) -> None:
    """Fill Triton's cache on disk from several processes: one alone would mostly compile."""
    tasks = []
    for form, dtype, (D, Dv), H in families:
        like = torch.empty(0, dtype=DTYPES[dtype], device="cuda")
        tasks += [
            ((form, dtype, (D, Dv), H), params)
            for params in candidates(
                _request(form, like, D, Dv, H, min(LENGTHS), min(ROWS)), _shared(like)
            )
        ]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, *zip(*tasks, strict=True), chunksize=4))


def _compile(family: Family, params: LaunchParams) -> None:
    form, dtype, (D, Dv), H = family
    like = torch.empty(0, dtype=DTYPES[dtype], device="cuda")
    with contextlib.suppress(KernelBuildError):
        _rows(form, CHECKED_ROWS, H, D, Dv, min(LENGTHS), like).triton(Flags(splits=1), params)


def _request(form: str, like: torch.Tensor, D: int, Dv: int, H: int, L: int, N: int) -> Request:
    capability = torch.cuda.get_device_capability(like.device)
    return Request(form, 8 * like.element_size(), tile(D), tile(Dv), HEADS[H], L, N, capability)


def _shared(like: torch.Tensor) -> int:
    """Bytes of shared memory that a program can have."""
    properties = torch.cuda.get_device_properties(like.device)
    return int(getattr(properties, "shared_memory_per_block_optin", 99 * 1024))


def _measure(
    clock: ColdClock, form: str, like: torch.Tensor, D: int, Dv: int, H: int, L: int, N: int
) -> Entry | None:
    request = _request(form, like, D, Dv, H, L, N)
    now = launch_params(request)
    few, many = (_rows(form, rows, H, D, Dv, L, like) for rows in (CHECKED_ROWS, N))
    oracle = few.oracle()
    limit = max_err_limit(0.0, oracle, like.dtype)
    flags = Flags(splits=1)
    times = {}
    for params in dict.fromkeys([now, *candidates(request, _shared(like))]):
        try:
            error = worst(few.triton(flags, params), oracle)
            if error > limit:
                print(f"{form} {params}: wrong by {error:.3g}, limit {limit:.3g}", flush=True)
                continue
            times[params] = clock.microseconds(lambda p=params: many.triton(flags, p))[0]  # type: ignore[misc]
        except KernelBuildError:
            continue  # does not fit this card
    if not times:
        return None
    chosen = best(times, now)
    before = f"{times[now]:.2f} us before" if now in times else "the parameters before failed"
    source = (
        f"measured: {torch.cuda.get_device_name(like.device)}, torch {torch.__version__}, Triton "
        f"{triton.__version__}, {datetime.date.today()}, N={N} H={H} D={D} Dv={Dv} L={L}: "
        f"{times[chosen]:.2f} us; {before}"
    )
    arch = "{}.{}".format(*request.capability)
    sides = (request.D, request.Dv, request.H, LENGTHS[L], ROWS[N])
    return Entry(arch, form, request.bits, *sides, chosen, source)


def _rows(form: str, rows: int, H: int, D: int, Dv: int, L: int, like: torch.Tensor) -> Rows:
    if form == "dense":
        return dense_rows(rows, H, D, Dv, L, like=like)
    if form == "varlen":
        return varlen_rows(rows, H, D, Dv, L, ragged=True, like=like)
    return ranges_rows(rows, H, D, Dv, L, like=like)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.tune", description="Measure launch parameters on this card."
    )
    add = parser.add_argument
    add("--forms", nargs="+", choices=KERNELS, default=list(KERNELS))
    add("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    add("--dims", nargs="+", type=_dims, default=list(DIMS), metavar="DxDv")
    add("--heads", nargs="+", type=int, choices=tuple(HEADS), default=list(HEADS))
    add("--rows", nargs="+", type=int, choices=tuple(ROWS), default=list(ROWS))
    add("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    add("--table", type=Path, default=TABLE, help="read and written; the one that ships")
    return parser.parse_args(argv)


def _dims(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: expected two sizes like 128x128")
    return int(sides[0]), int(sides[1])


def _refuse(message: str) -> int:
    print(f"kernels.tune: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""Why a row of the benchmark must not take part in a decision. Standard library only.

Judged is what a row says of itself. Whether a card can be that fast, whether it was quiet, and
whether times grow with the work takes other evidence too: that is `orchestrate judge`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from kernels.bench.contract import (
    CONTRACT_VERSION,
    CPU_INTERPRETER,
    DEVICE_TIMERS,
    DIGITS,
    LARGEST_ERROR,
    MAX_MAE,
    MEAN_FACTOR,
    MIN_ITERS,
    NOISE,
    OPERATOR_PATHS,
    RATIO_SLACK,
    ROUNDED_ERROR,
    ROUNDED_MEAN,
    TRITON_PREFIX,
    WEAK_FALLBACK,
    WIDEST_CONTROL,
)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[1-9]\d*", re.ASCII)
_LEVELS, _BASES = ("kernel", "operator"), ("shipped", "strongest")
_PAIRS = [(level, basis) for level in _LEVELS for basis in _BASES]
_TIMES = (
    "tri_ms",
    "ref_ms",
    *(f"{level}_{side}_ms" for level in _LEVELS for side in ("tri", *_BASES)),
)
_ERRORS = ("mae", "max_err", "ref_mae", "ref_max_err")


def number(text: str) -> float:
    """The number that a program has written: decimal ASCII, finite; NaN for anything else."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan


def distrust(row: Mapping[str, str], mode: str) -> list[str]:
    """Reasons against a row of a `dense` or `varlen` file; none if it can be trusted."""
    if row["status"] != "ok":
        return [row["status"] or "no status"]
    return [
        *_identity(row, mode),
        *_names(row, mode),
        *_times(row),
        *_timing(row),
        *_errors(row),
    ]


def _identity(row: Mapping[str, str], mode: str) -> Iterator[str]:
    if row["mode"] != mode:
        yield f"mode {row['mode']!r} in the {mode} file"
    if row["contract"] != str(CONTRACT_VERSION):
        yield f"contract version {row['contract']!r}, not {CONTRACT_VERSION}"
    if row["device"] == CPU_INTERPRETER:
        yield "timed in Triton's interpreter, no CUDA device"
    elif row["device"].strip().lower() in ("", "cpu", "unknown"):
        yield f"device {row['device']!r} is no CUDA device"
    if row["dtype"] not in ROUNDED_ERROR:
        yield f"dtype {row['dtype']!r} is none of {', '.join(ROUNDED_ERROR)}"
    for name in ("N", "H", "D", "Dv", "L", "nspans", "streams"):
        if not _WHOLE.fullmatch(row.get(name, "1")):
            yield f"{name} is {row[name]!r}, not a positive whole number"
    if not row["streams"] == row["tri_streams"] == row["ref_streams"]:
        yield (
            f"{row['tri_streams'] or 'unknown'} streams against {row['ref_streams'] or 'unknown'}, "
            f"asked for {row['streams']}"
        )


def _names(row: Mapping[str, str], mode: str) -> Iterator[str]:
    """What ran on each side, and whether it reads its keys."""
    for name, paths in (
        ("kernel", OPERATOR_PATHS),
        ("kernel_launched", (mode,)),
        ("operator_launched", OPERATOR_PATHS),
    ):
        ran = row[name].removeprefix(TRITON_PREFIX).split("+")
        if not row[name].startswith(TRITON_PREFIX):
            yield f"{name} is {row[name]!r}, no kernel of {TRITON_PREFIX}*"
        elif not all(kernel.startswith(paths) for kernel in ran):
            yield f"{name} is {row[name]!r}, no {' or '.join(paths)} kernel"
    for name in ("reference", *(f"{level}_{basis}" for level, basis in _PAIRS)):
        if not row[name] or row[name].startswith(TRITON_PREFIX):
            yield f"{name} is {row[name]!r}, which names no reference"
    for side, name in (("reference", "ref_probe"), ("kernel", "tri_probe")):
        if row[name] != "ok":
            yield f"{side} probe: {row[name] or 'not run'}"
    pair = row["level"], row["basis"]
    if pair not in _PAIRS:
        yield f"level {pair[0]!r} and basis {pair[1]!r} are not both known"
        return
    named = "_".join(pair)
    for own, other in (("kernel", f"{pair[0]}_launched"), ("reference", named)):
        if row[own] != row[other]:
            yield f"{own} is {row[own]!r} and {other} {row[other]!r}, which must be the same"
    for own, other in (
        ("tri_ms", f"{pair[0]}_tri_ms"),
        ("ref_ms", f"{named}_ms"),
        ("speedup_lo", f"{named}_lo"),
        ("speedup_hi", f"{named}_hi"),
    ):
        if not math.isclose(number(row[own]), number(row[other]), rel_tol=DIGITS):
            yield (
                f"{own} is {row[own] or 'missing'} and {other} {row[other] or 'missing'}, which "
                "must be the same"
            )


def _times(row: Mapping[str, str]) -> Iterator[str]:
    """Times, and the speedups that follow from them."""
    ms = {name: number(row[name]) for name in _TIMES}
    wrong = [name for name in _TIMES if not ms[name] > 0]
    yield from (f"{name} is {row[name] or 'missing'}, not a time above zero" for name in wrong)
    bounds = {
        column: number(row[column])
        for pair in (*_PAIRS, ("speedup",))
        for column in (f"{'_'.join(pair)}_lo", f"{'_'.join(pair)}_hi")
    }
    missing = [name for name, bound in bounds.items() if not bound > 0]
    yield from (f"{name} is {row[name] or 'missing'}, not a speedup" for name in missing)
    if wrong or missing:
        return
    expected = ms["ref_ms"] / ms["tri_ms"]
    if not abs(number(row["speedup"]) / expected - 1) <= RATIO_SLACK:
        yield f"speedup {row['speedup']} is not ref_ms / tri_ms = {expected:.4g}: swapped sides?"
    for level, basis in _PAIRS:
        at = f"{level}_{basis}"
        ratio = ms[f"{at}_ms"] / ms[f"{level}_tri_ms"]
        low, high = bounds[f"{at}_lo"], bounds[f"{at}_hi"]
        if not (low <= high and low * (1 - RATIO_SLACK) <= ratio <= high * (1 + RATIO_SLACK)):
            yield (
                f"{at}_lo to {at}_hi, {low:g} to {high:g}, is no interval around {at}_ms / "
                f"{level}_tri_ms = {ratio:.4g}"
            )
    for level in _LEVELS:
        if ms[f"{level}_strongest_ms"] > ms[f"{level}_shipped_ms"] * (1 + DIGITS):
            yield f"{level}_strongest_ms is above {level}_shipped_ms: it is not the strongest"
    slower = ms["operator_shipped_ms"] / ms["operator_strongest_ms"]
    if slower > WEAK_FALLBACK:
        yield (
            f"the shipped reference ({row['operator_shipped']}) takes {slower:.2f} times as long "
            f"as the strongest ({row['operator_strongest']}): fix the fallback first"
        )


def _timing(row: Mapping[str, str]) -> Iterator[str]:
    """How the times were taken."""
    if not _WHOLE.fullmatch(row["iters"]) or int(row["iters"]) < MIN_ITERS:
        yield (
            f"{row['iters'] or 'unknown'} iterations, at least {MIN_ITERS} are needed for an "
            "interval"
        )
    if row["timer"] not in DEVICE_TIMERS:
        yield f"timer {row['timer']!r}: not timed on the device"
    flushed, cache = number(row["flush_mib"]), number(row["l2_mib"])
    # what does not fit twice is mostly read from memory, flushed or not
    large = flushed >= 0 and 2 * number(row["bytes"]) > cache * 2**20 > 0
    if not (flushed >= 2 * cache > 0 or large):
        yield (
            f"{row['flush_mib'] or 'unknown'} MiB overwritten before an iteration, L2 of "
            f"{row['l2_mib'] or 'unknown'} MiB: nothing shows that it was cold"
        )
    low, high = number(row["aa_lo"]), number(row["aa_hi"])
    control = f"the A/A control, {row['aa_lo'] or 'missing'} to {row['aa_hi'] or 'missing'},"
    if not 0 < low <= high:
        yield f"{control} is no interval"
    elif not low - NOISE <= 1 <= high + NOISE:
        yield f"{control} does not hold 1: equal work was not timed as equal"
    elif high - low > WIDEST_CONTROL:
        yield f"{control} is too wide to tell equal times from a speedup"


def _errors(row: Mapping[str, str]) -> Iterator[str]:
    """Errors against the oracle."""
    error = {name: number(row[name]) for name in _ERRORS}
    outputs = number(row["N"]) * number(row["H"]) * number(row["Dv"])
    for side, mean, largest in (
        ("kernel", "mae", "max_err"),
        ("reference", "ref_mae", "ref_max_err"),
    ):
        if not 0 <= error[mean] <= MAX_MAE:
            yield f"{side} is wrong: {mean} {row[mean] or 'missing'}, not from 0 to {MAX_MAE:g}"
        # the largest of a number of errors is at least their mean, at most their sum
        elif not (
            error[mean] * (1 - DIGITS)
            <= error[largest]
            <= error[mean] * max(outputs, 1) * (1 + DIGITS)
        ):
            yield (
                f"{largest} {row[largest] or 'missing'} cannot be the largest of "
                f"{outputs:.0f} errors with the mean {row[mean]}"
            )
        if error[largest] > LARGEST_ERROR.get(row["dtype"], math.inf):
            yield f"{side} is wrong: {largest} {row[largest]} is no rounding in {row['dtype']}"
    rounded = ROUNDED_ERROR.get(row["dtype"], math.nan)
    rounded_mean = ROUNDED_MEAN.get(row["dtype"], math.nan)
    for side, prefix, other in (("kernel", "", "ref_"), ("reference", "ref_", "")):
        limit = 2 * error[f"{other}max_err"] + rounded
        if error[f"{prefix}max_err"] > limit:
            yield f"{side} is wrong: {prefix}max_err {row[f'{prefix}max_err']} > {limit:.3g}"
        limit = MEAN_FACTOR * error[f"{other}mae"] + rounded_mean
        if error[f"{prefix}mae"] > limit:
            yield f"{side} is wrong: {prefix}mae {row[f'{prefix}mae']} > {limit:.3g}"
    # a single key has weight 1 whatever its score: there nothing is rounded
    zero = [name for name in _ERRORS if error[name] == 0]
    if zero and row["L"] != "1":
        yield f"errors of exactly zero ({', '.join(zero)}): nothing was compared"

"""The errors of both sides against the fp64 oracle: can they be true, and are they small enough?

Both sides compute the same in the same precision, and both round their outputs to it. So neither
errs much more than the other, neither can err much less, and no two implementations err alike to
the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from kernels.bench.contract import DIGITS, LARGEST_ERROR, MEAN_FACTOR, ROUNDED_ERROR, ROUNDED_MEAN
from orchestrator.evidence.bench import BenchRow
from orchestrator.evidence.rows import Rows, ascending
from orchestrator.gates.findings import Finding, counted, invalid, listed, unverified
from orchestrator.gates.reference import reference_wrong
from orchestrator.models.verdict import Reason, Verdict

AS_GOOD_AS_ZERO = 1e-12
"""Mean errors that no output in fp32 or less can have, unless all of them are exact."""
MAX_ERR = max(LARGEST_ERROR.values())
"""No rounding of an output of the order of 1 is as large in any precision: a wrong row is."""
TOO_GOOD = 8
"""Of the kernel's mean error, that a reference of the same precision cannot stay below."""
_HALF = ("fp16", "bf16")
"""Precisions in which the rounding of the output is most of the error."""
_ALIKE = 2
"""Rows that do not agree in every digit of two errors by chance."""
_OUTPUTS = ("N", "H", "Dv")
_SIDES = (("kernel", "mae", "max_err"), ("reference", "ref_mae", "ref_max_err"))
_ALL = ("mae", "max_err", "ref_mae", "ref_max_err")


def error_findings(rows: Rows[BenchRow], limit: float) -> Iterator[Finding]:
    """What is wrong with the errors of cells that ran; `limit` is the largest mean error allowed.

    What a row does not say is not judged here.
    """
    apart = rows.telling("mae", "ref_mae").where(_apart, "mae", "ref_mae")
    yield from _reference(rows, apart, limit)
    for side, mean, largest in _SIDES:
        yield from _possible(rows, side, mean, largest)
    yield from _alike(rows)
    large = rows.where(lambda mae: mae is not None and mae > limit, "mae")
    if large:
        named = listed(f"{row.mae:.1e} at L={row.L}" for row in large)
        yield _wrong_kernel(
            f"The kernel's mean error is above {limit:g}: {named}.",
            "Check the kernel's softmax (fp32 log-sum-exp, scale) at the smallest such L.",
        )
    wild = rows.where(_wild, "max_err", "dtype")
    far = rows.where(_beyond, "max_err", "ref_max_err", "dtype")
    if wild or far:
        named = listed(
            f"{row.max_err:.1e} against {row.ref_max_err or 0:.1e} at L={row.L}"
            for row in wild or far
        )
        yield _wrong_kernel(
            (
                "The kernel's largest error is no rounding in its precision: "
                if wild
                else "The kernel's largest error is more than twice the reference's in the same "
                "precision: "
            )
            + f"{named}.",
            "Look for one key too many or too few: tile borders first (63, 64, 65, 127, 129).",
        )
    off = apart.where(_beyond_mean, "mae", "ref_mae", "dtype")
    if off and not large:
        named = listed(f"{row.mae:.1e} against {row.ref_mae:.1e} at L={row.L}" for row in off)
        yield _wrong_kernel(
            f"The kernel's mean error is more than {MEAN_FACTOR} times the reference's in the same "
            f"precision: {named}.",
            "Look for keys that only some rows lose: tile borders, and the ends of ranges.",
        )


def _reference(rows: Rows[BenchRow], apart: Rows[BenchRow], limit: float) -> Iterator[Finding]:
    """Too wrong to be compared with, or too good to be of the same precision.

    `apart` are those rows whose mean errors differ by more than a factor.
    """
    off = rows.where(lambda mae: mae is not None and not 0 <= mae <= limit, "ref_mae")
    if off:
        named = listed(f"MAE {row.ref_mae:.1e} at L={row.L}" for row in off)
        yield reference_wrong(
            f"The reference differs from the fp64 oracle by more than {limit:g}: {named}."
        )
    wild = rows.where(_wild, "ref_max_err", "dtype")
    if wild:
        named = listed(f"{row.ref_max_err:.1e} at L={row.L}" for row in wild)
        yield reference_wrong(f"The reference's largest error against the fp64 oracle is {named}.")
    far = rows.where(_beyond, "ref_max_err", "max_err", "dtype")
    far = far or apart.where(_beyond_mean, "ref_mae", "mae", "dtype")
    if far and not (off or wild):
        named = listed(
            f"{row.ref_mae or 0:.1e} and at most {row.ref_max_err or 0:.1e}, the kernel's are "
            f"{row.mae or 0:.1e} and {row.max_err or 0:.1e}, at L={row.L}"
            for row in far
        )
        yield reference_wrong(
            f"The reference's errors are far above the kernel's in the same precision: {named}."
        )
    good = apart.where(_too_good, "ref_mae", "mae", "dtype")
    if good:
        row = good[0]
        yield unverified(
            f"{row.where}: the reference's mean error, {row.ref_mae:.1e}, is far below what the "
            f"rounding of {row.dtype} outputs costs the kernel, {row.mae:.1e}: it was not computed "
            f"in {row.dtype}; {counted(len(good), 'such row')}.",
            "Give the reference inputs and outputs of the kernel's type.",
        )


def _alike(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Two implementations do not round alike; one that is timed as both does."""
    alike = rows.where(_equal, *_ALL)
    if len(alike) >= _ALIKE or (alike and len(alike) == len(rows)):
        row = alike[0]
        yield invalid(
            f"{row.where} (L={row.L}): the kernel's and the reference's errors agree in every "
            f"digit ({row.mae:g} and {row.max_err:g}; {counted(len(alike), 'such row')}): the same "
            "code ran as both.",
            "Look for a fallback that ran in the kernel's place, whatever the record of launches "
            "says.",
            Reason.FALLBACK_RAN,
        )


def _possible(rows: Rows[BenchRow], side: str, mean: str, largest: str) -> Iterator[Finding]:
    errors = [error for error in rows.column(mean) if error is not None]
    if errors and 0 <= max(errors) < AS_GOOD_AS_ZERO:
        yield invalid(
            f"The {side}'s errors against the fp64 oracle are all exactly zero, or as good as, in "
            f"{counted(len(errors), 'cell')}: it was compared with itself, or with nothing.",
            "Compare with an oracle that is computed on its own, in fp64.",
        )
        return
    zero = rows.where(_no_error, mean, "L") if min(errors, default=1) < AS_GOOD_AS_ZERO else ()
    if zero:
        yield invalid(
            f"{zero[0].where}: the {side}'s mean error is exactly zero, or as good as: its output "
            f"was compared with itself, or with nothing; {counted(len(zero), 'such row')}.",
            "Compare each cell's own output with an oracle in fp64.",
        )
        return
    wrong = (
        () if _are_means(rows, mean, largest) else rows.where(_no_mean, mean, largest, *_OUTPUTS)
    )
    for row in wrong:
        error, top = getattr(row, mean), getattr(row, largest)
        if error < 0:
            yield invalid(f"{row.where}: a mean absolute error below zero.")
            return
        outputs = row.N * row.H * row.Dv
        how = "above its largest" if error > top else f"too small for {outputs} outputs beside"
        yield invalid(
            f"{row.where}: the {side}'s mean error {error:g} is {how}, {top:g}.",
            "Look at how the benchmark computes the errors.",
        )
        return
    if len(errors) > 1 and errors.count(errors[0]) == len(errors) and _all_ours(rows, mean):
        # six digits do not agree by chance; other files may have rounded theirs
        yield invalid(
            f"The {side}'s errors are the same number, {errors[0]:g}, in all "
            f"{len(errors)} cells: a constant, not a measurement.",
            "Compare each cell's own output with the oracle.",
        )


def _all_ours(rows: Rows[BenchRow], told: str) -> bool:
    """Whether this project's benchmark wrote all that say `told`."""
    return not rows.where(
        lambda value, version: value is not None and not version, told, "contract"
    )


def _no_error(error: float | None, length: int) -> bool:
    # a single key has weight 1 whatever its score: there nothing is rounded
    return error is not None and 0 <= error < AS_GOOD_AS_ZERO and length > 1


def _are_means(rows: Rows[BenchRow], mean: str, largest: str) -> bool:
    """Whether all lie between the largest error and its share of the fewest outputs."""
    errors, tops = rows.column(mean), rows.column(largest)
    if not rows or not ascending(errors, tops):
        return False
    fewest = math.prod(min(rows.said(name)) for name in _OUTPUTS)
    least = min(errors)
    return bool(least >= 0 and max(tops) <= fewest * least)


def _no_mean(
    error: float | None,
    top: float | None,
    N: int,  # noqa: N803
    H: int,  # noqa: N803
    Dv: int,  # noqa: N803
) -> bool:
    """No mean absolute error at all, or not one of outputs whose largest error is `top`."""
    if error is None or top is None:
        return error is not None and error < 0
    if error < 0 or top < error * (1 - DIGITS):
        return True
    return top > error * (N * H * Dv) * (1 + DIGITS) and top > AS_GOOD_AS_ZERO


def _wild(error: float | None, dtype: str | None) -> bool:
    return error is not None and error > LARGEST_ERROR.get(dtype or "", MAX_ERR)


def _beyond(ours: float | None, theirs: float | None, dtype: str | None) -> bool:
    if ours is None or theirs is None or theirs < 0 or dtype not in ROUNDED_ERROR:
        return False
    return ours > 2 * theirs + ROUNDED_ERROR[dtype]


def _apart(ours: float, theirs: float) -> bool:
    """Whether the mean errors may be `_beyond_mean` or `_too_good`, whichever is the larger."""
    return ours > MEAN_FACTOR * theirs or theirs > MEAN_FACTOR * ours


def _beyond_mean(ours: float | None, theirs: float | None, dtype: str | None) -> bool:
    if ours is None or theirs is None or theirs < 0 or dtype not in ROUNDED_MEAN:
        return False
    return ours > MEAN_FACTOR * theirs + ROUNDED_MEAN[dtype]


def _too_good(reference: float | None, kernel: float | None, dtype: str | None) -> bool:
    if not reference or kernel is None or dtype not in _HALF:
        return False
    # where the kernel itself is too wrong, that is what is said
    return reference < kernel / TOO_GOOD and not _beyond_mean(kernel, reference, dtype)


def _equal(
    mae: float | None, max_err: float | None, ref_mae: float | None, ref_max_err: float | None
) -> bool:
    return bool(mae) and max_err is not None and (mae, max_err) == (ref_mae, ref_max_err)


def _wrong_kernel(message: str, next_step: str) -> Finding:
    return Finding(Verdict.FAIL, Reason.ERROR_TOO_LARGE, message, next_step)

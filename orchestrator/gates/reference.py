"""Is what ran right, on both sides: the reference, the kernel, and their errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter

from kernels.bench.contract import OPERATOR_PATHS, ROUNDED_ERROR
from orchestrator.evidence.bench import TRITON_PREFIX, BenchRow
from orchestrator.gates.findings import Finding, counted, invalid, lengths_of, listed
from orchestrator.models.verdict import Reason, Verdict

AS_GOOD_AS_ZERO = 1e-12
"""Mean errors that no output in fp32 or less can have, unless all of them are exact."""
MAX_ERR = 0.25
"""No rounding of an output of the order of 1 is as large, in bf16 least of all: a wrong row is."""
_KERNEL = re.compile(
    rf"({'|'.join(OPERATOR_PATHS)})(_rows)?(_fwd|_split|_combine)?([._](group|head))?", re.ASCII
)
"""What dispatch and the launchers call the kernels, and nothing else."""
_SLACK = 1.0001
"""Errors are written with six digits; a mean of equal errors is their largest."""


def reference_findings(rows: Sequence[BenchRow], limit: float) -> Iterator[Finding]:
    """What is wrong with the reference: a speedup against it means nothing, then.

    `rows` are those that ran; `limit` is the largest mean error against the oracle. What a row
    does not say is not judged here.
    """
    blind = [row for row in rows if row.ref_probe not in (None, "ok")]
    if blind:
        yield _wrong(
            f"The reference does not read all its keys at {lengths_of(blind)}: changing one left "
            f"its output as it was (ref_probe: {(blind[0].ref_probe or '')[:80]})."
        )
    off = [row for row in rows if row.ref_mae is not None and not 0 <= row.ref_mae <= limit]
    if off:
        named = listed(f"MAE {row.ref_mae:.1e} at L={row.L}" for row in off)
        yield _wrong(f"The reference differs from the fp64 oracle by more than {limit:g}: {named}.")
    wild = [row for row in rows if row.ref_max_err is not None and row.ref_max_err > MAX_ERR]
    if wild:
        named = listed(f"{row.ref_max_err:.1e} at L={row.L}" for row in wild)
        yield _wrong(f"The reference's largest error against the fp64 oracle is {named}.")
    ours = {names for names in set(map(_references, rows)) if any(map(_is_ours, names))}
    if ours:
        row = next(row for row in rows if _references(row) in ours)
        name = next(filter(_is_ours, _references(row)))
        yield invalid(
            f"{row.where}: the reference is called {name}: the two sides are swapped, or Triton is "
            "timed against itself.",
            "Time Triton as tri_ms and PyTorch as ref_ms.",
            Reason.REFERENCE_WRONG,
        )


_references = attrgetter(
    "reference", "kernel_shipped", "kernel_strongest", "operator_shipped", "operator_strongest"
)


def _is_ours(name: str | None) -> bool:
    return name is not None and name.startswith("triton")


def kernel_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Whether a Triton kernel ran wherever one was timed, and read all its keys."""
    said = {names: _not_triton(*names) for names in set(map(_launched, rows))}
    fallbacks = [(row, name) for row in rows if (name := said[_launched(row)]) is not None]
    if fallbacks:
        named = listed(f"L={row.L} ({name[:40] or 'no name'})" for row, name in fallbacks)
        yield Finding(
            Verdict.INVALID,
            Reason.FALLBACK_RAN,
            f"No Triton kernel of the mode is shown to have run at {named}: Triton's time is "
            "that of something else.",
            "Set NSA_USE_TRITON_SEL=1 and a threshold below the smallest length, and read why "
            "dispatch fell back.",
        )
    blind = [row for row in rows if row.tri_probe not in (None, "ok")]
    if blind:
        yield Finding(
            Verdict.FAIL,
            Reason.ERROR_TOO_LARGE,
            f"The kernel does not read all its keys at {lengths_of(blind)} (tri_probe: "
            f"{(blind[0].tri_probe or '')[:80]}).",
            "Check the kernel's loop bounds and masks at the smallest such L.",
        )


_launched = attrgetter(
    "mode", "level", "contract", "kernel", "kernel_launched", "operator_launched"
)


def _not_triton(
    mode: str,
    level: str | None,
    contract: int | None,
    kernel: str | None,
    at_kernel: str | None,
    at_operator: str | None,
) -> str | None:
    """A name that should be a kernel's of this mode and level, and is not."""
    if kernel is None and contract is not None:
        return ""
    for at, name in ((level, kernel), ("kernel", at_kernel), ("operator", at_operator)):
        if name is None:
            continue
        wanted = {mode} if at == "kernel" else set(OPERATOR_PATHS)
        forms = kernel_forms(name)
        if not forms or not forms <= wanted:
            return name
    return None


def kernel_forms(name: str) -> set[str]:
    """Forms of the kernels that a record names, joined by `+`; none where one is no kernel."""
    found = [_KERNEL.fullmatch(part) for part in name.removeprefix(TRITON_PREFIX).split("+")]
    if not name.startswith(TRITON_PREFIX) or None in found:
        return set()
    return {kernel[1] for kernel in found if kernel}


def error_findings(rows: Sequence[BenchRow], limit: float) -> Iterator[Finding]:
    """Whether the errors against the oracle can be true, and are small enough."""
    for side, mean, largest in (
        ("kernel", "mae", "max_err"),
        ("reference", "ref_mae", "ref_max_err"),
    ):
        yield from _possible(rows, side, mean, largest)
    large = [row for row in rows if row.mae is not None and row.mae > limit]
    if large:
        named = listed(f"{row.mae:.1e} at L={row.L}" for row in large)
        yield Finding(
            Verdict.FAIL,
            Reason.ERROR_TOO_LARGE,
            f"The kernel's mean error is above {limit:g}: {named}.",
            "Check the kernel's softmax (fp32 log-sum-exp, scale) at the smallest such L.",
        )
    far = [row for row in rows if _beyond_budget(row)]
    if far:
        named = listed(
            f"{row.max_err:.1e} against {row.ref_max_err:.1e} at L={row.L}" for row in far
        )
        yield Finding(
            Verdict.FAIL,
            Reason.ERROR_TOO_LARGE,
            "The kernel's largest error is more than twice the reference's in the same precision: "
            f"{named}.",
            "Look for one key too many or too few: tile borders first (63, 64, 65, 127, 129).",
        )


def _possible(rows: Sequence[BenchRow], side: str, mean: str, largest: str) -> Iterator[Finding]:
    errors = [
        (row, error, getattr(row, largest))
        for row in rows
        if (error := getattr(row, mean)) is not None
    ]
    for row, error, top in errors:
        if error < 0:
            yield invalid(f"{row.where}: a mean absolute error below zero.")
            return
        if top is not None and error > top * _SLACK:
            yield invalid(
                f"{row.where}: the {side}'s mean error {error:g} is above its largest, {top:g}.",
                "Look at how the benchmark computes the errors.",
            )
            return
    values = {error for _, error, _ in errors}
    if values and 0 <= max(values) < AS_GOOD_AS_ZERO:
        yield invalid(
            f"The {side}'s errors against the fp64 oracle are all exactly zero, or as good as, in "
            f"{counted(len(errors), 'cell')}: it was compared with itself, or with nothing.",
            "Compare with an oracle that is computed on its own, in fp64.",
        )
    elif len(values) == 1 and len(errors) > 1 and all(row.contract for row, _, _ in errors):
        # six digits do not agree by chance; other files may have rounded theirs
        yield invalid(
            f"The {side}'s errors are the same number, {next(iter(values)):g}, in all "
            f"{len(errors)} cells: a constant, not a measurement.",
            "Compare each cell's own output with the oracle.",
        )


def _beyond_budget(row: BenchRow) -> bool:
    if row.max_err is None or row.ref_max_err is None or row.dtype not in ROUNDED_ERROR:
        return False
    return row.max_err > 2 * row.ref_max_err + ROUNDED_ERROR[row.dtype]


def _wrong(message: str) -> Finding:
    return Finding(
        Verdict.INVALID,
        Reason.REFERENCE_WRONG,
        message,
        "Fix the reference first: every speedup against it is meaningless.",
    )

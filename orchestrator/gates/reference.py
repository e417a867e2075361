"""Is what ran what was meant to run, and does it read all its keys: the reference, the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter

from kernels.bench.contract import OPERATOR_PATHS
from orchestrator.evidence.bench import TRITON_PREFIX, BenchRow
from orchestrator.gates.findings import Finding, invalid, lengths_of, listed
from orchestrator.models.verdict import Reason, Verdict

_KERNEL = re.compile(
    rf"({'|'.join(OPERATOR_PATHS)})(_rows)?(_fwd|_split|_combine)?([._](group|head))?", re.ASCII
)
"""What dispatch and the launchers call the kernels, and nothing else."""


def reference_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """What is wrong with the reference: a speedup against it means nothing, then.

    `rows` are those that ran. What a row does not say is not judged here.
    """
    blind = [row for row in rows if row.ref_probe not in (None, "ok")]
    if blind:
        yield reference_wrong(
            f"The reference does not read all its keys at {lengths_of(blind)}: changing one left "
            f"its output as it was (ref_probe: {(blind[0].ref_probe or '')[:80]})."
        )
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
        named = listed(f"L={row.L} ({name[:40]})" for row, name in fallbacks)
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


_launched = attrgetter("mode", "level", "kernel", "kernel_launched", "operator_launched")


def _not_triton(
    mode: str,
    level: str | None,
    kernel: str | None,
    at_kernel: str | None,
    at_operator: str | None,
) -> str | None:
    """A name that should be a kernel's of this mode and level, and is not."""
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


def reference_wrong(message: str) -> Finding:
    """A finding that voids every speedup."""
    return Finding(
        Verdict.INVALID,
        Reason.REFERENCE_WRONG,
        message,
        "Fix the reference first: every speedup against it is meaningless.",
    )

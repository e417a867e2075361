"""Is what ran what was meant to run, and does it read all its keys: the reference, the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter

from kernels.bench.contract import OPERATOR_PATHS
from orchestrator.evidence.bench import TRITON_PREFIX, BenchRow
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, invalid, lengths_of, listed
from orchestrator.models.verdict import Reason, Verdict

_KERNEL = re.compile(
    rf"({'|'.join(OPERATOR_PATHS)})(_rows)?(_fwd|_split|_combine)?([._](group|head))?", re.ASCII
)
"""What dispatch and the launchers call the kernels, and nothing else."""
_REFERENCES = (
    "reference", "kernel_shipped", "kernel_strongest", "operator_shipped", "operator_strongest",
)  # fmt: skip


def reference_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """What is wrong with the reference: a speedup against it means nothing, then.

    `rows` are those that ran. What a row does not say is not judged here.
    """
    blind = rows.where(_failed, "ref_probe")
    if blind:
        yield reference_wrong(
            f"The reference does not read all its keys at {lengths_of(blind)}: changing one left "
            f"its output as it was (ref_probe: {(blind[0].ref_probe or '')[:80]})."
        )
    ours = rows.where(lambda *names: any(map(_is_ours, names)), *_REFERENCES)
    if ours:
        name = next(filter(_is_ours, (getattr(ours[0], column) for column in _REFERENCES)))
        yield invalid(
            f"{ours[0].where}: the reference is called {name}: the two sides are swapped, or "
            "Triton is timed against itself.",
            "Time Triton as tri_ms and PyTorch as ref_ms.",
            Reason.REFERENCE_WRONG,
        )


def _failed(probe: str | None) -> bool:
    return probe not in (None, "ok")


def _is_ours(name: str | None) -> bool:
    return name is not None and name.startswith("triton")


def kernel_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Whether a Triton kernel ran wherever one was timed, and read all its keys."""
    fallbacks = rows.where(_not_triton, *_LAUNCHED)
    if fallbacks:
        named = listed(
            f"L={row.L} ({(_not_triton(*_launched(row)) or '')[:40]})" for row in fallbacks
        )
        yield Finding(
            Verdict.INVALID,
            Reason.FALLBACK_RAN,
            f"No Triton kernel of the mode is shown to have run at {named}: Triton's time is "
            "that of something else.",
            "Set NSA_USE_TRITON_SEL=1 and a threshold below the smallest length, and read why "
            "dispatch fell back.",
        )
    blind = rows.where(_failed, "tri_probe")
    if blind:
        yield Finding(
            Verdict.FAIL,
            Reason.ERROR_TOO_LARGE,
            f"The kernel does not read all its keys at {lengths_of(blind)} (tri_probe: "
            f"{(blind[0].tri_probe or '')[:80]}).",
            "Check the kernel's loop bounds and masks at the smallest such L.",
        )


_LAUNCHED = ("mode", "level", "kernel", "kernel_launched", "operator_launched")
_launched = attrgetter(*_LAUNCHED)


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

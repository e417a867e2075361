"""Do the two levels of a row agree: the operator's times with those of the kernels inside it?

Operator level begins with `Q, K, V, ranges`. One way to compute it is always open: gather the
selected keys, then run the strongest of kernel level. So the strongest of operator level needs not
much more than both, and the strongest of kernel level not many times what the card needs for its
bytes. A reference that does is a weak one, or its time was not divided by all that it holds; a
speedup over it says nothing. What takes the same at both levels, to the last digit, was measured at
one of them alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.evidence.bench import BenchRow
from orchestrator.evidence.cards import find_card, is_slice
from orchestrator.evidence.roofline import Work, dram_ms, works_of
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, counted, invalid, unverified
from orchestrator.models.verdict import Reason

FACTORS = {"kernel": 6, "operator": 4}
"""Times what it should need, that a strongest reference may take. Those of torch 2.11 on an H200
stayed below 1.2 times (kernel level) and 2.1 times (operator level)."""
LAUNCHES_MS = 0.01
"""Several launches, whatever they do."""
PASSES = 3
"""Over the selected bytes in a gather and behind it: read in place, written, read again."""
_ALIKE = 3
"""Rows that do not agree in six digits by chance."""
_SIDES = {
    "tri": ("the kernel", "what prepares its inputs is not in its time"),
    "strongest": ("the strongest reference", "its gather is not in its time"),
    "shipped": ("the shipped reference", "its gather is not in its time"),
}


def level_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """What the levels of cells that were timed on a device say against each other."""
    yield from _measured_once(rows)
    weak = {"kernel": list[str](), "operator": list[str]()}
    shapes = rows.columns("device", "form", "kernel_strongest_ms", "operator_strongest_ms")
    for number, (work, (device, form, kernel, operator)) in enumerate(
        zip(works_of(rows), shapes, strict=True)
    ):
        least = _least_ms(device, work) if form == "rows" else None
        if least is None or not kernel or not operator:
            continue
        limit = FACTORS["kernel"] * (least + LAUNCHES_MS)
        if kernel > limit:
            row = rows[number]
            weak["kernel"].append(
                f"{row.where} (L={row.L}): {row.kernel_strongest} takes {kernel:g} ms, where the "
                f"card needs {least:.3g} ms for the bytes"
            )
        limit = FACTORS["operator"] * (kernel + PASSES * least + LAUNCHES_MS)
        if operator > limit:
            row = rows[number]
            weak["operator"].append(
                f"{row.where} (L={row.L}): {row.operator_strongest} takes {operator:g} ms, where a "
                f"gather ({PASSES * least:.3g} ms of memory traffic) and {row.kernel_strongest} "
                f"({kernel:g} ms) do the same"
            )
    for level, said in weak.items():
        if said:
            yield unverified(
                f"The strongest reference at {level} level is none, or its time is not that of "
                f"one call: {said[0]}; {counted(len(said), 'such row')}.",
                "See that its time is divided by the calls it holds, that nothing of it runs in a "
                "Python loop, and which references were tried: cuDNN and flash SDPA, "
                "flex_attention, index_select and SDPA.",
            )


def _least_ms(device: str | None, work: Work | tuple[str, ...]) -> float | None:
    card = find_card(device or "")
    # of a slice nobody has the peaks
    if card is None or is_slice(device or "") or not isinstance(work, Work):
        return None
    return dram_ms(work, card)


def _measured_once(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Times that both levels share digit for digit."""
    for side, (whose, means) in _SIDES.items():
        same = rows.where(_equal, f"kernel_{side}_ms", f"operator_{side}_ms")
        if len(same) >= _ALIKE or (len(same) > 1 and len(same) == len(rows)):
            row = same[0]
            yield invalid(
                f"{row.where} (L={row.L}): {whose} takes {getattr(row, f'kernel_{side}_ms'):g} ms "
                f"at both levels, to the last digit; {counted(len(same), 'such row')}: {means}.",
                "Measure operator level from Q, K, V and ranges, on both sides.",
                Reason.ONE_SIDED,
            )


def _equal(kernel: float | None, operator: float | None) -> bool:
    return kernel is not None and kernel == operator

"""Do the two levels of a row agree: the operator's times with those of the kernels inside it?

Operator level begins with `Q, K, V, ranges`. One way to compute it is always open: gather the
selected keys, then run the strongest of kernel level. So the strongest of operator level needs not
much more than both, and the strongest of kernel level not many times what the card needs for its
bytes. A reference that does is a weak one, or its time was not divided by all that it holds; a
speedup over it says nothing. What takes the same at both levels, to the last digit, was measured at
one of them alone.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

from orchestrator.evidence.bench import BenchRow
from orchestrator.evidence.cards import find_card, is_slice
from orchestrator.evidence.roofline import dram_times
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
    least_ms = rows.together(_least_ms, "device", "form")
    strongest = rows.columns("kernel_strongest_ms", "operator_strongest_ms")
    for number, (least, (kernel, whole)) in enumerate(zip(least_ms, strongest, strict=True)):
        if not least or not kernel or not whole:
            continue
        if kernel > FACTORS["kernel"] * (least + LAUNCHES_MS):
            row = rows[number]
            weak["kernel"].append(
                f"{row.where} (L={row.L}): {row.kernel_strongest} takes {kernel:g} ms, where the "
                f"card needs {least:.3g} ms for the bytes"
            )
        if whole > FACTORS["operator"] * (kernel + PASSES * least + LAUNCHES_MS):
            row = rows[number]
            weak["operator"].append(
                f"{row.where} (L={row.L}): {row.operator_strongest} takes {whole:g} ms, where a "
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


def _least_ms(rows: Rows[BenchRow], device: str | None, form: str | None) -> Sequence[float]:
    """What the card needs for the bytes of each row; 0 where nobody knows."""
    card = find_card(device or "")
    # of a slice nobody has the peaks
    if form != "rows" or card is None or is_slice(device or ""):
        return [0.0] * len(rows)
    return dram_times(rows, card)


def _measured_once(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Times that both levels share digit for digit."""
    for side, (whose, means) in _SIDES.items():
        both = f"kernel_{side}_ms", f"operator_{side}_ms"
        same = rows.telling(*both).where(operator.eq, *both)
        if len(same) >= _ALIKE or (len(same) > 1 and len(same) == len(rows)):
            row = same[0]
            yield invalid(
                f"{row.where} (L={row.L}): {whose} takes {getattr(row, f'kernel_{side}_ms'):g} ms "
                f"at both levels, to the last digit; {counted(len(same), 'such row')}: {means}.",
                "Measure operator level from Q, K, V and ranges, on both sides.",
                Reason.ONE_SIDED,
            )

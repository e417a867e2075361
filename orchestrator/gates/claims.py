"""What rows say of the work in them and of when it was done, and what they leave unsaid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from orchestrator.evidence.foreign import Row
from orchestrator.evidence.roofline import Work, misstated, works_of
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, listed, unverified
from orchestrator.gates.timed import EARLIEST_MS, REQUIRED, cell_name
from orchestrator.models.verdict import Reason, Verdict

_WINDOW = 0.9
"""Of the time that the iterations must have taken, between two readings of a wall clock."""


def claim_findings(rows: Rows[Row]) -> Iterator[Finding]:
    """Work and times of day that cannot be."""
    for wrong, remedy in (
        (_misstated(rows), "Look at how the benchmark counts the work: the limit rests on it."),
        (_outside(rows), "Set the machine's clock, and look at how the benchmark takes times."),
    ):
        if wrong:
            yield Finding(Verdict.INVALID, Reason.IMPOSSIBLE, f"{listed(wrong, 1)}.", remedy)


def _misstated(rows: Rows[Row]) -> list[str]:
    """Bytes and FLOPs that are not those of the row's shape."""
    found = []
    told = rows.columns("bytes", "flops")
    for number, (work, (moved, computed)) in enumerate(zip(works_of(rows), told, strict=True)):
        if not isinstance(work, Work) or work.assumed:
            continue
        if moved != work.bytes or computed != work.flops:
            row = rows[number]
            # what others call bytes may be something else: a row of ours says ragged and form
            if row.ragged and row.form and (said := misstated(row, work)):
                found.append(f"{row.where} ({cell_name(row)}): {said}")
    return found


def _outside(rows: Rows[Row]) -> list[str]:
    """Both sides' iterations ran one after the other, and others beside them."""
    found = []
    columns = rows.columns("began_ms", "ended_ms", "tri_ms", "ref_ms", "iters")
    for number, (began, ended, ours, theirs, iters) in enumerate(columns):
        if began is None or ended is None:
            continue
        both = (ours or 0) + (theirs or 0)
        needs = (iters or 0) * both
        if not EARLIEST_MS <= began <= ended:
            said = f"began_ms {began:.0f} and ended_ms {ended:.0f} are no time of a measurement"
        elif ended - began < _WINDOW * needs:
            said = (
                f"{iters} iterations of {both:g} ms for both sides take {needs:g} ms, the cell "
                f"took {ended - began:.0f} (began_ms, ended_ms)"
            )
        else:
            continue
        row = rows[number]
        found.append(f"{row.where} ({cell_name(row)}): {said}")
    return found


def unsaid_findings(file: str, rows: Rows[Row], *, card_named: bool) -> Iterator[Finding]:
    """Columns without which a time cannot be held against a card, or not to the full.

    `card_named` is whether the card of those is known that do not say their device.
    """
    missing = Counter[str]()
    if not card_named:
        missing["device"] = sum(not device for device in rows.column("device"))
    alike = Counter[tuple[str, ...]]()
    for work in works_of(rows):
        if not isinstance(work, Work):
            missing.update(work)
        elif work.assumed:
            alike[work.assumed] += 1
    assumed = Counter[str]()
    for names, count in alike.items():
        assumed.update(dict.fromkeys(names, count))
    for name in REQUIRED:
        missing[name] = sum(ms is None for ms in rows.column(name))
    if +missing:
        yield unverified(
            f"{file} does not say {_columns(+missing, len(rows))}, without which a time cannot be "
            "held against the card.",
            "Name the card with --device."
            if set(+missing) == {"device"}
            else "Measure with a benchmark that records it.",
        )
    if assumed:
        yield unverified(
            f"{file} does not say {_columns(assumed, len(rows))}: the least work was assumed, so a "
            "time may be impossible and not be seen to be.",
            "Measure with a benchmark that records it.",
        )


def _columns(counts: Mapping[str, int], rows: int) -> str:
    return listed(
        (name if count >= rows else f"{name} (in {count} of {rows} rows)")
        for name, count in counts.items()
    )

"""Times that no card can reach, and times that do not depend on the work.

Both sides of every row are judged: it was the reference whose numbers could not be true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from pydantic import JsonValue

from orchestrator.evidence.cards import MIB, Card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.roofline import (
    Bound,
    Work,
    dram_bound,
    dram_times,
    implied_tb_per_s,
    warm_bound,
    works_of,
)
from orchestrator.evidence.rows import Rows
from orchestrator.gates.claims import claim_findings, unsaid_findings
from orchestrator.gates.findings import Finding, conclude, counted, listed, unverified
from orchestrator.gates.flatness import flatness
from orchestrator.gates.peaks import Peaks
from orchestrator.gates.timed import (
    REQUIRED,
    SIDES,
    TOLERANCE,
    Time,
    cell_name,
    distinct_times,
    on_a_card,
)
from orchestrator.models.verdict import GateResult, Reason, Verdict

_BELOW_LAUNCH = 0.25
"""Of the launch floor: less is no launch, even if the card was asleep when that was measured."""
_OTHER_UNIT = 1 / 500
"""Of the card's speed: where nothing is faster, the unit is in doubt ..."""
_SHORT_MS = 1.0
"""... unless it is launches that were timed."""

_SLOWER = (
    "Do not use these times. Check that this side reads every key, that the clock waits for the "
    "device, and that the output is used."
)


def physics_gate(
    file: str,
    rows: Sequence[Row],
    *,
    device: str | None = None,
    l2_tb_per_s: float | None = None,
    launch_us: float | None = None,
) -> GateResult:
    """Judge every time of `rows`.

    `device` names the card where a row does not; `l2_tb_per_s` and `launch_us` are what the canary
    measured.
    """
    gate = f"physics {file}"
    told = "The times are the CPU interpreter's: no card, so no limit to hold them against."
    ran = on_a_card(gate, file, rows, told)
    if isinstance(ran, GateResult):
        return ran
    # most foreign files have two of the columns
    columns = [name for name in SIDES if name in REQUIRED or ran.said(name) != {None}]
    peaks = Peaks(ran, device, l2_tb_per_s)
    times = _Times(peaks)
    for (name, level, basis), some in ran.by("device", "level", "basis").items():
        times.take(some, distinct_times(columns, level, basis), peaks.card(name))
    flat, launch_bound = flatness(ran, columns, peaks.card, launch_us)
    findings = [
        *times.impossible(),
        *claim_findings(ran),
        *times.below_launch(),
        *flat,
        *unsaid_findings(file, ran, card_named=bool(device)),
        *peaks.findings(),
        *times.doubtful(),
    ]
    measured: dict[str, JsonValue] = {
        "cells": len(ran),
        "impossible": len(times.beyond),
        "launch_bound": list[JsonValue](launch_bound[:20]),
        **peaks.measured(),
        **times.measured(),
    }
    return conclude(gate, findings, measured, times.passed(len(ran), len(launch_bound)))


@dataclass
class _Times:
    """Every time of the rows, held against its card."""

    peaks: Peaks
    beyond: list[tuple[float, Time, Bound, Card]] = field(default_factory=list)
    """Faster than the card can be, and how many times so."""
    unreal: list[str] = field(default_factory=list)
    """No times at all."""
    short: list[str] = field(default_factory=list)
    """Below the launch floor."""
    cached: Time | None = None
    """The first that is possible from a warm L2 only, or small enough to lie in it ..."""
    in_cache: int = 0
    """... and how many are."""
    closest: tuple[float, Time, Card] | None = None
    """To its limit, and what share of it that is."""

    def take(self, rows: Rows[Row], columns: Sequence[str], card: Card | None) -> None:
        """Judge the times in `columns` of rows on one card."""
        beside = rows.columns("launch_us", "flush_mib")
        times = [rows.column(name) for name in columns]
        least = dram_times(rows, card) if card is not None else [0.0] * len(rows)
        for number, (work, cold, (launch_us, flush_mib), fastest) in enumerate(
            zip(works_of(rows), least, beside, _fastest(times), strict=True)
        ):
            floor = _BELOW_LAUNCH * launch_us / 1e3 if launch_us else 0.0
            suspect = False
            if card is not None and isinstance(work, Work):
                suspect = 2 * work.bytes <= card.l2_bytes and not _flushed(flush_mib, card)
            if not suspect and fastest is not None and fastest >= floor:
                closest = self.closest[0] if self.closest else 0.0
                if 0 < cold <= min(closest, TOLERANCE) * fastest:
                    continue  # most rows are done with at this point
            for column, each in zip(columns, (ms[number] for ms in times), strict=True):
                if each is None:
                    continue
                if not 0 < each < math.inf:
                    self.unreal.append(f"{rows[number].where}: {column} is {each:g}")
                    continue
                if each < floor:
                    self.short.append(
                        f"{rows[number].where} ({cell_name(rows[number])}): {SIDES[column]}'s "
                        f"{each:g} ms is below its launch floor, {launch_us:g} us"
                    )
                if cold and card is not None and isinstance(work, Work):
                    time = Time(rows, number, column, each, work)
                    self._look(time, card, cold, _flushed(flush_mib, card))

    def _look(self, time: Time, card: Card, cold: float, flushed: bool) -> None:
        """Judge one time, of a row that is to be looked at."""
        small = 2 * time.work.bytes <= card.l2_bytes
        if small or cold > TOLERANCE * time.ms:
            # possible from a warm L2 only, or small enough to lie in it; or impossible
            bound = dram_bound(time.work, card)
            l2 = self.peaks.l2_limit(card)
            possible = bound if flushed else warm_bound(time.work, card, l2)
            if possible.ms > TOLERANCE * time.ms:
                # a set far beyond the cache comes from DRAM: its own bound is the one to name
                shown = possible if small else bound
                self.beyond.append((shown.ms / time.ms, time, shown, card))
            elif not flushed:
                self.cached = self.cached or time
                self.in_cache += 1
        if self.closest is None or cold > self.closest[0] * time.ms:
            self.closest = (cold / time.ms, time, card)

    def impossible(self) -> Iterator[Finding]:
        """What is no time, and the worst of those that no card reaches."""
        if self.unreal:
            yield Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{listed(self.unreal)}: not a time.",
                "Look at how the benchmark writes the row.",
            )
        if not self.beyond:
            return
        _, time, bound, card = max(self.beyond, key=itemgetter(0))
        more = len(self.beyond) - 1
        claimed = f"{implied_tb_per_s(time.work, time.ms):.3g} TB/s"
        if "FLOP" in bound.peak:
            claimed = f"{time.work.flops / time.ms / 1e9:.3g} TFLOP/s"
        yield Finding(
            Verdict.INVALID,
            Reason.IMPOSSIBLE,
            f"{time} cannot be true: that is {claimed}, against a peak of {bound.peak} on the "
            f"{card.name}, which needs at least {bound.ms:.3g} ms"
            + (f" ({counted(more, 'more impossible time')})." if more else "."),
            _SLOWER,
        )

    def below_launch(self) -> Iterator[Finding]:
        """Shorter than a launch."""
        if self.short:
            message = f"{listed(self.short, 1)}."
            yield Finding(Verdict.INVALID, Reason.IMPOSSIBLE, message, _SLOWER)

    def doubtful(self) -> Iterator[Finding]:
        """What may be the cache's, or in another unit."""
        if self.cached:
            time = self.cached
            more = f"; {counted(self.in_cache, 'such time')}." if self.in_cache > 1 else "."
            yield unverified(
                f"{time} may be the L2 cache's: {time.work.bytes / 1e6:.3g} MB can stay in it, and "
                + (
                    "the row does not say that it was flushed (flush_mib)"
                    if time.row.flush_mib is None
                    else f"flush_mib is {time.row.flush_mib:g}, less than the cache"
                )
                + more,
                "Overwrite at least the L2 size before each iteration and record flush_mib.",
            )
        if self.closest and self.closest[0] < _OTHER_UNIT and self.closest[1].ms > _SHORT_MS:
            yield unverified(
                f"{self.closest[1]} comes nearest to what the card can do, with "
                f"{self.closest[0]:.2%} of it: these may be microseconds.",
                "Look at which unit the benchmark writes; ms is what the columns mean.",
            )

    def measured(self) -> dict[str, JsonValue]:
        """The number that decided."""
        if self.closest is None:
            return {}
        share, time, _ = self.closest
        return {
            "closest": {
                "cell": f"{cell_name(time.row)}, {time.side}",
                "of_limit": round(share, 3),
                "tb_per_s": float(f"{implied_tb_per_s(time.work, time.ms):.4g}"),
            }
        }

    def passed(self, cells: int, launch_bound: int) -> str:
        """The sentence of a PASS."""
        if self.closest is None:
            return ""
        share, time, card = self.closest
        bound = f"{counted(launch_bound, 'time')} launch-bound; " if launch_bound else ""
        return (
            f"{counted(cells, 'cell')} possible on the {self.peaks.whole}{card.name}: {bound}"
            f"closest to the limit at {share:.0%} is {cell_name(time.row)}, {time.side}."
        )


def _flushed(flush_mib: float | None, card: Card) -> bool:
    return (flush_mib or 0) * MIB >= card.l2_bytes


def _fastest(times: Sequence[Sequence[float | None]]) -> Iterable[float | None]:
    """The least time of each row, by its columns; None where one is missing or is no number."""
    if all(None not in column and math.isfinite(sum(column)) for column in times):  # type: ignore[arg-type]
        return map(min, *times)
    return [
        None if None in each or not math.isfinite(sum(each)) else min(each)
        for each in zip(*times, strict=True)
    ]

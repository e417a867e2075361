"""Times that no card can reach, and times that do not depend on the work.

Both sides of every row are judged: it was the reference whose numbers could not be true.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from operator import attrgetter, countOf

from pydantic import JsonValue

from orchestrator.evidence.cards import MIB, Card, find_card, is_slice
from orchestrator.evidence.roofline import (
    Bound,
    Work,
    dram_bound,
    dram_ms,
    implied_tb_per_s,
    misstated,
    warm_bound,
    work_of,
)
from orchestrator.gates.findings import Finding, conclude, counted, listed, unverified
from orchestrator.gates.flatness import flatness
from orchestrator.gates.timed import (
    EARLIEST_MS,
    REQUIRED,
    SIDES,
    Time,
    Timed,
    cell_name,
    on_a_card,
    times_of,
)
from orchestrator.models.verdict import GateResult, Reason, Verdict

TOLERANCE = 1.05
"""Faster than the limit by this factor is impossible; less is a clock's or a datasheet's error."""
_WINDOW = 0.9
"""Of the time that the iterations must have taken, between two readings of a wall clock."""
_BELOW_LAUNCH = 0.25
"""Of the launch floor: less is no launch, even if the card was asleep when that was measured."""
_OTHER_UNIT = 1 / 500
"""Of the card's speed: where nothing is faster, the unit is in doubt ..."""
_SHORT_MS = 1.0
"""... unless it is launches that were timed."""
_HEADROOM = 2.0
"""On L2 bandwidths that were measured, and may have been measured better."""

_SLOWER = (
    "Do not use these times. Check that this side reads every key, that the clock waits for the "
    "device, and that the output is used."
)


def physics_gate(
    file: str,
    rows: Sequence[Timed],
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
    there = tuple(
        column
        for column in SIDES
        if column in REQUIRED or countOf(map(attrgetter(column), ran), None) < len(ran)
    )
    judge = _Judge(file, there, device, l2_tb_per_s, launch_us)
    judge.take(ran)
    findings = judge.findings()
    return conclude(gate, findings, judge.measured(), judge.passed())


class _Judge:
    def __init__(
        self,
        file: str,
        columns: tuple[str, ...],
        device: str | None,
        l2_tb_per_s: float | None,
        launch_us: float | None,
    ) -> None:
        self._file = file
        self._columns = columns
        self._device = device
        self._l2 = l2_tb_per_s
        self._launch_us = launch_us
        self._cards: dict[str, Card | None] = {}
        self._rows = 0
        self._families: defaultdict[tuple[str | None, str], list[tuple[Work, Timed]]]
        self._families = defaultdict(list)
        self._impossible: list[tuple[float, Time, Bound, Card]] = []
        self._unreal: list[str] = []
        self._misstated: list[str] = []
        self._outside: list[str] = []
        self._below_launch: list[str] = []
        self._cached: list[Time] = []
        self._missing: Counter[str] = Counter()
        self._assumed: Counter[tuple[str, ...]] = Counter()
        self._unknown: Counter[str] = Counter()
        self._closest: tuple[float, Time, Card] | None = None
        self._launch_bound: list[str] = []

    def take(self, rows: Sequence[Timed]) -> None:
        """Judge each row by itself, and keep it for its family."""
        self._rows = len(rows)
        alike: dict[tuple[str | None, str | None, str | None], list[Timed]] = {}
        for row in rows:
            alike.setdefault((row.device, row.level, row.basis), []).append(row)
        for (device, level, basis), some in alike.items():
            card = self._card(device or self._device, len(some))
            columns, times = times_of(self._columns, level, basis)
            for row in some:
                self._take(row, card, columns, times(row))

    def _take(
        self,
        row: Timed,
        card: Card | None,
        columns: Sequence[str],
        times: Sequence[float | None],
    ) -> None:
        work = work_of(row)
        cold, small = 0.0, False
        if not isinstance(work, Work):
            self._missing.update(work)
        else:
            self._families[row.device, row.family].append((work, row))
            if work.assumed:
                self._assumed[work.assumed] += 1
            elif row.bytes != work.bytes or row.flops != work.flops:
                self._take_claim(row, work)
            if card is not None:
                cold, small = dram_ms(work, card), 2 * work.bytes <= card.l2_bytes
        if row.began_ms is not None and row.ended_ms is not None:
            self._take_window(row, row.began_ms, row.ended_ms)
        floor = _BELOW_LAUNCH * row.launch_us / 1e3 if row.launch_us else 0.0
        # most rows are done with at this point
        if not small and self._plain(times, cold, floor):
            return
        for column, ms in zip(columns, times, strict=True):
            if ms is None:
                if column in REQUIRED:
                    self._missing[column] += 1
                continue
            if not 0 < ms < math.inf:
                self._unreal.append(f"{row.where}: {column} is {ms:g}")
                continue
            if ms < floor:
                self._below_launch.append(
                    f"{row.where} ({cell_name(row)}): {SIDES[column]}'s {ms:g} ms is below its "
                    f"launch floor, {row.launch_us:g} us"
                )
            if cold and isinstance(work, Work) and card is not None:
                if small or cold > TOLERANCE * ms:
                    self._suspect(Time(row, column, ms, work), card)
                if self._closest is None or cold > self._closest[0] * ms:
                    self._closest = (cold / ms, Time(row, column, ms, work), card)

    def _take_claim(self, row: Timed, work: Work) -> None:
        # what others call bytes may be something else: a row of ours says ragged and form
        if row.ragged and row.form and (said := misstated(row, work)):
            self._misstated.append(f"{row.where} ({cell_name(row)}): {said}")

    def _take_window(self, row: Timed, began: float, ended: float) -> None:
        """Both sides' iterations ran one after the other, and others beside them."""
        both = (row.tri_ms or 0) + (row.ref_ms or 0)
        needs = (row.iters or 0) * both
        if not EARLIEST_MS <= began <= ended:
            self._outside.append(
                f"{row.where} ({cell_name(row)}): began_ms {began:.0f} and ended_ms {ended:.0f} "
                "are no time of a measurement"
            )
        elif ended - began < _WINDOW * needs:
            self._outside.append(
                f"{row.where} ({cell_name(row)}): {row.iters} iterations of {both:g} ms for both "
                f"sides take {needs:g} ms, the cell took {ended - began:.0f} (began_ms, ended_ms)"
            )

    def _plain(self, times: Sequence[float | None], cold: float, floor: float) -> bool:
        """Whether all are there, and none is remarkable."""
        try:
            fastest = min(times)  # type: ignore[type-var]
            whole = 0 < sum(times) < math.inf  # type: ignore[arg-type]  # not so where one is NaN
        except TypeError:
            return False
        closest = self._closest[0] if self._closest else 0.0
        if not whole or fastest is None or fastest < floor:
            return False
        return 0 < cold <= min(closest, TOLERANCE) * fastest

    def _card(self, name: str | None, rows: int) -> Card | None:
        """The card of so many rows."""
        if not name:
            self._missing["device"] += rows
            return None
        card = self._cards[name] = find_card(name)
        if card is None:
            self._unknown[name] += rows
        return card

    def _card_of(self, row: Timed) -> Card | None:
        return self._cards.get(row.device or self._device or "")

    def _suspect(self, time: Time, card: Card) -> None:
        """Impossible, or possible from a warm L2 only, or small enough to lie in it."""
        small = 2 * time.work.bytes <= card.l2_bytes
        cold = dram_bound(time.work, card)
        flushed = (time.row.flush_mib or 0) * MIB >= card.l2_bytes
        possible = cold if flushed else warm_bound(time.work, card, self._l2_limit(card))
        if possible.ms > TOLERANCE * time.ms:
            # a set far beyond the cache comes from DRAM: its own bound is the one to name
            shown = possible if small else cold
            self._impossible.append((shown.ms / time.ms, time, shown, card))
        elif not flushed:
            self._cached.append(time)

    def _l2_limit(self, card: Card) -> float | None:
        """The most that anyone can get out of L2: the vendor's figure, or measured ones with room.

        The canary times a plain reduction with its launch, others had a card of theirs.
        """
        known = [self._l2 * _HEADROOM] if self._l2 else []
        if card.l2 is not None:
            known.append(card.l2.tb_per_s * (_HEADROOM if card.l2.third_party else 1))
        return max(known, default=None)

    def findings(self) -> list[Finding]:
        """Everything that is wrong, the worst of each kind named."""
        found = []
        if self._unreal:
            found.append(
                Finding(
                    Verdict.INVALID,
                    Reason.MALFORMED,
                    f"{listed(self._unreal)}: not a time.",
                    "Look at how the benchmark writes the row.",
                )
            )
        if self._impossible:
            found.append(self._say_impossible())
        for wrong, remedy in (
            (self._misstated, "Look at how the benchmark counts the work: the limit rests on it."),
            (self._outside, "Set the machine's clock, and look at how the benchmark takes times."),
            (self._below_launch, _SLOWER),
        ):
            if wrong:
                found.append(
                    Finding(Verdict.INVALID, Reason.IMPOSSIBLE, f"{listed(wrong, 1)}.", remedy)
                )
        flat, self._launch_bound = flatness(
            self._families.values(), self._columns, self._card_of, self._launch_us
        )
        found += flat
        if self._missing:
            found.append(
                unverified(
                    f"{self._file} does not say {_columns(self._missing, self._rows)}, without "
                    "which a time cannot be held against the card.",
                    "Name the card with --device."
                    if set(self._missing) == {"device"}
                    else "Measure with a benchmark that records it.",
                )
            )
        assumed = Counter[str]()
        for names, count in self._assumed.items():
            assumed.update(dict.fromkeys(names, count))
        if assumed:
            found.append(
                unverified(
                    f"{self._file} does not say {_columns(assumed, self._rows)}: the least "
                    "work was assumed, so a time may be impossible and not be seen to be.",
                    "Measure with a benchmark that records it.",
                )
            )
        if self._unknown:
            # what a row says of itself goes before --device
            own = self._device in self._unknown
            found.append(
                unverified(
                    f"No peaks are known of {listed(map(repr, self._unknown))}.",
                    (
                        "Give the card's full name with --device, or add it to "
                        if own
                        else "Add it to "
                    )
                    + "orchestrator/evidence/cards.py with its datasheet.",
                )
            )
        if self._cached:
            found.append(self._say_cached())
        if self._closest and self._closest[0] < _OTHER_UNIT and self._closest[1].ms > _SHORT_MS:
            found.append(
                unverified(
                    f"{self._closest[1]} comes nearest to what the card can do, with "
                    f"{self._closest[0]:.2%} of it: these may be microseconds.",
                    "Look at which unit the benchmark writes; ms is what the columns mean.",
                )
            )
        return found

    def _say_impossible(self) -> Finding:
        _, time, bound, card = max(self._impossible, key=lambda item: item[0])
        more = len(self._impossible) - 1
        claimed = f"{implied_tb_per_s(time.work, time.ms):.3g} TB/s"
        if "FLOP" in bound.peak:
            claimed = f"{time.work.flops / time.ms / 1e9:.3g} TFLOP/s"
        return Finding(
            Verdict.INVALID,
            Reason.IMPOSSIBLE,
            f"{time} cannot be true: that is {claimed}, against a peak of {bound.peak} on the "
            f"{card.name}, which needs at least {bound.ms:.3g} ms"
            + (f" ({counted(more, 'more impossible time')})." if more else "."),
            _SLOWER,
        )

    def _say_cached(self) -> Finding:
        time = self._cached[0]
        return unverified(
            f"{time} may be the L2 cache's: {time.work.bytes / 1e6:.3g} MB can stay in it, and "
            + (
                "the row does not say that it was flushed (flush_mib)"
                if time.row.flush_mib is None
                else f"flush_mib is {time.row.flush_mib:g}, less than the cache"
            )
            + (f"; {counted(len(self._cached), 'such time')}." if len(self._cached) > 1 else "."),
            "Overwrite at least the L2 size before each iteration and record flush_mib.",
        )

    # --- what it rests on -----------------------------------------------------------------------

    def measured(self) -> dict[str, JsonValue]:
        """The numbers that decided."""
        cards = sorted({card.name for card in self._cards.values() if card})
        slices = [name for name in self._cards if is_slice(name)]
        measured: dict[str, JsonValue] = {
            "cells": self._rows,
            "cards": list[JsonValue](cards),
            "impossible": len(self._impossible),
            "launch_bound": list[JsonValue](self._launch_bound[:20]),
            "peaks": {
                card.name: f"{card.dram_tb_per_s:g} TB/s, L2 {card.l2_bytes >> 20} MiB "
                f"({card.source})"
                for card in self._cards.values()
                if card
            },
        }
        if slices:
            measured["slice"] = f"{listed(slices)}: held against the peaks of the whole card"
        if self._closest is not None:
            share, time, _ = self._closest
            measured["closest"] = {
                "cell": f"{cell_name(time.row)}, {time.side}",
                "of_limit": round(share, 3),
                "tb_per_s": float(f"{implied_tb_per_s(time.work, time.ms):.4g}"),
            }
        l2 = next((card.l2 for card in self._cards.values() if card and card.l2), None)
        if self._l2:
            measured["l2"] = f"{self._l2:g} TB/s, measured by the canary"
        elif l2 is not None:
            mark = " (third-party)" if l2.third_party else ""
            measured["l2"] = f"{l2.tb_per_s:g} TB/s, {l2.source}{mark}"
        return measured

    def passed(self) -> str:
        """The sentence of a PASS."""
        if self._closest is None:
            return ""
        share, time, card = self._closest
        bound = f"{counted(len(self._launch_bound), 'time')} launch-bound; "
        whole = "whole " if any(map(is_slice, self._cards)) else ""
        return (
            f"{counted(self._rows, 'cell')} possible on the {whole}{card.name}: "
            f"{bound if self._launch_bound else ''}closest to the limit at {share:.0%} is "
            f"{cell_name(time.row)}, {time.side}."
        )


def _columns(counts: Mapping[str, int], rows: int) -> str:
    return listed(
        (name if count >= rows else f"{name} (in {count} of {rows} rows)")
        for name, count in counts.items()
    )

"""Times that no card can reach, and times that do not depend on the work.

Both sides of every row are judged: it was the reference whose numbers could not be true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Protocol

from pydantic import JsonValue

from kernels.bench import contract
from orchestrator.evidence.cards import FASTEST, MIB, Card, find_card
from orchestrator.evidence.roofline import (
    Bound,
    Shaped,
    Work,
    dram_bound,
    dram_ms,
    implied_tb_per_s,
    warm_bound,
    work_of,
)
from orchestrator.gates.findings import Finding, conclude, counted, listed
from orchestrator.models.verdict import GateResult, Reason, Verdict

SIDES = {
    "tri_ms": "the kernel",
    "ref_ms": "the reference",
    "kernel_tri_ms": "the kernel (kernel level)",
    "kernel_shipped_ms": "the shipped reference (kernel level)",
    "kernel_strongest_ms": "the strongest reference (kernel level)",
    "operator_tri_ms": "the kernel (operator level)",
    "operator_shipped_ms": "the shipped reference (operator level)",
    "operator_strongest_ms": "the strongest reference (operator level)",
}
"""Columns that are times of the whole cell."""
REQUIRED = ("tri_ms", "ref_ms")

TOLERANCE = 1.05
"""Faster than the limit by this factor is impossible; less is a clock's or a datasheet's error."""
FLAT = 1.1
"""Growth of the time, at most, that counts as none."""
GROWN = 3.0
"""Growth of the bytes from which on the time has to show it."""
_SHARE = 0.5
"""Of the time, that the added bytes alone must need before a flat tail is held against it."""
NEAR_FLOOR = 3.0
UNMEASURED_FLOOR_MS = 0.010
"""Where nobody measured the launch floor: one eager PyTorch call with its dispatch."""
_HEADROOM = 2.0
"""On L2 bandwidths that were measured, and may have been measured better."""

_SLOWER = (
    "Do not use these times. Check that this side reads every key, that the clock waits for the "
    "device, and that the output is used."
)


class Timed(Shaped, Protocol):
    """A row of a bench CSV, this project's or a foreign one. It has the columns of `SIDES` too."""

    @property
    def where(self) -> str:
        """File and line."""

    @property
    def family(self) -> str:
        """Everything but L that tells cells apart."""

    @property
    def ok(self) -> bool:
        """Whether the cell ran."""

    @property
    def device(self) -> str | None:
        """As torch names it."""

    @property
    def level(self) -> str | None:
        """Of the document's columns."""

    @property
    def basis(self) -> str | None:
        """Of the document's columns."""

    @property
    def flush_mib(self) -> float | None:
        """Overwritten before each iteration."""

    @property
    def launch_us(self) -> float | None:
        """Launch floor of the device."""


_TimesOf = Callable[[Timed], tuple[float | None, ...]]


@dataclass(frozen=True)
class _Time:
    row: Timed
    column: str
    ms: float
    work: Work

    @property
    def side(self) -> str:
        return SIDES[self.column]

    def __str__(self) -> str:
        return f"{self.row.where} ({cell_name(self.row)}): {self.side}'s {self.ms:g} ms"


def physics_gate(
    file: str,
    rows: Sequence[Timed],
    *,
    device: str | None = None,
    l2_tb_per_s: float | None = None,
) -> GateResult:
    """Judge every time of `rows`.

    `device` names the card where a row does not; `l2_tb_per_s` is what the canary measured.
    """
    gate = f"physics {file}"
    ran = [row for row in rows if row.ok]
    if any(row.device == contract.CPU_INTERPRETER for row in ran):
        finding = _unverified(
            "The times are the CPU interpreter's: no card, so no limit to hold them against.",
            "Measure on a CUDA device.",
            Reason.NO_CUDA_DEVICE,
        )
        return conclude(gate, [finding], {"cells": len(ran)}, "")
    if not ran:
        finding = _unverified(f"{file} holds no cell that ran.", "Run the benchmark.")
        return conclude(gate, [finding], {"cells": 0}, "")
    # most foreign files have two of the columns
    there = tuple(
        column
        for column in SIDES
        if column in REQUIRED or any(getattr(row, column) is not None for row in ran)
    )
    judge = _Judge(file, there, device, l2_tb_per_s)
    for row in ran:
        judge.take(row)
    findings = judge.findings()
    return conclude(gate, findings, judge.measured(), judge.passed())


class Named(Protocol):
    """What a cell is called by."""

    @property
    def family(self) -> str:
        """Everything but L."""

    @property
    def L(self) -> int | None:  # noqa: N802
        """Selected length."""


def cell_name(row: Named) -> str:
    """Family and L, as messages name a cell."""
    return f"{row.family} L={row.L or '?'}"


class _Judge:
    def __init__(
        self, file: str, columns: tuple[str, ...], device: str | None, l2_tb_per_s: float | None
    ) -> None:
        self._file = file
        self._columns = columns
        self._device = device
        self._l2 = l2_tb_per_s
        self._cards: dict[str, Card | None] = {}
        self._rows = 0
        self._families: dict[str, list[tuple[Work, Timed]]] = {}
        self._impossible: list[tuple[float, _Time, Bound, Card]] = []
        self._unreal: list[str] = []
        self._cached: list[_Time] = []
        self._missing: Counter[str] = Counter()
        self._assumed: Counter[tuple[str, ...]] = Counter()
        self._unknown: Counter[str] = Counter()
        self._closest: tuple[float, _Time, Card] | None = None
        self._launch_bound: list[str] = []

    def take(self, row: Timed) -> None:
        """Judge one row by itself, and keep it for its family."""
        self._rows += 1
        card = self._card(row.device or self._device)
        work = work_of(row)
        if not isinstance(work, Work):
            self._missing.update(work)
            card = None
        else:
            self._families.setdefault(row.family, []).append((work, row))
            if work.assumed:
                self._assumed[work.assumed] += 1
        columns, times_of = _times(self._columns, row.level, row.basis)
        times = times_of(row)
        cold = dram_ms(work, card) if card is not None and isinstance(work, Work) else 0.0
        large = card is not None and isinstance(work, Work) and 2 * work.bytes > card.l2_bytes
        if large and self._plain(times, cold):
            return
        for column, ms in zip(columns, times, strict=True):
            if ms is None:
                if column in REQUIRED:
                    self._missing[column] += 1
            elif not 0 < ms < math.inf:
                self._unreal.append(f"{row.where}: {column} is {ms:g}")
            elif cold and isinstance(work, Work) and card is not None:
                if cold > TOLERANCE * ms or 2 * work.bytes <= card.l2_bytes:
                    self._suspect(_Time(row, column, ms, work), card)
                if self._closest is None or cold > self._closest[0] * ms:
                    self._closest = (cold / ms, _Time(row, column, ms, work), card)

    def _plain(self, times: Sequence[float | None], cold: float) -> bool:
        """Whether all are there, and none is remarkable: most rows are done with at this point."""
        try:
            fastest = min(times)  # type: ignore[type-var]
            whole = 0 < sum(times) < math.inf  # type: ignore[arg-type]  # not so where one is NaN
        except TypeError:
            return False
        closest = self._closest[0] if self._closest else 0.0
        return whole and fastest is not None and 0 < cold <= min(closest, TOLERANCE) * fastest

    def _card(self, name: str | None) -> Card | None:
        if not name:
            self._missing["device"] += 1
            return None
        if name not in self._cards:
            self._cards[name] = find_card(name)
        if self._cards[name] is None:
            self._unknown[name] += 1
        return self._cards[name]

    def _suspect(self, time: _Time, card: Card) -> None:
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
        found += self._flatness()
        if self._missing:
            found.append(
                _unverified(
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
                _unverified(
                    f"{self._file} does not say {_columns(assumed, self._rows)}: the least "
                    "work was assumed, so a time may be impossible and not be seen to be.",
                    "Measure with a benchmark that records it.",
                )
            )
        if self._unknown:
            found.append(
                _unverified(
                    f"No peaks are known of {listed(map(repr, self._unknown))}.",
                    "Give the card's full name with --device, or add it to "
                    "orchestrator/evidence/cards.py with its datasheet.",
                )
            )
        if self._cached:
            found.append(self._say_cached())
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
        return _unverified(
            f"{time} may be the L2 cache's: {time.work.bytes / 1e6:.3g} MB can stay in it, and "
            f"no row says that it was flushed (flush_mib)"
            + (f"; {counted(len(self._cached), 'such time')}." if len(self._cached) > 1 else "."),
            "Overwrite at least the L2 size before each iteration and record flush_mib.",
        )

    # --- flat in L ------------------------------------------------------------------------------

    def _flatness(self) -> list[Finding]:
        flat: dict[Verdict, list[str]] = {}
        for members in self._families.values():
            members.sort(key=lambda member: member[0].bytes)
            if members[-1][0].bytes < GROWN * members[0][0].bytes:
                continue
            columns, times_of = _times(self._columns, members[0][1].level, members[0][1].basis)
            last, last_row = members[-1]
            much_smaller = [row for work, row in members if GROWN * work.bytes <= last.bytes]
            slowest = zip(*map(times_of, much_smaller), strict=True)
            for column, last_ms, before in zip(columns, times_of(last_row), slowest, strict=True):
                known = [ms for ms in before if ms is not None]
                if known and last_ms is not None and last_ms > FLAT * max(known):
                    continue
                times = [
                    _Time(row, column, ms, work)
                    for work, row in members
                    if (ms := getattr(row, column)) is not None and ms > 0
                ]
                if len(times) > 1 and (found := self._flat(times)) is not None:
                    flat.setdefault(found[0], []).append(found[1])
        findings = []
        if Verdict.INVALID in flat:
            findings.append(
                Finding(
                    Verdict.INVALID,
                    Reason.FLAT_IN_L,
                    f"{listed(flat[Verdict.INVALID], 2)}: a time that does not depend on the "
                    "keys is not the time of reading them.",
                    "Change the last key and see whether this side's output changes; it may "
                    "attend to the first keys only.",
                )
            )
        if Verdict.NOT_VERIFIED in flat:
            findings.append(
                _unverified(
                    f"{listed(flat[Verdict.NOT_VERIFIED], 2)}: it may be the launch that was "
                    "timed, but the launch floor was not measured (launch_us).",
                    "Measure the launch floor of the device, or larger cells.",
                )
            )
        return findings

    def _flat(self, times: Sequence[_Time]) -> tuple[Verdict, str] | None:
        """Whether the largest cell takes no longer than a much smaller one."""
        first, last = times[0], times[-1]
        card = self._cards.get(last.row.device or self._device or "") or FASTEST
        for time in times[:-1]:
            if last.ms > FLAT * time.ms or last.work.bytes < GROWN * time.work.bytes:
                continue
            extra = (last.work.bytes - time.work.bytes) / (card.dram_tb_per_s * 1e9) / last.ms
            if time is not first and extra < _SHARE:
                continue
            said = (
                f"{last.row.where} ({last.row.family}): {last.side} takes {time.ms:g} ms at "
                f"L={time.row.L} and {last.ms:g} ms at L={last.row.L}, with "
                f"{last.work.bytes / time.work.bytes:.3g} times the bytes"
            )
            floor_us = last.row.launch_us
            if floor_us is not None and last.ms <= NEAR_FLOOR * floor_us / 1e3:
                self._launch_bound.append(f"{cell_name(last.row)}, {last.side}")
                return None
            unmeasured = floor_us is None and last.ms <= NEAR_FLOOR * UNMEASURED_FLOOR_MS
            # at the floor or not, the added bytes alone must not need longer than it all took
            return (Verdict.NOT_VERIFIED if unmeasured and extra < 1 else Verdict.INVALID, said)
        return None

    # --- what it rests on -----------------------------------------------------------------------

    def measured(self) -> dict[str, JsonValue]:
        """The numbers that decided."""
        cards = sorted({card.name for card in self._cards.values() if card})
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
        return (
            f"{counted(self._rows, 'cell')} possible on the {card.name}: "
            f"{bound if self._launch_bound else ''}closest to the limit at {share:.0%} is "
            f"{cell_name(time.row)}, {time.side}."
        )


@cache
def _times(
    columns: tuple[str, ...], level: str | None, basis: str | None
) -> tuple[tuple[str, ...], _TimesOf]:
    """Those of `columns` that do not say `tri_ms` and `ref_ms` again, and how to get them.

    There are at least two: the getter gives a tuple.
    """
    again = (f"{level}_tri_ms", f"{level}_{basis}_ms") if basis else ()
    distinct = tuple(name for name in columns if name not in again)
    return distinct, attrgetter(*distinct)


def _columns(counts: Mapping[str, int], rows: int) -> str:
    return listed(
        (name if count >= rows else f"{name} (in {count} of {rows} rows)")
        for name, count in counts.items()
    )


def _unverified(message: str, next_step: str, reason: Reason = Reason.NO_EVIDENCE) -> Finding:
    return Finding(Verdict.NOT_VERIFIED, reason, message, next_step)

"""Were both sides timed alike, often enough, and with a cold cache?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter

from kernels.bench.contract import (
    DEVICE_TIMERS,
    MIN_ITERS,
    NOISE,
    WEAK_FALLBACK,
    WIDEST_CONTROL,
)
from orchestrator.evidence.bench import SIDES, BenchRow
from orchestrator.evidence.cards import MIB, find_card, is_slice
from orchestrator.gates.consistency import BOUNDS
from orchestrator.gates.findings import AGAIN, Finding, invalid, lengths_of, listed, unverified
from orchestrator.models.verdict import Reason, Verdict

_SPREAD = 0.1
"""Coefficient of variation from which on no interval of medians has no width."""
_SHARED = 0.5
"""Of the shorter of two cells, that they may have been timed at once: wall clocks are set."""
_VARIED = {side: attrgetter(f"{side}_cv", f"{side}_p10", f"{side}_p90") for side in ("tri", "ref")}
_OTHER_CACHE = 2.0
"""By which l2_mib may differ from the card's: drivers count halves of a cache."""
SETTLED = "yes"
UNSETTLED = 0.05
"""How far off a number may be whose timing did not settle, whatever its interval says: repetitions
agree with each other before a clock or a cache has come to rest."""
_WHOLE_AND_PART = {side: attrgetter(f"operator_{side}_ms", f"kernel_{side}_ms") for side in SIDES}


def timing_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """How the times were taken. `rows` are those that ran on a device."""
    few = [row for row in rows if row.iters is not None and row.iters < MIN_ITERS]
    if few:
        yield unverified(
            f"Only {min(row.iters or 0 for row in few)} timed iterations at {lengths_of(few)}: an "
            f"interval needs at least {MIN_ITERS}.",
            f"Run with --iters {MIN_ITERS} or more.",
        )
    cold = [row for row in rows if row.warmup is not None and row.warmup < 1]
    if cold:
        yield unverified(
            f"There was no warm-up at {lengths_of(cold)}: compilation may be in the times.",
            "Run with --warmup 5 or more.",
        )
    still = next((row for row in rows if row.launch_us == 0), None)
    if still:
        yield invalid(f"{still.where}: launch_us is 0, and no launch takes no time.")
    walls = [row for row in rows if row.timer is not None and row.timer not in DEVICE_TIMERS]
    if walls:
        yield unverified(
            f"The cells at {lengths_of(walls)} were timed by {str(walls[0].timer)[:40]!r}, not on "
            "the device: launches and waiting are in the times.",
            "Time with device events, or a captured graph.",
        )
    yield from _at_once(rows)
    yield from _sides(rows)
    yield from _control(rows)
    yield from _widths(rows)
    yield from _unvaried(rows)
    yield from _cold(rows)
    weak = [(row, slower) for row in rows if (slower := _weakness(row)) > WEAK_FALLBACK]
    if weak:
        row, slower = max(weak, key=lambda pair: pair[1])
        yield Finding(
            Verdict.FAIL,
            Reason.WEAK_FALLBACK,
            f"The shipped reference ({row.operator_shipped or 'unnamed'}) takes {slower:.2f} times "
            f"as long as the strongest ({row.operator_strongest or 'unnamed'}) at L={row.L}, "
            f"and more than {WEAK_FALLBACK} times in {len(weak)} of {len(rows)} cells.",
            "Fix the fallback first: ship the strongest reference, then measure again.",
        )


def noise_bound(rows: Sequence[BenchRow]) -> list[str]:
    """Cells whose timing did not settle, each with its reason."""
    return [
        f"{row.family}, L={row.L}: {row.settled[:120]}"
        for row in rows
        if row.settled is not None and row.settled != SETTLED
    ]


def believed(row: BenchRow, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval of the row's; no narrower than timing that did not settle allows."""
    if bounds is None or row.settled == SETTLED:
        return bounds
    low, high = bounds
    middle = (low + high) / 2
    return min(low, middle * (1 - UNSETTLED)), max(high, middle * (1 + UNSETTLED))


def _at_once(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Cells of one file are timed one after the other."""
    timed = [(r.began_ms, r.ended_ms, r) for r in rows if r.began_ms and r.ended_ms]
    timed.sort(key=itemgetter(0, 1))
    for (began, ended, first), (then, end, second) in itertools.pairwise(timed):
        shorter = min(ended - began, end - then)
        if min(ended, end) - then > _SHARED * shorter > 0:
            yield invalid(
                f"{first.where} and line {second.line} were timed at once, from {began} to {ended} "
                f"and from {then} to {end} (began_ms, ended_ms): one card ran both, or one is a "
                "copy of the other.",
                "Run one benchmark at a time, and keep its rows as they are.",
                Reason.MACHINE_DISTURBED,
            )
            return


def _sides(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    one_sided = [
        row
        for row in rows
        if row.tri_streams is not None
        and row.ref_streams is not None
        and {row.tri_streams, row.ref_streams} != {row.streams}
    ]
    if one_sided:
        row = one_sided[0]
        yield invalid(
            f"{row.where}: Triton used {row.tri_streams} streams and the reference "
            f"{row.ref_streams}, where the cell has {row.streams}.",
            "Give both sides the same streams.",
            Reason.ONE_SIDED,
        )
    for side, times in _WHOLE_AND_PART.items():
        cheap = [
            row
            for row in rows
            if None not in (both := times(row))
            and both[0] < both[1]
            and both[0] < both[1] * (1 - 3 * max(row.ref_cv or 0, row.tri_cv or 0, NOISE))
            # Triton's operator path may well read the keys in place
            and not (side == "tri" and "ranges" in (row.operator_launched or row.kernel or ""))
        ]
        if cheap:
            row = cheap[0]
            who = "Triton" if side == "tri" else f"The {side} reference"
            whole, part = times(row)
            yield unverified(
                f"{who} is faster at operator level than at kernel level in {len(cheap)} of "
                f"{len(rows)} cells ({whole:g} ms against {part:g} ms at L={row.L}): its packing "
                "is not counted.",
                "Check that operator level times all of it, from Q, K, V and ranges on.",
                Reason.ONE_SIDED,
            )


def _control(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    without = [row for row in rows if row.aa_lo is None or row.aa_hi is None]
    if without:
        yield unverified(
            f"There is no A/A control (aa_lo, aa_hi) at {lengths_of(without)}: that equal work is "
            "timed as equal is not shown.",
            "Measure with this project's benchmark, which times the reference against itself.",
        )
    known = [(row, row.aa_lo, row.aa_hi) for row in rows if None not in (row.aa_lo, row.aa_hi)]
    for row, low, high in known:
        if low is not None and high is not None and not 0 < low <= high:
            yield invalid(f"{row.where}: the A/A control [{low:g}, {high:g}] is no interval.")
            return
    if len(known) > 1 and all(low == high for _, low, high in known):
        yield unverified(
            f"The A/A control has no width in all {len(known)} rows: two timings of one reference "
            "never agree in every digit, so it was not measured.",
            "Measure with this project's benchmark, which times the reference against itself.",
        )
    off = [(r, a, b) for r, a, b in known if a and b and not a - NOISE <= 1 <= b + NOISE]
    if off:
        named = listed(f"[{low:.3f}, {high:.3f}] at L={row.L}" for row, low, high in off)
        yield invalid(
            f"The reference timed against itself does not come out equal: {named}.",
            "The order of the sides or the clock favours one of them: look for a drift, or load.",
            Reason.MACHINE_DISTURBED,
        )
    wide = [(r, a, b) for r, a, b in known if a and b and b - a > WIDEST_CONTROL]
    if wide:
        named = listed(f"[{low:.3g}, {high:.3g}] at L={row.L}" for row, low, high in wide)
        yield unverified(
            f"The A/A control is too wide to tell equal times from a speedup: {named}.",
            "Measure on a quiet machine, with more iterations.",
            Reason.MACHINE_DISTURBED,
        )


def _widths(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Intervals without a width, of times that vary."""
    spread = [row for row in rows if max(row.tri_cv or 0, row.ref_cv or 0) > _SPREAD]
    for name, bounds in BOUNDS.items():
        sure = [row for row in spread if (both := bounds(row)[:2])[0] and both[0] == both[1]]
        if sure:
            row = sure[0]
            yield unverified(
                f"The interval of the {name} has no width at {lengths_of(sure)}, although the "
                f"times vary by {max(row.tri_cv or 0, row.ref_cv or 0):.0%} (tri_cv, ref_cv).",
                "Look at how the benchmark computes the interval.",
            )
            return


def _unvaried(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Times that are the same in every iteration of every cell."""
    for side, values in _VARIED.items():
        known = [spread for row in rows if None not in (spread := values(row))]
        if len(known) > 1 and all(cv == 0 and low == high for cv, low, high in known):
            yield unverified(
                f"No time of side {side} varies in any of {len(known)} rows ({side}_cv is 0, "
                f"{side}_p10 is {side}_p90): timings of a device do.",
                "Look at how the benchmark takes its times: one time may have been repeated.",
            )
            return


def _cold(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    unknown = [row for row in rows if row.flush_mib is None or not row.l2_mib]
    if unknown:
        yield unverified(
            f"Whether the L2 cache was cold (flush_mib, l2_mib) is not said at "
            f"{lengths_of(unknown)}.",
            AGAIN,
        )
    for row in rows:
        card = None if is_slice(row.device or "") else find_card(row.device or "")
        if card is None or not row.l2_mib:
            continue
        own = card.l2_bytes / MIB
        if not own / _OTHER_CACHE < row.l2_mib < own * _OTHER_CACHE:
            yield unverified(
                f"{row.where}: l2_mib is {row.l2_mib:g}, the L2 of the {card.name} has {own:g} "
                "MiB: how much had to be overwritten is in doubt.",
                "Look at how the benchmark reads the size of the cache.",
            )
            break
    warm = [
        row
        for row in rows
        if row.flush_mib is not None
        and row.l2_mib
        and row.flush_mib < 2 * row.l2_mib
        and row.bytes is not None
        and 2 * row.bytes <= row.l2_mib * 2**20
    ]
    if warm:
        row = warm[0]
        yield unverified(
            f"{row.flush_mib:g} MiB were overwritten between iterations, less than twice the L2 of "
            f"{row.l2_mib:g} MiB, and the cells at {lengths_of(warm)} fit twice in it: their times "
            "may be the cache's.",
            "Flush at least twice the size of the L2, or measure larger cells.",
        )


def _weakness(row: BenchRow) -> float:
    shipped, strongest = row.operator_shipped_ms, row.operator_strongest_ms
    return shipped / strongest if shipped and strongest else 0.0

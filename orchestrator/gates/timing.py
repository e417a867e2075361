"""Were both sides timed alike, often enough, and with a cold cache?"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from operator import itemgetter

from kernels.bench.contract import (
    DEVICE_TIMERS,
    MIN_ITERS,
    NOISE,
    WEAK_FALLBACK,
    WIDEST_CONTROL,
)
from orchestrator.evidence.bench import SIDES, BenchRow
from orchestrator.evidence.cards import MIB, find_card, is_slice
from orchestrator.evidence.rows import Rows
from orchestrator.gates.consistency import BOUNDS
from orchestrator.gates.findings import (
    AGAIN,
    Finding,
    counted,
    invalid,
    lengths_of,
    listed,
    unverified,
)
from orchestrator.models.verdict import Reason, Verdict

IN_PLACE = "flex_attention"
"""The reference that gathers nothing at operator level."""
AHEAD = 0.8
"""Of the strongest at kernel level: on an H200 it took 1.1 times as long, or more."""
_CONTROL = ("aa_lo", "aa_hi")
_SPREAD = ("iters", "tri_ms", "tri_p10", "tri_p90", "ref_ms", "ref_p10", "ref_p90")
_NARROWEST = 0.05
"""Of the width that the spread implies. Sides that vary together have a steadier ratio; on an H200
it was never below 0.59."""
_STILL = 1e-4
"""A width, relative, that six digits do not show."""
_SHARED = 0.5
"""Of the shorter of two cells, that they may have been timed at once: wall clocks are set."""
_OTHER_CACHE = 2.0
"""By which l2_mib may differ from the card's: drivers count halves of a cache."""
SETTLED = "yes"
UNSETTLED = 0.05
"""How far off a number may be whose timing did not settle, whatever its interval says: repetitions
agree with each other before a clock or a cache has come to rest."""


def timing_findings(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """How the times were taken. `rows` are those that ran on a device."""
    few = rows.where(lambda iters: iters is not None and iters < MIN_ITERS, "iters")
    if few:
        yield unverified(
            f"Only {min(row.iters or 0 for row in few)} timed iterations at {lengths_of(few)}: an "
            f"interval needs at least {MIN_ITERS}.",
            f"Run with --iters {MIN_ITERS} or more.",
        )
    cold = rows.where(lambda warmup: warmup is not None and warmup < 1, "warmup")
    if cold:
        yield unverified(
            f"There was no warm-up at {lengths_of(cold)}: compilation may be in the times.",
            "Run with --warmup 5 or more.",
        )
    still = rows.where(lambda launch_us: launch_us == 0, "launch_us")
    if still:
        yield invalid(f"{still[0].where}: launch_us is 0, and no launch takes no time.")
    walls = rows.where(lambda timer: timer not in (None, *DEVICE_TIMERS), "timer")
    if walls:
        yield unverified(
            f"The cells at {lengths_of(walls)} were timed by {str(walls[0].timer)[:40]!r}, not on "
            "the device: launches and waiting are in the times.",
            "Time with device events, or a captured graph.",
        )
    for first, second in timed_at_once(rows):
        yield invalid(
            f"{first.where} and line {second.line} were timed at once, {_window(first)} and "
            f"{_window(second)} (began_ms, ended_ms): one card ran both, or one is a copy of the "
            "other.",
            "Run one benchmark at a time, and keep its rows as they are.",
            Reason.MACHINE_DISTURBED,
        )
    yield from _sides(rows)
    yield from _control(rows)
    yield from _widths(rows)
    yield from _unvaried(rows)
    yield from _cold(rows)
    yield from _weak(rows)


def _weak(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Shipped references that are much slower than the strongest, at operator level."""
    weak = [
        (shipped / strongest, number)
        for number, (shipped, strongest) in enumerate(
            rows.columns("operator_shipped_ms", "operator_strongest_ms")
        )
        if shipped and strongest and shipped / strongest > WEAK_FALLBACK
    ]
    if weak:
        slower, number = max(weak, key=itemgetter(0))
        row = rows[number]
        yield Finding(
            Verdict.FAIL,
            Reason.WEAK_FALLBACK,
            f"The shipped reference ({row.operator_shipped or 'unnamed'}) takes {slower:.2f} times "
            f"as long as the strongest ({row.operator_strongest or 'unnamed'}) at L={row.L}, "
            f"and more than {WEAK_FALLBACK} times in {len(weak)} of {len(rows)} cells.",
            "Fix the fallback first: ship the strongest reference, then measure again.",
        )


def noise_bound(rows: Rows[BenchRow]) -> list[str]:
    """Cells whose timing did not settle, each with its reason."""
    unsettled = rows.where(lambda settled: settled not in (None, SETTLED), "settled")
    return [f"{row.family}, L={row.L}: {(row.settled or '')[:120]}" for row in unsettled]


def believed(row: BenchRow, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval of the row's; no narrower than timing that did not settle allows."""
    if bounds is None or row.settled == SETTLED:
        return bounds
    low, high = bounds
    middle = (low + high) / 2
    return min(low, middle * (1 - UNSETTLED)), max(high, middle * (1 + UNSETTLED))


def timed_at_once(rows: Rows[BenchRow]) -> Iterator[tuple[BenchRow, BenchRow]]:
    """The first two cells whose times overlap, if any do: a card times one after the other."""
    every = list(itertools.chain.from_iterable(rows.columns("began_ms", "ended_ms")))
    if None not in every and all(map(operator.le, every, every[1:])):
        return  # as a benchmark writes them
    windows = rows.columns("began_ms", "ended_ms")
    timed = [(began, ended, number) for number, (began, ended) in enumerate(windows)
             if began and ended]  # fmt: skip
    timed.sort()
    for (began, ended, first), (then, end, second) in itertools.pairwise(timed):
        if then < ended and min(ended, end) - then > _SHARED * min(ended - began, end - then) > 0:
            yield rows[first], rows[second]
            return


def _window(row: BenchRow) -> str:
    return f"from {row.began_ms} to {row.ended_ms}"


def _sides(rows: Rows[BenchRow]) -> Iterator[Finding]:
    one_sided = rows.where(
        lambda tri, ref, both: None not in (tri, ref) and {tri, ref} != {both},
        "tri_streams", "ref_streams", "streams",
    )  # fmt: skip
    if one_sided:
        row = one_sided[0]
        yield invalid(
            f"{row.where}: Triton used {row.tri_streams} streams and the reference "
            f"{row.ref_streams}, where the cell has {row.streams}.",
            "Give both sides the same streams.",
            Reason.ONE_SIDED,
        )
    for side in SIDES:
        both = rows.telling(f"operator_{side}_ms", f"kernel_{side}_ms")
        less = both.where(operator.lt, f"operator_{side}_ms", f"kernel_{side}_ms")
        columns = less.columns(f"operator_{side}_ms", f"kernel_{side}_ms", "tri_cv", "ref_cv")
        cheap = [
            (less[number], whole, part)
            for number, (whole, part, ours, theirs) in enumerate(columns)
            if whole < part * (1 - 3 * max(ours or 0, theirs or 0, NOISE))
        ]
        cheap = [found for found in cheap if not _in_place(side, found[0])]
        yield from _too_good(both, side)
        if cheap:
            row, whole, part = cheap[0]
            who = "Triton" if side == "tri" else f"The {side} reference"
            yield unverified(
                f"{who} is faster at operator level than at kernel level in {len(cheap)} of "
                f"{len(rows)} cells ({whole:g} ms against {part:g} ms at L={row.L}): its packing "
                "is not counted.",
                "Check that operator level times all of it, from Q, K, V and ranges on.",
                Reason.ONE_SIDED,
            )


def _too_good(rows: Rows[BenchRow], side: str) -> Iterator[Finding]:
    """A reference that reads in place, and is far ahead of the strongest with packed keys.

    Both read the same keys, so one of the two is not what it says.
    """
    if side == "tri":
        return
    ahead = rows.where(
        lambda whole, packed, name: name == IN_PLACE and packed and whole < AHEAD * packed,
        f"operator_{side}_ms", "kernel_strongest_ms", f"operator_{side}",
    )  # fmt: skip
    if ahead:
        row = ahead[0]
        yield unverified(
            f"The {side} reference at operator level, {IN_PLACE}, takes less than {AHEAD:g} of "
            f"what the strongest at kernel level takes for the same keys in {len(ahead)} of "
            f"{len(rows)} cells ({getattr(row, f'operator_{side}_ms'):g} ms against "
            f"{row.kernel_strongest_ms:g} ms at L={row.L}): one of them is not what it says.",
            "See that the operator's reference reads all selected keys, and which references were "
            "tried at kernel level.",
            Reason.ONE_SIDED,
        )


def _in_place(side: str, row: BenchRow) -> bool:
    """Whether what a side runs at operator level packs nothing, so that it may well be faster."""
    if side == "tri":
        return "ranges" in (row.operator_launched or row.kernel or "")
    name = row.operator_shipped if side == "shipped" else row.operator_strongest
    return name == IN_PLACE


def _control(rows: Rows[BenchRow]) -> Iterator[Finding]:
    known = rows.telling(*_CONTROL)
    if len(known) < len(rows):
        without = rows.where(lambda low, high: None in (low, high), *_CONTROL)
        yield unverified(
            f"There is no A/A control (aa_lo, aa_hi) at {lengths_of(without)}: that equal work is "
            "timed as equal is not shown.",
            "Measure with this project's benchmark, which times the reference against itself.",
        )
    none = known.where(lambda low, high: not 0 < low <= high, *_CONTROL)
    if none:
        yield invalid(
            f"{none[0].where}: the A/A control [{none[0].aa_lo:g}, {none[0].aa_hi:g}] is no "
            "interval."
        )
        return
    if len(known) > 1 and not known.where(operator.ne, *_CONTROL):
        yield unverified(
            f"The A/A control has no width in all {len(known)} rows: two timings of one reference "
            "never agree in every digit, so it was not measured.",
            "Measure with this project's benchmark, which times the reference against itself.",
        )
    off = known.where(lambda low, high: not low - NOISE <= 1 <= high + NOISE, *_CONTROL)
    if off:
        named = listed(f"[{row.aa_lo:.3f}, {row.aa_hi:.3f}] at L={row.L}" for row in off)
        yield invalid(
            f"The reference timed against itself does not come out equal: {named}.",
            "The order of the sides or the clock favours one of them: look for a drift, or load.",
            Reason.MACHINE_DISTURBED,
        )
    wide = known.where(lambda low, high: high - low > WIDEST_CONTROL, *_CONTROL)
    if wide:
        named = listed(f"[{row.aa_lo:.3g}, {row.aa_hi:.3g}] at L={row.L}" for row in wide)
        yield unverified(
            f"The A/A control is too wide to tell equal times from a speedup: {named}.",
            "Measure on a quiet machine, with more iterations.",
            Reason.MACHINE_DISTURBED,
        )


def _widths(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Intervals that are far narrower than the spread of the times allows."""
    spread = rows.telling(*_SPREAD)
    for name, (lower, upper, *_) in BOUNDS.items():
        told = spread.telling(lower, upper)
        # the spread is that of the row's own comparison; the others vary, that much is known
        maybe = told if name == "speedup" else told.where(operator.ge, lower, upper)
        least = _NARROWEST if name == "speedup" else 0.0
        narrow = maybe.select(
            [
                width > _STILL and low and high and high - low <= least * width * (high + low)
                for width, (low, high) in zip(
                    map(_half_width, *map(maybe.column, _SPREAD)),
                    maybe.columns(lower, upper),
                    strict=True,
                )
            ]
        )
        if narrow:
            row, (low, high) = narrow[0], next(narrow.columns(lower, upper))
            allowed = next(map(_half_width, *map(narrow.column, _SPREAD)))
            yield unverified(
                f"{row.where} (L={row.L}): the interval of the {name}, {low:g} to {high:g}, is far "
                f"narrower than {row.iters} times that vary as tri_p10 to ref_p90 say allow: some "
                f"{allowed:.1%} to either side; {counted(len(narrow), 'such row')}.",
                "Look at how the benchmark computes the interval: it must come from the times of "
                "the very iterations.",
            )
            return


def _half_width(
    iters: int,
    tri_ms: float,
    tri_p10: float,
    tri_p90: float,
    ref_ms: float,
    ref_p10: float,
    ref_p90: float,
) -> float:
    """Of the 95 % interval of a ratio of medians, relative; 0 where there were no times.

    As of normal times, whose 10th and 90th percentile lie 2.56 deviations apart, and the deviation
    of whose median is 1.25 times that of their mean.
    """
    if not (iters and tri_ms and ref_ms):
        return 0.0
    spread = math.hypot((tri_p90 - tri_p10) / tri_ms, (ref_p90 - ref_p10) / ref_ms) / 2.56
    return 1.96 * 1.25 * spread / math.sqrt(iters)


def _unvaried(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Times that are the same in every iteration of every cell."""
    for side in ("tri", "ref"):
        known = 0
        for cv, low, high in rows.columns(f"{side}_cv", f"{side}_p10", f"{side}_p90"):
            if None in (cv, low, high):
                continue
            if cv != 0 or low != high:
                break
            known += 1
        else:
            if known > 1:
                yield unverified(
                    f"No time of side {side} varies in any of {known} rows ({side}_cv is 0, "
                    f"{side}_p10 is {side}_p90): timings of a device do.",
                    "Look at how the benchmark takes its times: one time may have been repeated.",
                )
                return


def _cold(rows: Rows[BenchRow]) -> Iterator[Finding]:
    unknown = rows.where(lambda flush, l2: flush is None or not l2, "flush_mib", "l2_mib")
    if unknown:
        yield unverified(
            f"Whether the L2 cache was cold (flush_mib, l2_mib) is not said at "
            f"{lengths_of(unknown)}.",
            AGAIN,
        )
    for row in rows.where(_of_another_cache, "device", "l2_mib")[:1]:
        card = find_card(row.device or "")
        assert card is not None  # noqa: S101 - whose cache it is not
        yield unverified(
            f"{row.where}: l2_mib is {row.l2_mib:g}, the L2 of the {card.name} has "
            f"{card.l2_bytes / MIB:g} MiB: how much had to be overwritten is in doubt.",
            "Look at how the benchmark reads the size of the cache.",
        )
    hardly = rows.where(_hardly_flushed, "flush_mib", "l2_mib")
    warm = [
        row for row in hardly if row.bytes is not None and 2 * row.bytes <= (row.l2_mib or 0) * MIB
    ]
    if warm:
        row = warm[0]
        yield unverified(
            f"{row.flush_mib:g} MiB were overwritten between iterations, less than twice the L2 of "
            f"{row.l2_mib:g} MiB, and the cells at {lengths_of(warm)} fit twice in it: their times "
            "may be the cache's.",
            "Flush at least twice the size of the L2, or measure larger cells.",
        )


def _of_another_cache(device: str | None, l2_mib: float | None) -> bool:
    card = None if is_slice(device or "") else find_card(device or "")
    if card is None or not l2_mib:
        return False
    own = card.l2_bytes / MIB
    return not own / _OTHER_CACHE < l2_mib < own * _OTHER_CACHE


def _hardly_flushed(flush_mib: float | None, l2_mib: float | None) -> bool:
    return flush_mib is not None and bool(l2_mib) and flush_mib < 2 * (l2_mib or 0)

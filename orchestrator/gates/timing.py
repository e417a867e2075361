"""Were both sides timed alike, often enough, and with a cold cache?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, itemgetter

from kernels.bench.contract import (
    DEVICE_TIMERS,
    DIGITS,
    MIN_ITERS,
    NOISE,
    RATIO_SLACK,
    WEAK_FALLBACK,
    WIDEST_CONTROL,
)
from orchestrator.evidence.bench import BASES, LEVELS, SIDES, BenchRow
from orchestrator.gates.findings import AGAIN, Finding, invalid, lengths_of, listed
from orchestrator.models.verdict import Reason, Verdict

_SPREAD = 0.1
"""Coefficient of variation from which on no interval of medians has no width."""
_SHARED = 0.5
"""Of the shorter of two cells, that they may have been timed at once: wall clocks are set."""
_PRINTED_MS = 0.0005
"""The source project prints three decimals; our own files carry six significant digits."""
SETTLED = "yes"
_times = attrgetter(
    "tri_ms", "ref_ms", *(f"{level}_{side}_ms" for level in LEVELS for side in SIDES)
)
_WHOLE_AND_PART = {side: attrgetter(f"operator_{side}_ms", f"kernel_{side}_ms") for side in SIDES}
_BOUNDS = {
    "speedup": attrgetter("speedup_lo", "speedup_hi", "tri_ms", "ref_ms"),
} | {
    f"speedup at {level} level over the {basis} reference": attrgetter(
        f"{level}_{basis}_lo", f"{level}_{basis}_hi", f"{level}_tri_ms", f"{level}_{basis}_ms"
    )
    for level in LEVELS
    for basis in BASES
}
_OWN = ("tri_ms", "ref_ms", "speedup_lo", "speedup_hi")
_own = attrgetter(*_OWN)
_NAMED: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    (level, basis): (
        f"{level}_tri_ms", f"{level}_{basis}_ms", f"{level}_{basis}_lo", f"{level}_{basis}_hi",
    )
    for level in LEVELS
    for basis in BASES
}  # fmt: skip
"""What `_OWN` repeats, by level and basis."""
_named = {key: attrgetter(*columns) for key, columns in _NAMED.items()}
_REFERENCES = {
    level: attrgetter(f"{level}_shipped_ms", f"{level}_strongest_ms") for level in LEVELS
}
_SIDES: dict[tuple[str | None, str | None], Callable[[BenchRow], tuple[str, ...]]] = {
    (level, basis): attrgetter("reference", f"{level}_{basis}", "kernel", f"{level}_launched")
    for level in LEVELS
    for basis in BASES
}
_VARIED = {side: attrgetter(f"{side}_cv", f"{side}_p10", f"{side}_p90") for side in ("tri", "ref")}
_MIDDLES = {side: attrgetter(f"{side}_p10", f"{side}_ms", f"{side}_p90") for side in ("tri", "ref")}


def ratio_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Whether times, speedups and intervals agree. Holds for the interpreter's too."""
    zero = _first(rows, _timeless)
    if zero:
        yield invalid(f"{zero.where}: a time that is not above zero.")
        return
    if odd := _first(rows, _inconsistent):
        swapped = odd.speedup and abs(odd.speedup * (odd.ref_ms or 0) / (odd.tri_ms or 1) - 1)
        tail = (
            "; it is tri_ms / ref_ms: the sides are swapped"
            if swapped is not None and swapped < RATIO_SLACK
            else ""
        )
        yield invalid(
            f"{odd.where}: speedup {odd.speedup:g} is not ref_ms / tri_ms = {odd.ref_ms:g} / "
            f"{odd.tri_ms:g}{tail}."
        )
    for found in (
        _untied(rows),
        _otherwise_named(rows),
        _outside(rows),
        _off_middle(rows),
        _too_varied(rows),
        _not_strongest(rows),
    ):
        if found:
            yield invalid(found)


def timing_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """How the times were taken. `rows` are those that ran on a device."""
    few = [row for row in rows if row.iters is not None and row.iters < MIN_ITERS]
    if few:
        yield _unverified(
            f"Only {min(row.iters or 0 for row in few)} timed iterations at {lengths_of(few)}: an "
            f"interval needs at least {MIN_ITERS}.",
            f"Run with --iters {MIN_ITERS} or more.",
        )
    cold = [row for row in rows if row.warmup is not None and row.warmup < 1]
    if cold:
        yield _unverified(
            f"There was no warm-up at {lengths_of(cold)}: compilation may be in the times.",
            "Run with --warmup 5 or more.",
        )
    still = _first(rows, lambda row: row.launch_us == 0)
    if still:
        yield invalid(f"{still.where}: launch_us is 0, and no launch takes no time.")
    walls = [row for row in rows if row.timer is not None and row.timer not in DEVICE_TIMERS]
    if walls:
        yield _unverified(
            f"The cells at {lengths_of(walls)} were timed by {str(walls[0].timer)[:40]!r}, not on "
            "the device: launches and waiting are in the times.",
            "Time with device events, or a captured graph.",
        )
    yield from _at_once(rows)
    yield from _sides(rows)
    yield from _control(rows)
    yield from _widths(rows)
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


def _timeless(row: BenchRow) -> bool:
    return min([ms for ms in _times(row) if ms is not None], default=1.0) <= 0


def _inconsistent(row: BenchRow) -> bool:
    if not (row.tri_ms and row.ref_ms):
        return False
    slack = RATIO_SLACK
    if row.contract is None:
        slack += _PRINTED_MS / row.tri_ms + _PRINTED_MS / row.ref_ms
    ratio = row.ref_ms / row.tri_ms
    return abs((row.speedup or 0) - ratio) > slack * ratio


def _outside(rows: Sequence[BenchRow]) -> str | None:
    """A speedup that lies outside its own interval: of the rows' own, and of all four."""
    for name, bounds in _BOUNDS.items():
        for row in rows:
            low, high, ours, theirs = bounds(row)
            if low is None or high is None or ours is None or theirs is None:
                continue
            value = theirs / ours
            slack = RATIO_SLACK * value
            if low <= 0:
                return f"{row.where}: the lower bound of the {name}, {low:g}, is not above zero."
            if not low - slack <= value <= high + slack or low > high:
                return (
                    f"{row.where}: {name} {value:g} lies outside its own interval "
                    f"[{low:g}, {high:g}]."
                )
    return None


def _untied(rows: Sequence[BenchRow]) -> str | None:
    """A row whose own times are not those that its level and basis name: one of them is a lie."""
    for row in rows:
        named = _named.get((row.level, row.basis))
        if named is None or (ours := _own(row)) == (others := named(row)):
            continue
        for number, (own, other) in enumerate(zip(ours, others, strict=True)):
            if own is None or other is None:
                continue
            if abs(own - other) > DIGITS * max(abs(own), abs(other)):
                column = _NAMED[row.level, row.basis][number]
                return (
                    f"{row.where}: {_OWN[number]} is {own:g} and {column} {other:g}; with "
                    f"level={row.level} and basis={row.basis} they are the same number."
                )
    return None


def _otherwise_named(rows: Sequence[BenchRow]) -> str | None:
    """A row that calls its own two sides otherwise than its level and basis do."""
    for row in rows:
        sides = _SIDES.get((row.level, row.basis))
        if sides is None:
            continue
        reference, named, kernel, launched = sides(row)
        if reference == named and kernel == launched:
            continue
        for own, name, column, other in (
            ("reference", reference, f"{row.level}_{row.basis}", named),
            ("kernel", kernel, f"{row.level}_launched", launched),
        ):
            if name != other and None not in (name, other):
                return (
                    f"{row.where}: {own} is {name[:40]} and {column} {other[:40]}: the same side."
                )
    return None


def _too_varied(rows: Sequence[BenchRow]) -> str | None:
    """Times that vary more than so many of one mean can, or not at all between quantiles."""
    for side, values in _VARIED.items():
        for row in rows:
            varied, low, high = values(row)
            if varied is None:
                continue
            if row.iters and varied > math.sqrt(row.iters) * (1 + DIGITS):
                return (
                    f"{row.where}: {side}_cv is {varied:g}; {row.iters} times of one mean cannot "
                    f"vary by more than {math.sqrt(row.iters):.3g}."
                )
            if varied == 0 and None not in (low, high) and high > low * (1 + DIGITS):
                return (
                    f"{row.where}: {side}_cv is 0, yet {side}_p10 and {side}_p90 are {low:g} and "
                    f"{high:g}."
                )
    return None


def _off_middle(rows: Sequence[BenchRow]) -> str | None:
    """A median that does not lie between the quantiles of its own times."""
    for side, quantiles in _MIDDLES.items():
        for row in rows:
            low, middle, high = quantiles(row)
            if None not in (low, middle, high) and not (
                0 < low * (1 - DIGITS) <= middle <= high * (1 + DIGITS)
            ):
                return (
                    f"{row.where}: {side}_ms, the median {middle:g}, does not lie between "
                    f"{side}_p10 and {side}_p90, {low:g} and {high:g}."
                )
    return None


def _not_strongest(rows: Sequence[BenchRow]) -> str | None:
    """A strongest reference that is slower than the shipped one, which is among the candidates."""
    for level, both in _REFERENCES.items():
        for row in rows:
            shipped, strongest = both(row)
            if shipped and strongest and strongest > shipped * (1 + DIGITS):
                return (
                    f"{row.where}: {level}_strongest_ms {strongest:g} is above "
                    f"{level}_shipped_ms {shipped:g}: the strongest reference is the fastest, and "
                    "the shipped one may be it."
                )
    return None


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
            yield _unverified(
                f"{who} is faster at operator level than at kernel level in {len(cheap)} of "
                f"{len(rows)} cells ({whole:g} ms against {part:g} ms at L={row.L}): its packing "
                "is not counted.",
                "Check that operator level times all of it, from Q, K, V and ranges on.",
                Reason.ONE_SIDED,
            )


def _control(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    without = [row for row in rows if row.aa_lo is None or row.aa_hi is None]
    if without:
        yield _unverified(
            f"There is no A/A control (aa_lo, aa_hi) at {lengths_of(without)}: that equal work is "
            "timed as equal is not shown.",
            "Measure with this project's benchmark, which times the reference against itself.",
        )
    known = [(row, row.aa_lo, row.aa_hi) for row in rows if None not in (row.aa_lo, row.aa_hi)]
    for row, low, high in known:
        if low is not None and high is not None and not 0 < low <= high:
            yield invalid(f"{row.where}: the A/A control [{low:g}, {high:g}] is no interval.")
            return
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
        yield _unverified(
            f"The A/A control is too wide to tell equal times from a speedup: {named}.",
            "Measure on a quiet machine, with more iterations.",
            Reason.MACHINE_DISTURBED,
        )


def _widths(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """Intervals without a width, of times that vary."""
    spread = [row for row in rows if max(row.tri_cv or 0, row.ref_cv or 0) > _SPREAD]
    for name, bounds in _BOUNDS.items():
        sure = [row for row in spread if (both := bounds(row)[:2])[0] and both[0] == both[1]]
        if sure:
            row = sure[0]
            yield _unverified(
                f"The interval of the {name} has no width at {lengths_of(sure)}, although the "
                f"times vary by {max(row.tri_cv or 0, row.ref_cv or 0):.0%} (tri_cv, ref_cv).",
                "Look at how the benchmark computes the interval.",
            )
            return


def _cold(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    unknown = [row for row in rows if row.flush_mib is None or not row.l2_mib]
    if unknown:
        yield _unverified(
            f"Whether the L2 cache was cold (flush_mib, l2_mib) is not said at "
            f"{lengths_of(unknown)}.",
            AGAIN,
        )
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
        yield _unverified(
            f"{row.flush_mib:g} MiB were overwritten between iterations, less than twice the L2 of "
            f"{row.l2_mib:g} MiB, and the cells at {lengths_of(warm)} fit twice in it: their times "
            "may be the cache's.",
            "Flush at least twice the size of the L2, or measure larger cells.",
        )


def _weakness(row: BenchRow) -> float:
    shipped, strongest = row.operator_shipped_ms, row.operator_strongest_ms
    return shipped / strongest if shipped and strongest else 0.0


def _first(rows: Sequence[BenchRow], wrong: Callable[[BenchRow], bool]) -> BenchRow | None:
    return next((row for row in rows if wrong(row)), None)


def _unverified(message: str, next_step: str, reason: Reason = Reason.NO_EVIDENCE) -> Finding:
    return Finding(Verdict.NOT_VERIFIED, reason, message, next_step)

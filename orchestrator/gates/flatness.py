"""Times that stay the same while the bytes grow: they measure something else than the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.evidence.cards import FASTEST, Card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.roofline import Work, works_of
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, listed, unverified
from orchestrator.gates.timed import IMPLEMENTATIONS, Time, cell_name, distinct_times
from orchestrator.models.verdict import Reason, Verdict

FLAT = 1.1
"""Growth of the time, at most, that counts as none."""
GROWN = 3.0
"""Growth of the bytes from which on the time has to show it."""
_SHARE = 0.5
"""Of the time, that the added bytes alone must need before a flat tail is held against it."""
_SHOWN = 0.2
"""The same where all lengths are flat: with so much more to read, more than `FLAT` must show."""
NEAR_FLOOR = 3.0
SEVERAL_LAUNCHES = 32
"""Floors that one call may take before it reads: a gathering reference launches a dozen kernels,
each longer than an empty one."""
UNMEASURED_FLOOR_MS = 0.010
"""Where nobody measured the launch floor: one eager PyTorch call with its dispatch."""
TRUSTED = 2.0
"""How far a row's launch floor may lie from the canary's and be believed."""


def flatness(
    rows: Rows[Row],
    columns: Sequence[str],
    card_of: Callable[[str | None], Card | None],
    launch_us: float | None = None,
) -> tuple[list[Finding], list[str]]:
    """Look at each side of each family, by the times in `columns`.

    `card_of` finds the card of a device; `launch_us` is the launch floor that the canary measured.

    Returns:
        What is wrong, and the times that are flat because it is the launch that they measure.
    """
    launch_bound: list[str] = []
    flat: dict[Verdict, list[str]] = {}
    known = rows.select([isinstance(work, Work) for work in works_of(rows)])
    for (device, _), family in known.by("device", "family").items():
        works = family.column("work")
        order = sorted(range(len(works)), key=lambda number: works[number].bytes)
        last = works[order[-1]].bytes
        smaller = [number for number in order if GROWN * works[number].bytes <= last]
        if not smaller:
            continue
        level, basis = family[order[0]].level, family[order[0]].basis
        for column in distinct_times(columns, level, basis):
            ms, timed = family.column(column), family.column(IMPLEMENTATIONS[column])
            before = [ms[number] for number in smaller if ms[number] is not None]
            last_ms = ms[order[-1]]
            one = timed.count(timed[0]) == len(timed)
            if one and before and last_ms is not None and last_ms > FLAT * max(before):
                continue
            # only times of one implementation tell how it grows
            alike: dict[str | None, list[Time]] = {}
            for number in order:
                if ms[number] is not None and ms[number] > 0:
                    time = Time(family, number, column, ms[number], works[number])
                    alike.setdefault(timed[number], []).append(time)
            for times in alike.values():
                found = _flat(times, card_of(device), launch_us, launch_bound)
                if found is not None:
                    flat.setdefault(found[0], []).append(found[1])
    findings = []
    if Verdict.INVALID in flat:
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.FLAT_IN_L,
                f"{listed(flat[Verdict.INVALID], 2, between='; ')}: a time that does not depend "
                "on the keys is not the time of reading them.",
                "Change the last key and see whether this side's output changes; it may "
                "attend to the first keys only.",
            )
        )
    if Verdict.NOT_VERIFIED in flat:
        findings.append(
            unverified(
                f"{listed(flat[Verdict.NOT_VERIFIED], 2, between='; ')}: so few bytes do not show "
                "beside the launches (launch_us), or whatever else was timed.",
                "Measure larger cells, and the launch floor of the device (launch_us).",
            )
        )
    return findings, launch_bound


def _flat(
    times: Sequence[Time], card: Card | None, measured_us: float | None, launch_bound: list[str]
) -> tuple[Verdict, str] | None:
    """Whether the largest cell of one implementation takes no longer than a much smaller one."""
    first, last = times[0], times[-1]
    card = card or FASTEST
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
        floor_us = _floor(last.row.launch_us, measured_us)
        hidden = extra < _SHOWN
        launches = SEVERAL_LAUNCHES if hidden else NEAR_FLOOR
        if floor_us is not None and last.ms <= launches * floor_us / 1e3:
            launch_bound.append(f"{cell_name(last.row)}, {last.side}")
            return None
        unmeasured = floor_us is None and last.ms <= NEAR_FLOOR * UNMEASURED_FLOOR_MS
        # at the floor or not, the added bytes alone must not need longer than it all took
        unsure = hidden or (unmeasured and extra < 1)
        return (Verdict.NOT_VERIFIED if unsure else Verdict.INVALID, said)
    return None


def _floor(told_us: float | None, measured_us: float | None) -> float | None:
    """The row's launch floor, unless the canary's says otherwise."""
    if told_us is None or measured_us is None:
        return told_us
    near = measured_us / TRUSTED <= told_us <= measured_us * TRUSTED
    return told_us if near else measured_us

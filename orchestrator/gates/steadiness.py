"""The canary: whether it was this card's, at this time, and found it the same before and after."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from pydantic import JsonValue

from orchestrator.evidence.canary import AFTER, BEFORE, PER_TERA, Canary, Probe
from orchestrator.evidence.cards import Card, find_card, is_slice, same_card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, counted, invalid, listed, unverified
from orchestrator.gates.timed import (
    EARLIEST_MS,
    SLACK_MS,
    TOLERANCE,
    cell_name,
    disturbed,
    of_another_card,
)
from orchestrator.models.verdict import Reason

DRIFT = 0.05
LAUNCH_DRIFT = 0.5
"""A launch is a matter of the host too, and of microseconds."""
OTHER_LAUNCH = 8
"""Times a launch of the canary, or that part of it, that a row's launch floor is no more the same
card's. On an H200 it was a third: the canary's holds the start of a graph."""
REQUIRED_PROBES = ("copy", "gemm", "launch")
UNITS = {
    "copy": tuple(PER_TERA),
    "l2_read": tuple(PER_TERA),
    "gemm": ("tflop/s",),
    "launch": ("us",),
}
ROUNDING = 0.01
"""Of a value, that its own work and time may leave open."""
MOST_GEMM = 1.5
"""Of the card's peak, which its vendor counts at a modest clock: boost goes beyond."""
LEAST = {"copy": 0.5, "gemm": 0.1}
"""Of the card's peak: less is not the card as its cells had it to themselves."""
LEAST_LAUNCH_US, MOST_LAUNCH_US = 0.2, 1000
MOST_L2 = 16
"""No cache is so many times as fast as its card's DRAM."""
DAY_MS = 86_400_000

_AGAIN = "Measure with this project's benchmark, which writes <stem>.canary.csv, to its end."
_OWN = "Judge the rows with the canary that was written beside them."


def canary_findings(
    file: str, rows: Rows[Row], canary: Canary | None, measured: dict[str, JsonValue]
) -> Iterable[Finding]:
    """What is wrong with the canary of the cells of `rows`; the drift goes into `measured`."""
    if canary is None or not canary.probes:
        what = "There is no canary" if canary is None else f"{canary.file} holds no probes"
        yield unverified(
            f"{what} beside {file}: whether the card was the same before and after is unknown.",
            _AGAIN,
        )
        return
    yield from _identity(rows, canary)
    yield from _when(rows, canary)
    yield from _values(rows, canary)
    yield from _launches(rows, canary)
    yield from _drift(file, canary, measured)


def _identity(rows: Rows[Row], canary: Canary) -> Iterable[Finding]:
    """A canary of another card says nothing about this one."""
    if not canary.complete:
        yield unverified(f"{canary.file} has no end mark: it is cut off.", _AGAIN)
    probed = dict.fromkeys(probe.device for probe in canary.probes)
    if None in probed:
        yield unverified(f"{canary.file} does not say device in every row.", _AGAIN)
    for device in dict.fromkeys(rows.column("device")):
        others = [name for name in probed if name and device and not same_card(name, device)]
        if others:
            yield of_another_card(canary.file, others[0], str(device), _OWN)


def _when(rows: Rows[Row], canary: Canary) -> Iterable[Finding]:
    times = [probe.began_ms for probe in canary.probes if probe.began_ms is not None]
    if len(times) < len(canary.probes):
        yield unverified(f"{canary.file} does not say began_ms in every row.", _AGAIN)
    if times and min(times) < EARLIEST_MS:
        yield invalid(
            f"{canary.file} was measured at began_ms {min(times):.0f}, before there was this "
            "benchmark.",
            "Set the machine's clock, and measure again.",
        )
        return
    began = min((ms for ms in rows.column("began_ms") if ms is not None), default=None)
    ended = max((ms for ms in rows.column("ended_ms") if ms is not None), default=None)
    for when, gap in (
        (BEFORE, lambda at: None if began is None else began - at),
        (AFTER, lambda at: None if ended is None else at - ended),
    ):
        if (said := _far(when, canary.probes, gap)) is not None:
            yield invalid(f"{canary.file}: the probes {when} the cells {said}.", _OWN)


def _far(when: str, probes: Sequence[Probe], gap: Callable[[float], float | None]) -> str | None:
    """How the nearest probe lies wrong to the cells."""
    gaps = [
        ms
        for probe in probes
        if probe.when == when and probe.began_ms is not None
        if (ms := gap(probe.began_ms)) is not None
    ]
    if not gaps or any(-SLACK_MS <= ms <= DAY_MS for ms in gaps):
        return None
    nearest = min(gaps, key=abs)
    return (
        f"were measured {abs(nearest) / 1e3:.0f} s {'off' if nearest > 0 else 'on the wrong side'}"
    )


def _values(rows: Rows[Row], canary: Canary) -> Iterable[Finding]:
    """Units that can be compared, and nothing that the card cannot do."""
    for name in dict.fromkeys(probe.probe for probe in canary.probes):
        units = list(dict.fromkeys(p.unit.lower() for p in canary.probes if p.probe == name))
        if len(units) > 1 or units[0] not in UNITS.get(name, (units[0],)):
            yield invalid(f"{canary.file}: {name} is in {listed(units)}.", _AGAIN)
            return
    device = rows[0].device or ""
    card = find_card(device)
    if card is not None:
        yield from _impossible(canary, card)
        if not is_slice(device):
            yield from _too_little(canary, card)
    yield from _contradictions(canary)
    for probe in canary.probes:
        if probe.probe == "launch" and not LEAST_LAUNCH_US <= probe.value <= MOST_LAUNCH_US:
            yield unverified(f"{canary.file}: no launch takes {probe.value:g} us.", _AGAIN)
            return


def _contradictions(canary: Canary) -> Iterable[Finding]:
    for probe in canary.probes:
        if probe.derived and abs(probe.value / probe.derived - 1) > ROUNDING:
            yield invalid(
                f"{canary.file}: {probe.probe} {probe.when} the cells says {probe.value:g} "
                f"{probe.unit}; by its own ms and what was done it is {probe.derived:.4g}.",
                "Do not use this canary; look at who wrote it.",
                Reason.IMPOSSIBLE,
            )
            return


def _impossible(canary: Canary, card: Card) -> Iterable[Finding]:
    for probe in canary.probes:
        most = _most(probe, card)
        if most is not None and probe.value > most[0]:
            yield invalid(
                f"{canary.file}: {probe.probe} of {probe.value:g} {probe.unit} cannot be true on "
                f"the {card.name}: {most[1]}.",
                "Do not use this canary; look at what was measured.",
                Reason.IMPOSSIBLE,
            )
            return


def _too_little(canary: Canary, card: Card) -> Iterable[Finding]:
    for probe in canary.probes:
        peak, least = _peak(probe, card), LEAST.get(probe.probe)
        if peak and least and probe.value < least * peak:
            yield unverified(
                f"{canary.file}: {probe.probe} of {probe.value:g} {probe.unit} is "
                f"{probe.value / peak:.0%} of what the {card.name} can do: it was not itself.",
                "See `nvidia-smi` for what slows the card down, and measure again.",
                Reason.MACHINE_DISTURBED,
            )
            return


def _most(probe: Probe, card: Card) -> tuple[float, str] | None:
    """The most that a probe can have found, in its unit, and why."""
    peak = _peak(probe, card)
    if peak is None:
        return None
    if probe.probe == "gemm":
        return MOST_GEMM * peak, f"its peak is {peak:g} TFLOP/s"
    factor = MOST_L2 if "l2" in probe.probe else TOLERANCE
    return factor * peak, f"its DRAM moves {card.dram_tb_per_s:g} TB/s"


def _peak(probe: Probe, card: Card) -> float | None:
    """What the card's papers say of it, in the probe's unit."""
    if probe.probe == "gemm":
        return max(card.tflops.values())
    tera = PER_TERA.get(probe.unit.lower())
    return None if tera is None else card.dram_tb_per_s / tera


def _launches(rows: Rows[Row], canary: Canary) -> Iterable[Finding]:
    """Launch floors of rows that cannot be those of the card whose launches the canary timed."""
    if not canary.launches_us:
        return
    middle = statistics.median(canary.launches_us)
    least, most = middle / OTHER_LAUNCH, middle * OTHER_LAUNCH
    far = rows.where(lambda us: us is not None and not least <= us <= most, "launch_us")
    if far:
        row = far[0]
        yield unverified(
            f"{row.where} ({cell_name(row)}): launch_us is {row.launch_us:g}, while a launch took "
            f"{middle:g} us in {canary.file}: on one card they are within "
            f"{OTHER_LAUNCH} times of each other; {counted(len(far), 'such row')}.",
            "Judge the rows with the canary that was written beside them, or measure both again.",
            Reason.MACHINE_DISTURBED,
        )


def _drift(file: str, canary: Canary, measured: dict[str, JsonValue]) -> Iterable[Finding]:
    drifts: dict[str, float] = {}
    moved: list[str] = []
    host: list[str] = []
    half = [name for name in REQUIRED_PROBES if not any(p.probe == name for p in canary.probes)]
    for probe in dict.fromkeys(probe.probe for probe in canary.probes):
        values = {
            when: [p.value for p in canary.probes if p.probe == probe and p.when == when]
            for when in (BEFORE, AFTER)
        }
        if not all(values.values()):
            half.append(probe)
            continue
        before, after = (statistics.median(values[when]) for when in (BEFORE, AFTER))
        drift = after / before - 1
        limit = LAUNCH_DRIFT if "launch" in probe else DRIFT
        if "launch" not in probe:
            drifts[probe] = drift
        if abs(drift) > limit:
            unit = next(p.unit for p in canary.probes if p.probe == probe)
            (host if "launch" in probe else moved).append(
                f"{probe} from {before:g} to {after:g} {unit} ({drift:+.1%})"
            )
    measured["drift"] = round(max(map(abs, drifts.values()), default=0), 4)
    if moved:
        yield disturbed(
            f"The card was not the same before and after the cells of {file}: {listed(moved)}.",
            "Find what changed (heat, power limit, another user), and measure again.",
        )
    if host:
        yield unverified(
            f"Launches did not take the same before and after the cells of {file}: {listed(host)}; "
            "that is the host's as well as the card's.",
            "See what else ran on the host's processors, and measure again.",
            Reason.MACHINE_DISTURBED,
        )
    if half:
        yield unverified(
            f"{canary.file} has no value of {listed(half)} both before and after.",
            "Let the benchmark run to its end: the second canary comes last.",
        )

"""The telemetry: what the card that ran the cells did meanwhile, and which card that was."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.evidence.cards import same_card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.evidence.telemetry import HARMFUL, Sample, Telemetry, throttle_names
from orchestrator.gates.findings import Finding, listed, unverified
from orchestrator.gates.timed import SLACK_MS, cell_name, disturbed, of_another_card
from orchestrator.models.verdict import Reason, Verdict

LOWEST_CLOCK = 0.8
"""Of the card's maximum, while a cell is timed. Less is said, and is no fault by itself: drivers
name maxima that no boost reaches, and a card at its power cap is itself."""
HOTTEST_C = 90
"""Where cards begin to slow themselves down."""
BUSY = 5
"""Percent of utilisation that a card in use reaches."""
OTHER_CLOCK = 1.5
"""Times the clock that a row records, or that part of it: its own readings and the samples of the
same moments do not lie so far apart, whatever a boost or a power cap does in between."""
ASLEEP = 0.5
"""Of the clock that the rows claim: a card that runs below it does not run those cells."""
FASTEST_CLOCK = 1.05
"""Of its maximum, that a clock can be read at."""
GAP = 3
"""Periods without a sample in which anything may have happened."""
SHORT_GAP_MS = 3_000
"""That a busy pod may take between two samples, however short their period: the agent's is 1 s."""
ENOUGH = 3
"""Samples that cannot all have hit a pause."""
AT_REST = 0.9
"""Share of the samples during cells that no benchmark leaves its card at rest in."""

COOL = "Let the card cool down, look for a power or thermal limit, and measure again."
ALONE = "See `nvidia-smi` for who else uses the card, and measure again when it is free."
AGAIN = "Measure again with this project's benchmark on a machine where it can be read."


def telemetry_findings(
    file: str, rows: Rows[Row], telemetry: Telemetry | None, measured: dict[str, JsonValue]
) -> Iterable[Finding]:
    """What is wrong with the card while the cells of `rows` ran; what was seen, into `measured`."""
    if telemetry is None or not telemetry.samples:
        what = "There is no telemetry" if telemetry is None else f"{telemetry.file} has no samples"
        yield unverified(
            f"{what} of the time when {file} was measured: throttling and other load are unknown.",
            "Run the benchmark as a job of `orchestrate run`, whose agent samples the card.",
        )
        return
    measured["samples"] = len(telemetry.samples)
    for device, own in rows.by("device").items():
        cards = _cards(telemetry, device)
        if not cards:
            names = dict.fromkeys(sample.name for sample in telemetry.samples)
            yield of_another_card(
                telemetry.file,
                listed(names),
                str(device),
                "Judge the rows with the telemetry of their own job.",
            )
            continue
        seen = {gpu: _seen(own, card) for gpu, card in _used(cards, own).items()}
        found = {gpu: list(one.findings(telemetry.file)) for gpu, one in seen.items()}
        first = next(iter(seen))
        disturbed_all = all(
            any(finding.verdict is Verdict.INVALID for finding in findings)
            for findings in found.values()
        )
        if len(found) == 1 or disturbed_all or not any(found.values()):
            # the same can be said whichever of them it was
            yield from found[first]
            seen[first].measure(measured)
        else:
            yield unverified(
                f"{telemetry.file} has {len(found)} cards that the cells may have run on "
                f"({listed(found)}), and not all were undisturbed.",
                "Name the card in CUDA_VISIBLE_DEVICES: then the agent samples no other.",
            )


def _cards(telemetry: Telemetry, device: str | None) -> dict[str, Telemetry]:
    """The samples of each card that can be the rows' `device`."""
    cards: dict[str, list[Sample]] = {}
    fits = {
        name: not (name and device) or same_card(name, device)
        for name in {sample.name for sample in telemetry.samples}
    }
    for sample in telemetry.samples:
        if fits[sample.name]:
            cards.setdefault(sample.gpu, []).append(sample)
    return {
        gpu: Telemetry(telemetry.file, tuple(samples), telemetry.fields)
        for gpu, samples in cards.items()
    }


def _used(cards: Mapping[str, Telemetry], rows: Rows[Row]) -> Mapping[str, Telemetry]:
    """Those of several cards that the cells can have run on: busy, and with nobody else's work."""
    if len(cards) == 1:
        return cards
    began = min((began for began in rows.column("began_ms") if began is not None), default=None)
    ended = max((ended for ended in rows.column("ended_ms") if ended is not None), default=None)
    if began is None or ended is None:
        return cards
    during = {gpu: card.between(began, ended, SLACK_MS) for gpu, card in cards.items()}
    busy = {
        gpu: cards[gpu]
        for gpu, samples in during.items()
        if any((s.utilisation or 0) >= BUSY for s in samples)
    }
    alone = {gpu: card for gpu, card in busy.items() if all(s.foreign == 0 for s in during[gpu])}
    return alone or busy or cards


class _Window(NamedTuple):
    """What some samples say about every cell that they are those of, in words."""

    troubles: Mapping[str, str]
    """What ailed the card, by kind."""
    slow: float | None
    """Its share of the maximum clock, where that was low."""
    too_fast: Sequence[str]
    """Clocks that the card cannot have."""
    other: tuple[float, float] | None
    """The clock, and the one that the cells' rows record, where that is another."""

    @property
    def quiet(self) -> bool:
        """Nothing is to be said."""
        return not (self.troubles or self.slow is not None or self.too_fast or self.other)


class _Gap(NamedTuple):
    """A long time without a sample."""

    last: float
    then: float
    far: float
    """From either end, from where on nobody knows."""


def _far_into(gap: _Gap, began: float, ended: float) -> bool:
    """Whether a cell ran far from both ends: the last one before a clock was set did not."""
    moment = min(max((gap.last + gap.then) / 2, began), ended)
    return min(moment - gap.last, gap.then - moment) > gap.far


def _is_other(shares: Sequence[float]) -> bool:
    """Whether samples show another clock than the rows, of which they are these shares."""
    if len(shares) < ENOUGH:
        return False
    return not 1 / OTHER_CLOCK <= statistics.median(shares) <= OTHER_CLOCK


@dataclass
class _Seen:
    """What the samples of one card say about the cells."""

    card: Telemetry
    rows: int = 0
    unseen: list[Row] = field(default_factory=list)
    trouble: dict[str, list[str]] = field(
        default_factory=lambda: {"throttled": [], "busy": [], "hot": []}
    )
    slow: list[float] = field(default_factory=list)
    """Shares of the maximum clock, of cells where it was low."""
    hottest: float | None = None
    known: set[str] = field(default_factory=set)
    """Fields that a sample during the cells has."""
    during: dict[float, bool] = field(default_factory=dict)
    """Of samples within a cell, by time: whether the card was at rest."""
    asleep: bool = True
    too_fast: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    """Cells whose samples have another clock than their row."""
    shares: list[float] = field(default_factory=list)
    """Of the clock that the row records: of each sample within a cell."""
    gaps: list[str] = field(default_factory=list)

    def take(self, rows: Rows[Row]) -> None:
        """Add all cells; those of the same samples and clocks are judged once."""
        loud: dict[tuple[object, ...], _Window | None] = {}
        gaps = self._long_gaps
        cells = rows.columns("began_ms", "ended_ms", "sm_mhz", "sm_max_mhz")
        for number, (began, ended, sm_mhz, sm_max_mhz) in enumerate(cells):
            if began is None or ended is None or ended < began:
                self.unseen.append(rows[number])
                continue
            first, end, within = self.card.window(began, ended, SLACK_MS)
            if first == end:
                self.unseen.append(rows[number])
                continue
            self.rows += 1
            key = (first, end, within, sm_mhz, sm_max_mhz)
            if key not in loud:
                samples = self.card.samples[first:end]
                window = self._window(samples, within, sm_mhz, sm_max_mhz)
                loud[key] = None if window.quiet else window
            if (said := loud[key]) is not None:
                self._take(rows[number], said)
            if gaps and any(_far_into(gap, began, ended) for gap in gaps):
                self.gaps.append(cell_name(rows[number]))

    def _take(self, row: Row, window: _Window) -> None:
        name = cell_name(row)
        for kind, said in window.troubles.items():
            self.trouble[kind].append(f"{name} {said}")
        if window.slow is not None:
            self.slow.append(window.slow)
        self.too_fast += [f"{clocks} at {name}" for clocks in window.too_fast]
        if window.other is not None:
            clock, told = window.other
            self.other.append(f"{clock:g} MHz while {name} was timed, whose row says {told:g}")

    def _window(
        self,
        samples: Sequence[Sample],
        within: bool,
        sm_mhz: float | None,
        sm_max_mhz: float | None,
    ) -> _Window:
        """Judge samples that lie within a cell or beside it, by its row's clocks."""
        clocks = []
        too_fast = []
        for sample in samples:
            most = sample.sm_max_mhz or sm_max_mhz
            if sample.sm_mhz and most and sample.sm_mhz > FASTEST_CLOCK * most:
                too_fast.append(f"{sample.sm_mhz:g} of {most:g} MHz")
            if within and sample.sm_mhz and not sample.resting:
                clocks.append(sample.sm_mhz)
            if within and sample.resting is not None:
                self.during[sample.when_ms] = sample.resting
                if sm_mhz and sample.sm_mhz and sample.sm_mhz >= ASLEEP * sm_mhz:
                    self.asleep = False
        other = None
        if sm_mhz:
            shares = [clock / sm_mhz for clock in clocks]
            self.shares += shares
            other = (statistics.median(clocks), sm_mhz) if _is_other(shares) else None
        troubles, share = self._troubles(samples)
        slow = share if share is not None and share < LOWEST_CLOCK else None
        return _Window(troubles, slow, too_fast, other)

    @cached_property
    def _long_gaps(self) -> list[_Gap]:
        times = [sample.when_ms for sample in self.card.samples]
        pairs = list(itertools.pairwise(times))
        if len(pairs) < ENOUGH:
            return []
        period = statistics.median(then - first for first, then in pairs)
        longest = max(GAP * period, SHORT_GAP_MS)
        return [_Gap(last, then, longest / 2) for last, then in pairs if then - last > longest]

    def _troubles(self, samples: Sequence[Sample]) -> tuple[dict[str, str], float | None]:
        """What ails the card, by kind, and its share of the maximum clock."""
        found = {}
        bits = 0
        shares = []
        for sample in samples:
            bits |= (sample.throttle or 0) & HARMFUL
            for name in ("throttle", "sm_mhz", "temperature_c"):
                if getattr(sample, name) is not None:
                    self.known.add(name)
            if sample.sm_mhz is not None and sample.sm_max_mhz and not sample.idle:
                shares.append(sample.sm_mhz / sample.sm_max_mhz)
        clock = statistics.median(shares) if shares else None
        if bits:
            said = throttle_names(bits)
            slow = clock is not None and clock < LOWEST_CLOCK
            found["throttled"] = (
                f"({said}, {clock:.0%} of the maximum clock)" if slow else f"({said})"
            )
        company = max((s.foreign for s in samples if s.foreign is not None), default=0)
        if company > 0:
            found["busy"] = f"({company:g})"
        degrees = max((s.temperature_c for s in samples if s.temperature_c is not None), default=0)
        self.hottest = max(degrees, self.hottest or 0) or None
        if degrees >= HOTTEST_C:
            found["hot"] = f"({degrees:g} C)"
        return found, clock

    def measure(self, measured: dict[str, JsonValue]) -> None:
        """What was seen, beside the findings."""
        measured["hottest_c"] = self.hottest
        if self.slow:
            measured["slow_clock"] = (
                f"{min(self.slow):.0%} of the maximum at least, below {LOWEST_CLOCK:.0%} in "
                f"{len(self.slow)} of {self.rows} cells"
            )

    def findings(self, file: str) -> Iterable[Finding]:
        """Everything that keeps the card from being trusted."""
        for kind, sentence, remedy in (
            ("throttled", "The card was throttled while it was timed", COOL),
            ("busy", "Other processes used the card while it was timed", ALONE),
            ("hot", "The card was too hot while it was timed", COOL),
        ):
            if self.trouble[kind]:
                yield disturbed(f"{sentence}: {listed(self.trouble[kind], 2)}.", remedy)
        resting = sum(self.during.values())
        if self.during and resting >= AT_REST * len(self.during):
            whole = resting == len(self.during)
            said = (
                f"{file} shows a card at rest in {'all' if whole else resting} of the "
                f"{len(self.during)} samples during the cells"
            )
            remedy = "Judge the rows with the telemetry of the card that they were timed on."
            if whole and self.asleep and len(self.during) >= ENOUGH:
                yield disturbed(f"{said}, at half the clock that the rows claim, or less.", remedy)
            else:
                yield unverified(f"{said}.", remedy)
        if self.too_fast:
            yield Finding(
                Verdict.INVALID,
                Reason.IMPOSSIBLE,
                f"{file} has clocks that the card cannot reach: {listed(self.too_fast, 2)}.",
                "Look at how the telemetry was taken.",
            )
        other = listed(self.other, 2)
        if not other and _is_other(self.shares):  # where no cell has samples enough of its own
            other = (
                f"{statistics.median(self.shares):.0%} of what the rows say, over the "
                f"{len(self.shares)} samples that were taken while cells were timed"
            )
        if other:
            yield unverified(
                f"{file} contradicts sm_mhz of the rows: the card ran at {other}.",
                "Judge the rows with the telemetry of the card that they were timed on, and keep "
                "their clocks as the benchmark wrote them.",
            )
        if self.gaps:
            yield unverified(
                f"{file} has gaps of more than {GAP} of its periods and {SHORT_GAP_MS // 1000} s "
                f"in {listed(self.gaps, 2)}: what the card did then is unknown.",
                "Measure again, and let the agent sample all of the time.",
            )
        for name in ("throttle", "sm_mhz", "temperature_c"):
            if self.rows and name not in self.known:
                yield unverified(f"{file} does not say {name} of the time of the cells.", AGAIN)
        if self.unseen:
            more = len(self.unseen) - 1
            yield unverified(
                f"No sample of {file} tells about {self.unseen[0].where}"
                + (f" and {more} more" if more else "")
                + ": began_ms and ended_ms "
                + (
                    "lie outside the samples."
                    if self.unseen[0].began_ms is not None
                    else "are missing from the row."
                ),
                AGAIN,
            )


def _seen(rows: Rows[Row], card: Telemetry) -> _Seen:
    seen = _Seen(card)
    seen.take(rows)
    return seen

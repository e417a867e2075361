"""Whether the card was itself while it was timed: clocks, throttling, company, and the canary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import JsonValue

from kernels.bench import contract
from orchestrator.evidence.canary import AFTER, BEFORE, PER_TERA, Canary
from orchestrator.evidence.cards import find_card
from orchestrator.evidence.telemetry import HARMFUL, Sample, Telemetry, throttle_names
from orchestrator.gates.findings import Finding, conclude, counted, listed
from orchestrator.gates.timed import cell_name, unverified
from orchestrator.models.verdict import GateResult, Reason, Verdict

LOWEST_CLOCK = 0.8
"""Of the card's maximum, while a cell is timed."""
HOTTEST_C = 90
"""Where cards begin to slow themselves down."""
DRIFT = 0.05
LAUNCH_DRIFT = 0.5
"""A launch is a matter of the host too, and of microseconds."""
QUIET_COPY = 0.7
"""Of the card's DRAM bandwidth: a copy that gets so much has the card to itself."""
SLACK_MS = 5_000
"""How far from a short cell a sample may lie and still tell about it."""

_COOL = "Let the card cool down, look for a power or thermal limit, and measure again."
_ALONE = "See `nvidia-smi` for who else uses the card, and measure again when it is free."
_AGAIN = "Measure again with this project's benchmark on a machine where it can be read."


class Watched(Protocol):
    """The columns of a bench row that say when and at which clock it was timed."""

    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def L(self) -> int | None: ...  # noqa: D102, N802
    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> str | None: ...  # noqa: D102
    @property
    def sm_mhz(self) -> float | None: ...  # noqa: D102
    @property
    def sm_max_mhz(self) -> float | None: ...  # noqa: D102
    @property
    def began_ms(self) -> float | None: ...  # noqa: D102
    @property
    def ended_ms(self) -> float | None: ...  # noqa: D102


def machine_gate(
    file: str,
    rows: Sequence[Watched],
    telemetry: Telemetry | None,
    canary: Canary | None,
) -> GateResult:
    """Judge the machine while the cells of `rows` were timed.

    `telemetry` is what the agent sampled during the job, `canary` what the benchmark measured
    before and after; None where there is none.
    """
    gate = f"machine {file}"
    ran = [row for row in rows if row.ok]
    if any(row.device == contract.CPU_INTERPRETER for row in ran):
        finding = unverified(
            "The cells ran in the CPU interpreter: there was no card to watch.",
            "Measure on a CUDA device.",
            Reason.NO_CUDA_DEVICE,
        )
        return conclude(gate, [finding], {"cells": len(ran)}, "")
    if not ran:
        finding = unverified(f"{file} holds no cell that ran.", "Run the benchmark.")
        return conclude(gate, [finding], {"cells": 0}, "")
    measured: dict[str, JsonValue] = {"cells": len(ran)}
    findings = [
        *_own_clocks(ran, measured),
        *_samples(file, ran, telemetry, measured),
        *_company(ran, telemetry, canary, measured),
        *_drift(file, canary, measured),
    ]
    return conclude(gate, findings, measured, "" if findings else _passed(measured))


def _passed(measured: dict[str, JsonValue]) -> str:
    return (
        f"{counted(int(str(measured['cells'])), 'cell')} on a quiet card: clock at least "
        f"{float(str(measured['lowest_clock'])):.0%} of its maximum, "
        f"{measured['hottest_c']} C at most, canary within {float(str(measured['drift'])):.1%}."
    )


def _own_clocks(rows: Sequence[Watched], measured: dict[str, JsonValue]) -> Iterable[Finding]:
    """What the benchmark itself read while it timed the cell."""
    shares: list[tuple[float, Watched]] = []
    silent: list[Watched] = []
    for row in rows:
        clock, most = row.sm_mhz, row.sm_max_mhz
        if clock is not None and most:
            shares.append((clock / most, row))
        else:
            silent.append(row)
    if silent:
        yield unverified(
            f"{silent[0].where} does not say sm_mhz and sm_max_mhz, the card's clocks"
            + (f", nor do {len(silent) - 1} more rows." if len(silent) > 1 else "."),
            _AGAIN,
        )
    if not shares:
        return
    share, row = min(shares, key=lambda item: item[0])
    measured["lowest_clock"] = round(share, 3)
    slow = sum(share < LOWEST_CLOCK for share, _ in shares)
    if slow:
        yield _disturbed(
            f"{row.where} ({cell_name(row)}): the card ran at {row.sm_mhz:g} of "
            f"{row.sm_max_mhz:g} MHz, {share:.0%}"
            + (f"; {counted(slow, 'such cell')}." if slow > 1 else "."),
            _COOL,
        )


def _samples(
    file: str, rows: Sequence[Watched], telemetry: Telemetry | None, measured: dict[str, JsonValue]
) -> Iterable[Finding]:
    if telemetry is None or not telemetry.samples:
        what = "There is no telemetry" if telemetry is None else f"{telemetry.file} has no samples"
        yield unverified(
            f"{what} of the time when {file} was measured: throttling and other load are unknown.",
            "Run the benchmark as a job of `orchestrate run`, whose agent samples the card.",
        )
        return
    for field in ("throttle", "sm_mhz", "temperature_c"):
        if not any(getattr(sample, field) is not None for sample in telemetry.samples):
            yield unverified(f"{telemetry.file} does not say {field}.", _AGAIN)
    unseen: list[Watched] = []
    trouble: dict[str, list[str]] = {"throttled": [], "slow": [], "busy": [], "hot": []}
    hottest: float | None = None
    for row in rows:
        seen = _during(telemetry, row)
        if not seen:
            unseen.append(row)
            continue
        for kind, said in _troubles(seen).items():
            trouble[kind].append(f"{cell_name(row)} {said}")
        degrees = [s.temperature_c for s in seen if s.temperature_c is not None]
        hottest = max([*degrees, *([hottest] if hottest is not None else [])], default=None)
    measured |= {"samples": len(telemetry.samples), "hottest_c": hottest}
    for kind, sentence, remedy in (
        ("throttled", "The card was throttled while it was timed", _COOL),
        ("slow", "The card's clock was low while it was timed", _COOL),
        ("busy", "Other processes used the card while it was timed", _ALONE),
        ("hot", "The card was too hot while it was timed", _COOL),
    ):
        if trouble[kind]:
            yield _disturbed(f"{sentence}: {listed(trouble[kind], 2)}.", remedy)
    if unseen:
        yield unverified(
            f"No sample of {telemetry.file} tells about {unseen[0].where}"
            + (f" and {len(unseen) - 1} more" if len(unseen) > 1 else "")
            + ": began_ms and ended_ms "
            + (
                "lie outside the samples."
                if unseen[0].began_ms is not None
                else "are missing from the row."
            ),
            _AGAIN,
        )


def _company(
    rows: Sequence[Watched],
    telemetry: Telemetry | None,
    canary: Canary | None,
    measured: dict[str, JsonValue],
) -> Iterable[Finding]:
    """Where a container hides whose processes are whose, a fast canary shows that all was quiet."""
    samples = telemetry.samples if telemetry else ()
    if not samples or any(sample.foreign is not None for sample in samples):
        return
    card = find_card(rows[0].device or "")
    shares = [
        probe.value * PER_TERA[probe.unit.lower()] / card.dram_tb_per_s
        for probe in (canary.probes if canary and card else ())
        if card and probe.probe == "copy" and probe.unit.lower() in PER_TERA
    ]
    if shares and min(shares) >= QUIET_COPY:
        measured["foreign"] = (
            f"not readable here; the canary's copy had {min(shares):.0%} of the DRAM bandwidth"
        )
        return
    yield unverified(
        "The telemetry does not say foreign_processes (a container may hide them), and no "
        "canary shows that the card was free: its copy must reach "
        f"{QUIET_COPY:.0%} of the DRAM bandwidth.",
        _ALONE,
    )


def _during(telemetry: Telemetry, row: Watched) -> tuple[Sample, ...]:
    """Samples of the time when the row's cell was measured, of the busiest of several cards."""
    began, ended = row.began_ms, row.ended_ms
    if began is None or ended is None or ended < began:
        return ()
    cards: dict[str, list[Sample]] = {}
    for sample in telemetry.between(began, ended, SLACK_MS):
        cards.setdefault(sample.gpu, []).append(sample)
    if not cards:
        return ()
    busiest = max(cards.values(), key=lambda seen: max(s.utilisation or 0 for s in seen))
    return tuple(busiest)


def _troubles(samples: Sequence[Sample]) -> dict[str, str]:
    found = {}
    bits = 0
    for sample in samples:
        bits |= (sample.throttle or 0) & HARMFUL
    if bits:
        found["throttled"] = f"({throttle_names(bits)})"
    shares = [
        sample.sm_mhz / sample.sm_max_mhz
        for sample in samples
        if sample.sm_mhz is not None and sample.sm_max_mhz and not sample.idle
    ]
    if shares and statistics.median(shares) < LOWEST_CLOCK:
        found["slow"] = f"({statistics.median(shares):.0%} of the maximum)"
    company = max((sample.foreign for sample in samples if sample.foreign is not None), default=0)
    if company > 0:
        found["busy"] = f"({company:g})"
    degrees = max((s.temperature_c for s in samples if s.temperature_c is not None), default=0)
    if degrees >= HOTTEST_C:
        found["hot"] = f"({degrees:g} C)"
    return found


def _drift(file: str, canary: Canary | None, measured: dict[str, JsonValue]) -> Iterable[Finding]:
    if canary is None or not canary.probes:
        what = "There is no canary" if canary is None else f"{canary.file} holds no probes"
        yield unverified(
            f"{what} beside {file}: whether the card was the same before and after is unknown.",
            "Measure with this project's benchmark, which writes <stem>.canary.csv.",
        )
        return
    drifts: dict[str, float] = {}
    moved, half = [], []
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
            moved.append(f"{probe} from {before:g} to {after:g} {unit} ({drift:+.1%})")
    measured["drift"] = round(max(map(abs, drifts.values()), default=0), 4)
    if moved:
        yield _disturbed(
            f"The card was not the same before and after the cells of {file}: {listed(moved)}.",
            "Find what changed (heat, power limit, another user), and measure again.",
        )
    if half or not drifts:
        missing = listed(half) if half else "copy and GEMM"
        yield unverified(
            f"{canary.file} has no value of {missing} both before and after.",
            "Let the benchmark run to its end: the second canary comes last.",
        )


def _disturbed(message: str, next_step: str) -> Finding:
    return Finding(Verdict.INVALID, Reason.MACHINE_DISTURBED, message, next_step)

"""Whether the card was itself while it was timed: clocks, throttling, company, and the canary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

from pydantic import JsonValue

from orchestrator.evidence.canary import Canary
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.evidence.telemetry import Telemetry
from orchestrator.gates.company import company_findings
from orchestrator.gates.findings import Finding, conclude, counted, invalid, unverified
from orchestrator.gates.samples import (
    AGAIN,
    COOL,
    FASTEST_CLOCK,
    HOTTEST_C,
    LOWEST_CLOCK,
    telemetry_findings,
)
from orchestrator.gates.steadiness import canary_findings
from orchestrator.gates.timed import cell_name, disturbed, on_a_card
from orchestrator.models.verdict import GateResult


def machine_gate(
    file: str,
    rows: Sequence[Row],
    telemetry: Telemetry | None,
    canary: Canary | None,
) -> GateResult:
    """Judge the machine while the cells of `rows` were timed.

    `telemetry` is what the agent sampled during the job, `canary` what the benchmark measured
    before and after; None where there is none.
    """
    gate = f"machine {file}"
    told = "The cells ran in the CPU interpreter: there was no card to watch."
    ran = on_a_card(gate, file, rows, told)
    if isinstance(ran, GateResult):
        return ran
    measured: dict[str, JsonValue] = {"cells": len(ran)}
    findings = [
        *_own_clocks(ran, measured),
        *_own_heat(ran),
        *telemetry_findings(file, ran, telemetry, measured),
        *company_findings(ran, telemetry, canary, measured),
        *canary_findings(file, ran, canary, measured),
    ]
    return conclude(gate, findings, measured, "" if findings else _passed(measured))


def _passed(measured: dict[str, JsonValue]) -> str:
    low = " (low, and steady)" if {"slow", "slow_clock"} & measured.keys() else ""
    return (
        f"{counted(int(str(measured['cells'])), 'cell')} on a quiet card: clock at least "
        f"{float(str(measured['lowest_clock'])):.0%} of its maximum{low}, "
        f"{measured['hottest_c']} C at most, canary within {float(str(measured['drift'])):.1%}."
    )


def _own_clocks(rows: Rows[Row], measured: dict[str, JsonValue]) -> Iterable[Finding]:
    """What the benchmark itself read while it timed the cell."""
    silent = rows.where(lambda clock, most: clock is None or not most, "sm_mhz", "sm_max_mhz")
    if silent:
        yield unverified(
            f"{silent[0].where} does not say sm_mhz and sm_max_mhz, the card's clocks"
            + (f", nor do {len(silent) - 1} more rows." if len(silent) > 1 else "."),
            AGAIN,
        )
    shares = [
        (clock / most, number)
        for number, (clock, most) in enumerate(rows.columns("sm_mhz", "sm_max_mhz"))
        if clock is not None and most
    ]
    if not shares:
        return
    share, number = min(shares)
    row = rows[number]
    if share <= 0:
        yield invalid(
            f"{row.where} ({cell_name(row)}): sm_mhz is {row.sm_mhz:g}, and something ran.",
            "Look at how the benchmark reads the clocks.",
        )
    measured["lowest_clock"] = round(share, 3)
    slow = sum(share < LOWEST_CLOCK for share, _ in shares)
    if slow:
        measured["slow"] = (
            f"{row.where} ({cell_name(row)}): {row.sm_mhz:g} of "
            f"{row.sm_max_mhz:g} MHz, {share:.0%}; {counted(slow, 'such cell')}"
        )
    share, number = max(shares, key=itemgetter(0))
    row = rows[number]
    if share > FASTEST_CLOCK:
        yield invalid(
            f"{row.where} ({cell_name(row)}): sm_mhz {row.sm_mhz:g} is above sm_max_mhz "
            f"{row.sm_max_mhz:g}.",
            "Look at how the benchmark reads the clocks.",
        )


def _own_heat(rows: Rows[Row]) -> Iterable[Finding]:
    degrees = max(celsius or 0 for celsius in rows.said("temperature_c"))
    if degrees >= HOTTEST_C:
        row = rows[rows.column("temperature_c").index(degrees)]
        yield disturbed(
            f"The card was too hot while it was timed: {row.where} ({cell_name(row)}) says "
            f"{degrees:g} C.",
            COOL,
        )

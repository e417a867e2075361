"""A bench CSV: whole, one row per declared cell, kernel and reference both right.

Slowness is not judged here; that is the decision's business. Physics, timing and machine gates
will stand beside this one, each in its file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pydantic import JsonValue

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import TRITON_PREFIX, BenchRow, BenchTable, parse_bench
from orchestrator.gates.findings import Finding, conclude, counted, listed, malformed
from orchestrator.models.playbook import BenchGate
from orchestrator.models.verdict import GateResult, Reason, Verdict

NEEDED = ("status", "device", "kernel", "ref_mae", "ref_probe")
"""Columns beyond the source project's without which a table proves too little."""

NO_TIMING = "none: cpu-interpreter"
_ROUNDING = 0.01
_PRINTED_MS = 0.0005
"""The source project prints three decimals; our own files carry six significant digits."""

_AGAIN = "Run the step again; if it stays, look at how the benchmark writes the row."


def bench_gate(gate: BenchGate, data: bytes) -> GateResult:
    """Judge one CSV."""
    name = f"bench {gate.file}"
    try:
        table = parse_bench(data, gate.file)
    except EvidenceError as error:
        return malformed(name, error)
    ran = [row for row in table.rows if row.ok]
    findings = [
        *_whole(table),
        *_cells(table.rows, gate),
        *_columns(table),
        *_statuses(table.rows),
        *_reference(table, ran, gate.max_mae),
        *_kernel(table, ran),
        *_errors(ran, gate.max_mae),
        *_times(ran),
        *_machine(table, table.rows),
    ]
    measured = _measured(table.rows, ran)
    return conclude(name, findings, measured, _passed(ran, measured))


def _measured(rows: Sequence[BenchRow], ran: Sequence[BenchRow]) -> dict[str, JsonValue]:
    return {
        "cells": len(rows),
        "lengths": list[JsonValue](sorted({row.L for row in rows})),
        "max_mae": max((row.mae for row in ran if row.mae is not None), default=None),
        "max_ref_mae": max((row.ref_mae for row in ran if row.ref_mae is not None), default=None),
        "kernels": list[JsonValue](sorted({row.kernel for row in ran if row.kernel})),
        "devices": list[JsonValue](sorted({row.device for row in rows if row.device})),
        "timing": NO_TIMING if any(row.interpreted for row in rows) else "measured",
    }


def _passed(ran: Sequence[BenchRow], measured: dict[str, JsonValue]) -> str:
    message = (
        f"{counted(len(ran), 'cell')}, none missing: max MAE {measured['max_mae'] or 0:.1e}, "
        f"reference {measured['max_ref_mae'] or 0:.1e}."
    )
    if measured["timing"] == NO_TIMING:
        message += " The times are the CPU interpreter's and count for nothing."
    return message


def _whole(table: BenchTable) -> list[Finding]:
    if table.complete:
        return []
    if table.ended:
        return [_invalid(f"{table.file} does not hold together: {table.problem}.")]
    return [
        Finding(
            Verdict.NOT_VERIFIED,
            Reason.INCOMPLETE,
            f"{table.file} is not whole: {table.problem}.",
            "Read the step's log for what ended the benchmark early, and run the step again.",
        )
    ]


def _cells(rows: Sequence[BenchRow], gate: BenchGate) -> list[Finding]:
    """Exactly the declared lengths, once each, in every family that the file holds."""
    findings = []
    wrong = [row for row in rows if row.mode != gate.mode]
    if wrong:
        findings.append(
            _invalid(f"{wrong[0].where} is a {wrong[0].mode} row; the gate is for {gate.mode}.")
        )
    declared = set(gate.lengths)
    families: dict[str, Counter[int]] = {}
    for row in rows:
        families.setdefault(row.family, Counter())[row.L] += 1
    for family, lengths in families.items() or {gate.mode: Counter[int]()}.items():
        missing = [f"L={length}" for length in gate.lengths if length not in lengths]
        extra = [f"L={length}" for length in sorted(lengths) if length not in declared]
        twice = [f"L={length}" for length in sorted(lengths) if lengths[length] > 1]
        if missing:
            findings.append(
                Finding(
                    Verdict.NOT_VERIFIED,
                    Reason.INCOMPLETE,
                    f"{family}: {counted(len(missing), 'declared cell')} missing: "
                    f"{listed(missing, 8)}.",
                    "Read the step's log for why they were not measured, and run the step again.",
                )
            )
        if extra:
            findings.append(
                _invalid(
                    f"{family}: cells that the playbook does not declare: {listed(extra, 8)}.",
                    "Make the command's lengths and the gate's agree.",
                )
            )
        if twice:
            findings.append(
                _invalid(f"{family}: cells that were measured twice: {listed(twice, 8)}.")
            )
    return findings


def _columns(table: BenchTable) -> list[Finding]:
    lacking = table.lacks(NEEDED)
    if not lacking:
        return []
    return [
        Finding(
            Verdict.NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            f"{table.file} has no column {listed(lacking, len(NEEDED))}, so that cannot be shown.",
            "Measure with this project's benchmark, which records it.",
        )
    ]


def _statuses(rows: Sequence[BenchRow]) -> list[Finding]:
    broken = [row for row in rows if not row.ok]
    if not broken:
        return []
    return [
        Finding(
            Verdict.FAIL,
            Reason.JOB_FAILED,
            f"{counted(len(broken), 'cell')} did not run: "
            + listed(f"L={row.L} ({(row.status or '')[:120]})" for row in broken)
            + ".",
            "Reproduce the smallest of them; a compiler error names the kernel and the shape.",
        )
    ]


def _reference(table: BenchTable, ran: Sequence[BenchRow], limit: float) -> list[Finding]:
    def wrong(message: str) -> Finding:
        return Finding(
            Verdict.INVALID,
            Reason.REFERENCE_WRONG,
            message,
            "Fix the reference first: every speedup against it is meaningless.",
        )

    findings = []
    if "ref_probe" in table.columns:
        blind = [row for row in ran if row.ref_probe != "ok"]
        if blind:
            findings.append(
                wrong(
                    f"The reference does not read all its keys at {_lengths(blind)}: changing one "
                    "left its output as it was "
                    f"(ref_probe: {(blind[0].ref_probe or 'empty')[:80]})."
                )
            )
    if "ref_mae" in table.columns:
        unknown = [row for row in ran if row.ref_mae is None]
        if unknown:
            findings.append(
                Finding(
                    Verdict.NOT_VERIFIED,
                    Reason.NO_EVIDENCE,
                    f"The reference was not checked against the oracle at {_lengths(unknown)}.",
                    _AGAIN,
                )
            )
        off = [row for row in ran if row.ref_mae is not None and not 0 <= row.ref_mae <= limit]
        if off:
            findings.append(
                wrong(
                    f"The reference differs from the fp64 oracle by more than {limit:g}: "
                    + listed(f"MAE {row.ref_mae:.1e} at L={row.L}" for row in off)
                    + "."
                )
            )
    return findings


def _kernel(table: BenchTable, ran: Sequence[BenchRow]) -> list[Finding]:
    if "kernel" not in table.columns:
        return []
    fallbacks = [row for row in ran if not (row.kernel or "").startswith(TRITON_PREFIX)]
    if not fallbacks:
        return []
    named = listed(f"L={row.L} ({(row.kernel or 'no name')[:40]})" for row in fallbacks)
    return [
        Finding(
            Verdict.INVALID,
            Reason.FALLBACK_RAN,
            f"No Triton kernel is shown to have run at {named}: tri_ms timed something else.",
            "Set NSA_USE_TRITON_SEL=1 and a threshold below the smallest length, and read why "
            "dispatch fell back.",
        )
    ]


def _errors(ran: Sequence[BenchRow], limit: float) -> list[Finding]:
    findings = []
    negative = [row for row in ran if row.mae is not None and row.mae < 0]
    if negative:
        findings.append(_invalid(f"{negative[0].where}: a mean absolute error below zero."))
    large = [row for row in ran if row.mae is not None and row.mae > limit]
    if large:
        findings.append(
            Finding(
                Verdict.FAIL,
                Reason.ERROR_TOO_LARGE,
                f"The kernel's mean error is above {limit:g}: "
                + listed(f"{row.mae:.1e} at L={row.L}" for row in large)
                + ".",
                "Check the kernel's softmax (fp32 log-sum-exp, scale) at the smallest such L.",
            )
        )
    return findings


def _times(ran: Sequence[BenchRow]) -> list[Finding]:
    findings = []
    zero = _first(ran, lambda row: min(row.tri_ms or 0, row.ref_ms or 0) <= 0)
    if zero:
        findings.append(_invalid(f"{zero.where}: a time that is not above zero."))
    if odd := _first(ran, _inconsistent):
        findings.append(
            _invalid(
                f"{odd.where}: speedup {odd.speedup:g} is not ref_ms / tri_ms = {odd.ref_ms:g} / "
                f"{odd.tri_ms:g}."
            )
        )
    if outside := _first(ran, _outside):
        findings.append(
            _invalid(
                f"{outside.where}: speedup {outside.speedup:g} lies outside its own interval "
                f"[{outside.speedup_lo:g}, {outside.speedup_hi:g}]."
            )
        )
    return findings


def _inconsistent(row: BenchRow) -> bool:
    if not (row.tri_ms and row.ref_ms and row.tri_ms > 0 and row.ref_ms > 0):
        return False
    slack = _ROUNDING
    if row.contract is None:
        slack += _PRINTED_MS / row.tri_ms + _PRINTED_MS / row.ref_ms
    ratio = row.ref_ms / row.tri_ms
    return abs((row.speedup or 0) - ratio) > slack * ratio


def _outside(row: BenchRow) -> bool:
    if row.speedup_lo is None or row.speedup_hi is None or row.speedup is None:
        return False
    slack = _ROUNDING * abs(row.speedup)
    return not row.speedup_lo - slack <= row.speedup <= row.speedup_hi + slack


def _machine(table: BenchTable, rows: Sequence[BenchRow]) -> list[Finding]:
    if "device" not in table.columns:
        return []
    unnamed = _first(rows, lambda row: row.device is None)
    if unnamed:
        return [
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.NO_EVIDENCE,
                f"{unnamed.where} does not name the device it was measured on.",
                _AGAIN,
            )
        ]
    devices = sorted({row.device for row in rows if row.device})
    if len(devices) < 2:
        return []
    return [_invalid(f"{table.file} mixes devices: {listed(devices)}; it was not one run.")]


def _invalid(message: str, next_step: str = _AGAIN) -> Finding:
    return Finding(Verdict.INVALID, Reason.MALFORMED, message, next_step)


def _first(rows: Sequence[BenchRow], wrong: Callable[[BenchRow], bool]) -> BenchRow | None:
    return next((row for row in rows if wrong(row)), None)


def _lengths(rows: Sequence[BenchRow]) -> str:
    return listed((f"L={row.L}" for row in rows), 8)

"""A bench CSV: whole, one row per declared cell, kernel and reference both right.

Slowness is not judged here; that is the decision's business. What is right and how it was timed is
judged in `reference`, `consistency` and `timing`; physics and machine are gates of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

from pydantic import JsonValue

from kernels.bench.contract import CONTRACT_VERSION, CPU_INTERPRETER
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BASES, LEVELS, SIDES, BenchRow, BenchTable, parse_bench
from orchestrator.evidence.rows import Rows
from orchestrator.gates.consistency import ratio_findings
from orchestrator.gates.errors import error_findings
from orchestrator.gates.findings import (
    AGAIN,
    Finding,
    conclude,
    counted,
    invalid,
    listed,
    malformed,
    unverified,
)
from orchestrator.gates.levels import level_findings
from orchestrator.gates.matrix import not_one_run
from orchestrator.gates.reference import kernel_findings, reference_findings
from orchestrator.gates.statuses import status_findings
from orchestrator.gates.strongest import missed_strongest
from orchestrator.gates.timed import timed_on_a_device
from orchestrator.gates.timing import noise_bound, timing_findings
from orchestrator.models.playbook import BenchGate
from orchestrator.models.verdict import GateResult, Reason, Verdict

NEEDED = (
    "contract", "status", "dist", "dtype", "device", "level", "basis", "ragged", "form",
    "kernel", "kernel_launched", "operator_launched", "reference",
    "max_err", "ref_mae", "ref_max_err", "ref_probe", "tri_probe", "tri_streams", "ref_streams",
)  # fmt: skip
"""Columns beyond the source project's without which a cell proves too little."""
TIMED = (
    "speedup_lo", "speedup_hi", "iters", "warmup", "timer", "settled", "bytes", "flops",
    "launch_us", "torch", "triton",
    *(f"{level}_{basis}" for level in LEVELS for basis in BASES),
    *(f"{side}_{what}" for side in ("tri", "ref") for what in ("p10", "p90", "cv")),
    *(f"{level}_{side}_ms" for level in LEVELS for side in SIDES),
    *(f"{level}_{basis}_{bound}" for level in LEVELS for basis in BASES for bound in ("lo", "hi")),
)  # fmt: skip
"""And these, where a device was timed."""
DECLARED = ("N", "H", "D", "Dv", "nspans", "streams", "dist", "dtype")

NO_TIMING = "none: cpu-interpreter"


def bench_gate(gate: BenchGate, data: bytes) -> GateResult:
    """Judge one CSV."""
    try:
        table = parse_bench(data, gate.file)
    except EvidenceError as error:
        return malformed(f"bench {gate.file}", error)
    return table_gate(gate, table)


def table_gate(gate: BenchGate, table: BenchTable, gpus: Sequence[str] | None = None) -> GateResult:
    """Judge a CSV that was read; `gpus` are those that the pod's facts list, if they do."""
    ran = table.rows.select(table.rows.column("ok"))
    timed = timed_on_a_device(ran)
    families = _families(table.rows)
    lacking = _missing(families, gate)
    findings = [
        *_whole(table),
        *_cells(table.rows, gate, families, lacking),
        *_declared(table.rows, gate),
        *_columns(table, ran, timed),
        *_versions(table.rows),
        *_statuses(table.rows),
        *reference_findings(ran),
        *kernel_findings(ran),
        *error_findings(ran, gate.max_mae),
        *ratio_findings(ran),
        *timing_findings(timed),
        *level_findings(timed),
        *_machine(table, gpus),
    ]
    measured = _measured(table.rows, ran, timed)
    if lacking:
        missing = [f"{family} L={length}" for family, some in lacking for length in some]
        measured["missing"] = list[JsonValue](missing)
    return conclude(f"bench {gate.file}", findings, measured, _passed(ran, measured))


def _measured(
    rows: Rows[BenchRow], ran: Rows[BenchRow], timed: Rows[BenchRow]
) -> dict[str, JsonValue]:
    return {
        "cells": len(rows),
        "lengths": list[JsonValue](sorted(rows.said("L"))),
        "max_mae": max((mae for mae in ran.column("mae") if mae is not None), default=None),
        "max_ref_mae": max((mae for mae in ran.column("ref_mae") if mae is not None), default=None),
        "kernels": list[JsonValue](sorted(filter(None, ran.said("kernel")))),
        "devices": list[JsonValue](sorted(filter(None, rows.said("device")))),
        "timing": NO_TIMING if CPU_INTERPRETER in rows.said("device") else "measured",
        "min_iters": min(ran.said("iters") - {None}, default=None),
        "noise_bound": list[JsonValue](noise_bound(timed)),
        "missed_strongest": [
            missed.said for level in LEVELS for missed in missed_strongest(timed, level)
        ],
    }


def _passed(ran: Sequence[BenchRow], measured: dict[str, JsonValue]) -> str:
    message = (
        f"{counted(len(ran), 'cell')}, none missing: max MAE {measured['max_mae'] or 0:.1e}, "
        f"reference {measured['max_ref_mae'] or 0:.1e}."
    )
    if measured["timing"] == NO_TIMING:
        message += " The times are the CPU interpreter's and count for nothing."
    elif measured["noise_bound"]:
        unsettled = cast(list[JsonValue], measured["noise_bound"])
        message += f" Timing did not settle in {counted(len(unsettled), 'cell')}."
    if missed := cast(list[JsonValue], measured["missed_strongest"]):
        message += f" {counted(len(missed), 'strongest reference')} a longer cell's beats."
    return message


def _whole(table: BenchTable) -> list[Finding]:
    if table.complete:
        return []
    if table.ended:
        return [invalid(f"{table.file} does not hold together: {table.problem}.")]
    return [
        Finding(
            Verdict.NOT_VERIFIED,
            Reason.INCOMPLETE,
            f"{table.file} is not whole: {table.problem}.",
            "Read the step's log for what ended the benchmark early, and run the step again.",
        )
    ]


def _cells(
    rows: Rows[BenchRow],
    gate: BenchGate,
    families: Mapping[str, Counter[int]],
    lacking: Sequence[tuple[str, list[int]]],
) -> list[Finding]:
    """Exactly the declared lengths, once each, in every family that the file holds."""
    findings = []
    wrong = rows.where(lambda mode: mode != gate.mode, "mode")
    if wrong:
        findings.append(
            invalid(f"{wrong[0].where} is a {wrong[0].mode} row; the gate is for {gate.mode}.")
        )
    if odd := rows.where(_scattered, "mode", "dist"):
        findings.append(
            invalid(
                f"{odd[0].where} is a dense row of dist={odd[0].dist}: dense rows have one span, "
                "those of several are varlen."
            )
        )
    if odd := rows.where(_of_fewer, "mode", "ragged"):
        findings.append(
            invalid(
                f"{odd[0].where} is a dense row of ragged={odd[0].ragged}: dense rows have L keys "
                "each, those of fewer are varlen, and it is from L that the least work follows."
            )
        )
    if odd := rows.where(_not_few, "dist", "nspans"):
        findings.append(
            invalid(
                f"{odd[0].where}: dist is few, which is one span a row, and nspans is "
                f"{odd[0].nspans}."
            )
        )
    if torn := rows.where(lambda spans, length: (spans or 1) > length, "nspans", "L"):
        findings.append(
            invalid(
                f"{torn[0].where}: {torn[0].nspans} spans of {torn[0].L} keys: a span has one at "
                "least."
            )
        )
    declared = set(gate.lengths)
    if max(declared) < 2 * min(declared):
        alone = listed((f"L={length}" for length in sorted(declared)), 8)
        findings.append(
            unverified(
                f"{alone} alone shows nothing about the longer ones that a threshold admits.",
                "Declare and measure lengths of which the longest is at least twice the shortest.",
            )
        )
    for family, missing in lacking:
        named = listed((f"L={length}" for length in missing), 8)
        findings.append(
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.INCOMPLETE,
                f"{family}: {counted(len(missing), 'declared cell')} missing: {named}.",
                "Read the step's log for why they were not measured, and run the step again.",
            )
        )
    for family, lengths in families.items():
        extra = [f"L={length}" for length in sorted(lengths) if length not in declared]
        twice = [f"L={length}" for length in sorted(lengths) if lengths[length] > 1]
        if extra:
            findings.append(
                invalid(
                    f"{family}: cells that the playbook does not declare: {listed(extra, 8)}.",
                    "Make the command's lengths and the gate's agree.",
                )
            )
        if twice:
            findings.append(
                invalid(f"{family}: cells that were measured twice: {listed(twice, 8)}.")
            )
    return findings


def _scattered(mode: str, dist: str | None) -> bool:
    return mode == "dense" and dist not in (None, "few")


def _not_few(dist: str | None, spans: int | None) -> bool:
    return dist == "few" and (spans or 1) > 1


def _of_fewer(mode: str, ragged: str | None) -> bool:
    return mode == "dense" and ragged not in (None, "equal")


def _families(rows: Rows[BenchRow]) -> dict[str, Counter[int]]:
    """How often each family has each length."""
    return {family: Counter(some.column("L")) for family, some in rows.by("family").items()}


def _missing(families: Mapping[str, Counter[int]], gate: BenchGate) -> list[tuple[str, list[int]]]:
    """Families that lack declared lengths, and which."""
    lacking = [
        (family, [length for length in gate.lengths if length not in lengths])
        for family, lengths in (families or {gate.mode: Counter[int]()}).items()
    ]
    return [(family, missing) for family, missing in lacking if missing]


def _declared(rows: Rows[BenchRow], gate: BenchGate) -> list[Finding]:
    """Every cell is of the declared shape, distribution and type."""
    findings = []
    for name in DECLARED:
        wanted = getattr(gate, name)
        # what a dense CSV has no column for, or an older file, is not contradicted
        other = rows.where(partial(_contradicts, wanted), name)
        if other:
            findings.append(
                invalid(
                    f"{other[0].where}: {name} is {getattr(other[0], name)}, the playbook declares "
                    f"{wanted}.",
                    "Make the command and the gate agree: what was measured is not what was meant.",
                )
            )
    return findings


def _contradicts(declared: object, said: object) -> bool:
    return declared is not None and said not in (declared, None)


def _columns(table: BenchTable, ran: Rows[BenchRow], timed: Rows[BenchRow]) -> list[Finding]:
    lacking = [*table.lacks(NEEDED), *(table.lacks(TIMED) if timed else ())]
    findings = []
    if lacking:
        findings.append(
            unverified(
                f"{table.file} has no column {listed(lacking, 8)}, so that cannot be shown.",
                "Measure with this project's benchmark, which records it.",
            )
        )
    for names, rows in ((NEEDED, ran), (TIMED, timed)):
        there = [name for name in names if name in table.gaps and name not in lacking]
        if not there:
            continue
        silent = [rows.column(name).index(None) for name in there if None in rows.column(name)]
        row = rows[min(silent)] if silent else None
        if row is not None:
            empty = [name for name in there if getattr(row, name) is None]
            findings.append(
                unverified(f"{row.where} (L={row.L}) does not say {listed(empty, 8)}.", AGAIN)
            )
    return findings


def _versions(rows: Rows[BenchRow]) -> list[Finding]:
    """An older benchmark meant other things by its columns, and checked less."""
    older = rows.where(lambda version: version not in (None, CONTRACT_VERSION), "contract")
    if not older:
        return []
    return [
        unverified(
            f"{older[0].where}: {counted(len(older), 'row')} of contract version "
            f"{older[0].contract}; only version {CONTRACT_VERSION} shows all that is judged.",
            "Measure again with the benchmark of this version.",
        )
    ]


def _statuses(rows: Rows[BenchRow]) -> list[Finding]:
    return status_findings([(row, row.status or "") for row in rows.where(lambda ok: not ok, "ok")])


def _machine(table: BenchTable, gpus: Sequence[str] | None) -> list[Finding]:
    devices = sorted(filter(None, table.rows.said("device")))
    findings = []
    if mixed := list(not_one_run(table.rows)):
        findings.append(invalid(f"{table.file} was not one run on one card: {listed(mixed)}."))
    strange = [d for d in devices if gpus is not None and not _is_there(d, gpus)]
    if strange:
        there = listed(gpus or ()) or "no GPU"
        findings.append(
            invalid(
                f"{table.file} was measured on {listed(strange)}; the pod's facts list {there}.",
                "Measure on the pod itself: a CSV from elsewhere is judged by `orchestrate judge`.",
                Reason.WRONG_GPU,
            )
        )
    return findings


def _is_there(device: str, gpus: Sequence[str]) -> bool:
    """The interpreter is on every pod; torch names a part of a card after the card."""
    own = (device == gpu or device.startswith(f"{gpu} MIG ") for gpu in gpus)
    return device == CPU_INTERPRETER or any(own)

"""Diagnostics: were they collected, and which of the source document's symptoms do they show?

A symptom does not fail the gate, which asks whether diagnostics were obtained. Symptoms lie in
`measured["symptoms"]`, each with where it was seen and the document's remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from pydantic import JsonValue

from kernels.bench.contract import MAX_MAE
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.diagnostics import Call, Diagnostics, by_bucket, parse_diagnostics
from orchestrator.gates.findings import counted, listed, malformed, missing
from orchestrator.models.playbook import DiagnosticsGate
from orchestrator.models.verdict import GateResult, Verdict

NUMERICS = "Verify two-pass FP32 LSE and scaling; check inv_sqrt_d use; ensure no NaNs."
BROADCAST = "Ensure boolean tile masks only; avoid pointer-shaped broadcast."
SPEED = (
    "Confirm the group-centric path (NSA_SEL_TRITON_GROUP=1), review autotune ranges "
    "(num_warps/stages), and reduce read-modify-write on O."
)

_LONG = 128
"""From this length on the document names large errors as a symptom of their own."""
_SHOWN = 6
_MAX_SYMPTOMS = 20
_COMPILER = re.compile(r"mlir|llvm|ptx|compil|broadcast", re.IGNORECASE)

_NOT_FLEX = "; not flex_attention: "
"""What dispatch puts between why Triton did not run and why flex_attention did not."""

Symptom = dict[str, JsonValue]
"""`symptom`, `where`, `remedy`."""


def diagnostics_gate(gate: DiagnosticsGate, data: bytes) -> GateResult:
    """PASS when calls were recorded, whatever they show."""
    name = f"diagnostics {gate.file}"
    try:
        found = parse_diagnostics(data, gate.file)
    except EvidenceError as error:
        return malformed(name, error)
    if not found.calls:
        return missing(name, gate.file, empty=True)
    symptoms = list(_symptoms(found.calls))[:_MAX_SYMPTOMS]
    seen = listed((str(symptom["symptom"]) for symptom in symptoms), _SHOWN)
    return GateResult(
        gate=name,
        verdict=Verdict.PASS,
        message=f"{counted(len(found.calls), 'call')} recorded; "
        + (f"{counted(len(symptoms), 'symptom')}: {seen}." if symptoms else "no known symptom.")
        + (" The last line was cut off: the process died while it wrote." if found.torn else ""),
        measured={**_measured(found), "symptoms": list[JsonValue](symptoms)},
    )


def _measured(found: Diagnostics) -> dict[str, JsonValue]:
    return {
        "calls": len(found.calls),
        "paths": list[JsonValue](sorted({call.path for call in found.calls})),
        "buckets": [
            {
                "bucket": bucket.bucket,
                "path": bucket.path,
                "calls": bucket.calls,
                "ms": bucket.ms,
                "max_mae": bucket.max_mae,
            }
            for bucket in by_bucket(found.calls)
        ],
        "torn": found.torn,
    }


def _symptoms(calls: Sequence[Call]) -> Iterator[Symptom]:
    yield from _numerics(calls)
    yield from _fallbacks(calls)
    yield from _slow(calls)
    yield from _per_head(calls)


def _numerics(calls: Sequence[Call]) -> Iterator[Symptom]:
    infinite = [call for call in calls if call.infinite]
    if infinite:
        yield _symptom("NaN or infinite error", _lengths(infinite), NUMERICS)
    large = sorted(
        (call for call in calls if call.mae is not None and call.mae > MAX_MAE),
        key=lambda call: (call.L, -(call.mae or 0)),
    )
    if large:
        worst: dict[int, Call] = {}
        for call in large:
            worst.setdefault(call.L, call)
        only_long = all(length >= _LONG for length in worst)
        yield _symptom(
            f"Large MAE at L >= {_LONG}" if only_long else f"Large MAE (above {MAX_MAE:g})",
            listed((f"L={c.L}: {c.mae:.1e} ({c.name})" for c in worst.values()), _SHOWN),
            NUMERICS,
        )


def _fallbacks(calls: Sequence[Call]) -> Iterator[Symptom]:
    by_reason: dict[str, list[Call]] = {}
    for call in calls:
        if not call.triton:
            by_reason.setdefault(call.reason, []).append(call)
    for reason, fallen in by_reason.items():
        said = reason.strip().rstrip(".") or "none"
        # why the better fallback did not run either is no matter of our kernels
        if _COMPILER.search(reason.partition(_NOT_FLEX)[0]):
            yield _symptom(
                "MLIR/broadcast shape issue, a fallback ran",
                f"{_lengths(fallen)}; recorded reason: {said}",
                BROADCAST,
            )
        else:
            paths = listed(sorted({call.path for call in fallen}))
            yield _symptom(
                f"A fallback ran ({paths})",
                f"{_lengths(fallen)}, {counted(len(fallen), 'call')}",
                f"Remove the recorded reason: {said}.",
            )


def _slow(calls: Sequence[Call]) -> Iterator[Symptom]:
    """Triton slower than the reference, in the same call or in equal calls of both."""
    slower: dict[int, str] = {}
    equal: dict[tuple[int, str | None], list[Call]] = {}
    for call in calls:
        if call.triton and call.ms is not None and call.ref_ms is not None:
            _compare(slower, call.L, call.ms, call.ref_ms)
        elif call.ms is not None:
            equal.setdefault((call.L, call.shapes), []).append(call)
    for (length, _shapes), group in equal.items():
        ours = [call.ms for call in group if call.triton and call.ms is not None]
        reference = [call.ms for call in group if not call.triton and call.ms is not None]
        if ours and reference:
            _compare(slower, length, median(ours), median(reference))
    if slower:
        where = listed((slower[length] for length in sorted(slower)), _SHOWN)
        yield _symptom("Underperformance: Triton is slower than the reference", where, SPEED)


def _compare(slower: dict[int, str], length: int, ours: float, reference: float) -> None:
    if ours > reference:
        slower.setdefault(length, f"L={length}: {ours:.3g} ms against {reference:.3g} ms")


def _per_head(calls: Sequence[Call]) -> Iterator[Symptom]:
    """Buckets in which heads ran one by one only; tests of both forms run both."""
    grouped = {call.bucket for call in calls if call.in_group}
    alone = [call for call in calls if call.per_head and call.bucket not in grouped]
    if alone:
        yield _symptom(
            "Underperformance: the per-head path ran, the group-centric one is available",
            f"{_lengths(alone)} ({listed(sorted({call.name for call in alone}))})",
            SPEED,
        )


def _lengths(calls: Iterable[Call]) -> str:
    return listed((f"L={length}" for length in sorted({call.L for call in calls})), _SHOWN)


def _symptom(symptom: str, where: str, remedy: str) -> Symptom:
    return {"symptom": symptom, "where": where, "remedy": remedy}

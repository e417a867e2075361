"""The gates of one step: facts of its result, and artifacts whose checksums still hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, BenchTable, parse_bench
from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry
from orchestrator.gates.bench import table_gate
from orchestrator.gates.environment import device_gate, landing_gate, resources_gate, sync_gate
from orchestrator.gates.findings import Finding, conclude, malformed
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import Read, judge_gate
from orchestrator.gates.machine import machine_gate
from orchestrator.gates.physics import physics_gate
from orchestrator.models.playbook import (
    BenchGate,
    Gate,
    JobStep,
    LandStep,
    ProvisionStep,
    Step,
    SyncStep,
)
from orchestrator.models.run import RunPlan, StepResult
from orchestrator.models.verdict import GateResult, Reason, Verdict
from orchestrator.store.paths import RunPaths
from orchestrator.store.runs import read_result

TELEMETRY = "telemetry.csv"
"""What the agent calls its samples, among the job's artifacts."""
T = TypeVar("T")


def gates_of(
    plan: RunPlan,
    paths: RunPaths,
    step: Step,
    result: StepResult,
    gpus: Sequence[str] | None = None,
) -> list[GateResult]:
    """Judge what the step has left; `gpus` are those that the pod has, None where unknown."""
    match step:
        case SyncStep():
            return [sync_gate(result)]
        case LandStep():
            return [landing_gate(result)]
        case ProvisionStep():
            devices = [r for r in step.resources if r.resource == "device"]
            gates = [resources_gate(step, result)]
            if gates[0].verdict is Verdict.PASS:
                gates += [device_gate(device, plan.pod, result) for device in devices]
            return gates
        case JobStep():
            return _gates_of_job(paths, step, result, gpus)
        case _:
            raise AssertionError(f"no gates for {step.action}")


def bench_rows(plan: RunPlan, paths: RunPaths, source: str) -> list[BenchRow]:
    """Rows of `step/file`; none when it is missing or unreadable (its gate says so)."""
    step_id, _, name = source.partition("/")
    for phase in plan.playbook.phases:
        result = read_result(paths, phase.id, step_id)
        if result is None:
            continue
        try:
            data = read_artifact(paths, result, name)
            return list(_parsed(data, name).rows) if data is not None else []
        except EvidenceError:
            return []
    return []


def read_artifact(paths: RunPaths, result: StepResult, name: str) -> bytes | None:
    """Content of an artifact as it was pulled; None when the job left none.

    Raises:
        EvidenceError: it is not what was pulled.
    """
    artifact = next((a for a in result.artifacts if a.path == name), None)
    if artifact is None:
        return None
    file: Path = paths.attempt(result.phase, result.step, result.attempt).artifacts / name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EvidenceError(f"it was pulled, and is gone: {error.strerror}", file=name) from None
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise EvidenceError("it was changed after it was pulled: its SHA-256 differs", file=name)
    return data


def _gates_of_job(
    paths: RunPaths, step: JobStep, result: StepResult, gpus: Sequence[str] | None
) -> list[GateResult]:
    def read(name: str) -> bytes | None:
        return read_artifact(paths, result, name)

    gates = [*_ending(step, result), *_quarantine(result)]
    for gate in step.gates:
        gates += _judged(gate, read, gpus)
    read_by_gates = {gate.file for gate in step.gates}
    read_by_gates |= {canary_file(gate.file) for gate in step.gates if gate.gate == "bench"}
    ungated = [name for name in step.artifacts if name not in read_by_gates]
    if ungated:
        gates.append(_artifacts_gate(ungated, result))
    return gates


def _judged(gate: Gate, read: Read, gpus: Sequence[str] | None) -> list[GateResult]:
    try:
        if isinstance(gate, BenchGate):
            return _bench_gates(gate, read, gpus)
        return [judge_gate(gate, read)]
    except EvidenceError as error:
        return [malformed(f"{gate.gate} {gate.file}", error)]


def _bench_gates(gate: BenchGate, read: Read, gpus: Sequence[str] | None) -> list[GateResult]:
    """What a bench CSV shows, whether it can be true, and what the machine did meanwhile.

    Raises:
        EvidenceError: the CSV cannot be read as one.
    """
    data = read(gate.file)
    if data is None or not data.strip():
        return [judge_gate(gate, read)]
    table = _parsed(data, gate.file)
    gates = [table_gate(gate, table, gpus)]
    if not any(row.ok for row in table.rows):
        return gates
    try:
        canary = _optional(read, canary_file(gate.file), parse_canary)
        telemetry = _optional(read, TELEMETRY, parse_telemetry)
    except EvidenceError as error:
        return [*gates, malformed(f"machine {gate.file}", error)]
    l2, launch_us = (canary.l2_tb_per_s, canary.launch_us) if canary else (None, None)
    gates.append(physics_gate(gate.file, table.rows, l2_tb_per_s=l2, launch_us=launch_us))
    gates.append(machine_gate(gate.file, table.rows, telemetry, canary))
    return gates


@lru_cache(maxsize=4)
def _parsed(data: bytes, name: str) -> BenchTable:
    """Read once for the gates and once more for the decision: large tables take their time."""
    return parse_bench(data, name)


def _optional(read: Read, name: str, parse: Callable[[bytes, str], T]) -> T | None:
    data = read(name)
    return parse(data, name) if data is not None and data.strip() else None


def canary_file(bench: str) -> str:
    """What the benchmark calls the canary beside this CSV."""
    return f"{bench.removesuffix('.csv')}.canary.csv"


def _ending(step: JobStep, result: StepResult) -> list[GateResult]:
    """How the job ended; diagnostics of what breaks may well break, and are no less worth."""
    if result.job is None:
        return []
    gate = job_gate(result.job)
    diagnosing = any(gate.gate == "diagnostics" for gate in step.gates)
    return [] if diagnosing and gate.verdict is not Verdict.INFRA else [gate]


def _quarantine(result: StepResult) -> list[GateResult]:
    """A job that writes a secret down has left no evidence that anybody may be shown."""
    lines = result.details.get("quarantined")
    if not isinstance(lines, list) or not lines:
        return []
    finding = Finding(
        Verdict.INVALID,
        Reason.SECRET_EXPOSED,
        f"Not pulled, for a secret is in it: {'; '.join(map(str, lines))}.",
        "Remove the file from the job's out/ on the pod, change the secret where others can read "
        "that, and have the command not write it down.",
    )
    return [conclude("secrets", [finding], {"quarantined": lines}, "")]


def _artifacts_gate(names: list[str], result: StepResult) -> GateResult:
    """Files that the job must leave and no other gate reads."""
    left = {artifact.path for artifact in result.artifacts}
    refused = result.details.get("refused")
    why = f"; refused: {'; '.join(map(str, refused))}" if isinstance(refused, list) else ""
    findings = [
        Finding(
            Verdict.NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            f"The job left no {name}{why}.",
            "Read the step's log for why it was not written, and run the step again.",
        )
        for name in names
        if name not in left
    ]
    passed = f"{', '.join(names)} left."
    return conclude("artifacts", findings, {"artifacts": list(names)}, passed)

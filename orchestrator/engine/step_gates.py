"""The gates of one step: facts of its result, and artifacts whose checksums still hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.gates.environment import device_gate, landing_gate, resources_gate, sync_gate
from orchestrator.gates.findings import Finding, conclude, malformed
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import JobStep, LandStep, ProvisionStep, Step, SyncStep
from orchestrator.models.run import RunPlan, StepResult
from orchestrator.models.verdict import GateResult, Reason, Verdict
from orchestrator.store.paths import RunPaths
from orchestrator.store.runs import read_result


def gates_of(plan: RunPlan, paths: RunPaths, step: Step, result: StepResult) -> list[GateResult]:
    """Judge what the step has left."""
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
            return _gates_of_job(paths, step, result)
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
            return list(parse_bench(data, name).rows) if data is not None else []
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


def _gates_of_job(paths: RunPaths, step: JobStep, result: StepResult) -> list[GateResult]:
    gates = [*_ending(step, result), *_quarantine(result)]
    for gate in step.gates:

        def read(name: str) -> bytes | None:
            return read_artifact(paths, result, name)

        try:
            gates.append(judge_gate(gate, read))
        except EvidenceError as error:
            gates.append(malformed(f"{gate.gate} {gate.file}", error))
    ungated = [name for name in step.artifacts if name not in {gate.file for gate in step.gates}]
    if ungated:
        gates.append(_artifacts_gate(ungated, result))
    return gates


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

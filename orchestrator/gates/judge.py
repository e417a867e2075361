"""Which gate judges what."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.gates.bench import bench_gate
from orchestrator.gates.diagnostics import diagnostics_gate
from orchestrator.gates.findings import missing
from orchestrator.gates.junit import tests_gate
from orchestrator.gates.parity import parity_gate
from orchestrator.models.playbook import DiagnosticsGate, Gate, ParityGate, TestsGate
from orchestrator.models.verdict import GateResult

Read = Callable[[str], bytes | None]
"""Content of an artifact by name; None when the job left none."""


def judge_gate(gate: Gate, read: Read) -> GateResult:
    """Judge one gate by the artifact it names."""
    data = read(gate.file)
    if data is None or not data.strip():
        return missing(f"{gate.gate} {gate.file}", gate.file, empty=data is not None)
    if isinstance(gate, TestsGate):
        return tests_gate(gate, data)
    if isinstance(gate, ParityGate):
        return parity_gate(gate, data)
    if isinstance(gate, DiagnosticsGate):
        return diagnostics_gate(gate, data)
    return bench_gate(gate, data)

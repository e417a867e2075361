"""Judging one file by one gate, with what holds for every result."""

from __future__ import annotations

from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import Gate
from orchestrator.models.verdict import GateResult, Reason, Verdict


def judged(gate: Gate, data: bytes | None) -> GateResult:
    """The gate's result; `data` is None where the job left no file."""
    result = judge_gate(gate, {gate.file: data}.get)
    assert result.gate == f"{gate.gate} {gate.file}"
    assert result.message.endswith(".")
    assert (result.next_step is None) == (result.verdict is Verdict.PASS)
    assert GateResult.model_validate_json(result.model_dump_json()) == result
    return result


def refused(
    gate: Gate, data: bytes | None, verdict: Verdict, reason: Reason, *words: str
) -> GateResult:
    """The same, which must be this refusal, in these words."""
    result = judged(gate, data)
    assert (result.verdict, result.reason) == (verdict, reason), result.message
    for word in words:
        assert word in result.message
    return result

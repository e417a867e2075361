"""`--waive GATE --reason TEXT`: a gate that someone answers for, in every report and commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.config.hints import did_you_mean, listing, shown
from orchestrator.errors import UsageError
from orchestrator.models.playbook import BenchGate, JobStep, Playbook
from orchestrator.models.verdict import GateResult, Verdict, Waiver

WAIVABLE = (Verdict.FAIL, Verdict.NOT_VERIFIED)
"""A shortfall can be answered for. INVALID is evidence that cannot be true: whoever waives it does
not know what he waives; and INFRA says nothing about the experiment."""


def waivers_of(playbook: Playbook, gates: Sequence[str], reasons: Sequence[str]) -> list[Waiver]:
    """The command line's waivers, each gate with the reason that follows it.

    Raises:
        UsageError: a gate that the playbook does not have, or one without a reason.
    """
    if len(gates) != len(reasons) or not all(reason.strip() for reason in reasons):
        raise UsageError(
            f"{len(gates)} --waive and {len(reasons)} --reason: each waiver needs a reason",
            remedy='write --waive "bench sel_dense.csv" --reason "why it does not matter here"',
        )
    known = list(dict.fromkeys(_names(playbook)))
    for gate in gates:
        if gate not in known:
            raise UsageError(
                f"there is no gate {shown(gate)} to waive{did_you_mean(gate, known)}",
                remedy=f"gates: {listing(known)}",
            )
    return [
        Waiver(gate=gate, reason=" ".join(reason.split()))
        for gate, reason in zip(gates, reasons, strict=True)
    ]


def _names(playbook: Playbook) -> Iterator[str]:
    for phase in playbook.phases:
        for step in phase.steps:
            for gate in step.gates if isinstance(step, JobStep) else ():
                yield f"{gate.gate} {gate.file}"
                if isinstance(gate, BenchGate):
                    yield f"physics {gate.file}"
                    yield f"machine {gate.file}"


def waived(result: GateResult, waivers: Sequence[Waiver]) -> GateResult:
    """The result as it counts: PASS where it is waived and may be, with what it was."""
    waiver = next((waiver for waiver in waivers if waiver.gate == result.gate), None)
    if waiver is None or result.verdict is Verdict.PASS:
        return result
    if result.verdict not in WAIVABLE:
        note = f" It cannot be waived: {result.verdict.value} evidence has nothing to answer for."
        return result.model_copy(update={"message": result.message + note})
    return result.model_copy(
        update={
            "verdict": Verdict.PASS,
            "message": f"WAIVED ({waiver.reason}). {result.verdict.value}: {result.message}",
            "measured": {**result.measured, "waived": result.verdict.value},
            "waiver": waiver,
            "next_step": None,
        }
    )

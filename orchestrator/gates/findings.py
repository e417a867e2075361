"""What every family of gates shares: collect what is wrong, then let the worst of it decide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.models.verdict import GateResult, Reason, Verdict, worst

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a gate from PASS, as a sentence, and what to do about it."""

    verdict: Verdict
    reason: Reason
    message: str
    next_step: str


AGAIN = "Run the step again; if it stays, look at how the benchmark writes the row."


def unverified(message: str, next_step: str, reason: Reason = Reason.NO_EVIDENCE) -> Finding:
    """A finding that something was not shown."""
    return Finding(Verdict.NOT_VERIFIED, reason, message, next_step)


def invalid(message: str, next_step: str = AGAIN, reason: Reason = Reason.MALFORMED) -> Finding:
    """Evidence that cannot be true."""
    return Finding(Verdict.INVALID, reason, message, next_step)


def lengths_of(rows: Iterable[Row]) -> str:
    """`L=64, L=128 and 3 more`."""
    return listed((f"L={length}" for length in dict.fromkeys(Rows.of(rows).column("L"))), 8)


def conclude(
    gate: str, findings: Sequence[Finding], measured: dict[str, JsonValue], passed: str
) -> GateResult:
    """PASS with the message `passed`, or the worst finding, with the others beside it.

    `findings` in `measured` has each with its reason and its own remedy, the worst first.
    """
    if not findings:
        return GateResult(gate=gate, verdict=Verdict.PASS, message=passed, measured=measured)
    verdict = worst(finding.verdict for finding in findings)
    first = next(finding for finding in findings if finding.verdict is verdict)
    others = [finding for finding in findings if finding is not first]
    message = first.message
    if others:
        message += " Also: " + " ".join(finding.message for finding in others[: _SHOWN - 1])
        if len(others) >= _SHOWN:
            message += f" And {len(others) - _SHOWN + 1} more."
    return GateResult(
        gate=gate,
        verdict=verdict,
        reason=first.reason,
        message=message,
        measured={**measured, "findings": [_as_json(f) for f in (first, *others)]},
        next_step=first.next_step,
    )


def _as_json(finding: Finding) -> JsonValue:
    return {
        "verdict": finding.verdict.value,
        "reason": finding.reason.value,
        "message": finding.message,
        "next_step": finding.next_step,
    }


def malformed(gate: str, error: EvidenceError) -> GateResult:
    """The file is not what it claims to be."""
    remedy = error.remedy or f"Look at {error.file} for what it really is, and measure again."
    return conclude(
        gate,
        [invalid(f"The file cannot be read as evidence: {error}.", remedy)],
        {"file": error.file, "line": error.line, "column": error.column},
        "",
    )


_UNWRITTEN = "Read the step's log for why it was not written, and run the step again."


def missing(
    gate: str, file: str, *, empty: bool = False, next_step: str = _UNWRITTEN
) -> GateResult:
    """The job left no such file, or an empty one."""
    what = f"{file} is empty" if empty else f"The job left no {file}"
    return conclude(gate, [unverified(f"{what}, so there is nothing to judge.", next_step)], {}, "")


def listed(names: Iterable[object], shown: int = _SHOWN, *, between: str = ", ") -> str:
    """`a, b, c and 4 more`; clauses that hold commas themselves need another `between`."""
    words = [str(name) for name in names]
    more = len(words) - shown
    return between.join(words[:shown]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """`1 test`, `2 tests`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_sentence(text: str) -> str:
    """Up to the first full stop that a capital follows: no file name or number ends a sentence."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text, maxsplit=1)[0]

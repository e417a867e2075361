"""What a decision rests on beside its rows: gates that all passed."""

from __future__ import annotations

from orchestrator.models.verdict import GateResult, Verdict

NAMES = ("tests p.xml", "parity p.xml", "bench sel_dense.csv", "bench sel_varlen.csv")
GATES = tuple(
    GateResult(gate=name, verdict=Verdict.PASS, message="Fine.", measured={"n": 1})
    for name in NAMES
)
LENGTHS = (64, 128, 256)

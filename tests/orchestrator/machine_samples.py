"""What watched a card: telemetry and a canary, quiet or edited, and the machine gate on them."""

from __future__ import annotations

from pathlib import Path

from evidence_samples import RTX_4090, bench_rows, row

from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import GateResult

FIXTURES = Path(__file__).parent / "fixtures" / "machine"
BEGAN = 1763900000000


def telemetry(name: str = "quiet.csv"):
    return parse_telemetry((FIXTURES / name).read_bytes(), name)


def canary(name: str = "steady.canary.csv"):
    return parse_canary((FIXTURES / name).read_bytes(), name)


def judged(samples=None, probes=None, **changes: object) -> GateResult:
    cell = row("dense", 64, **{"began_ms": BEGAN, "ended_ms": BEGAN + 1500, **changes})
    return machine_gate(
        "sel_dense.csv", bench_rows("dense", cell), samples or telemetry(), probes or canary()
    )


def sample(when: int, *, sm: int, bits: int, busy: int, foreign: int, gpu: int = 0) -> str:
    return f"{when},{gpu},{RTX_4090},{sm},2520,10501,90,61,{bits:#018x},{busy},0,0,{foreign},"


def edited(name: str, *changes: tuple[str, str]) -> bytes:
    """A fixture with some texts replaced, each of which is there."""
    text = (FIXTURES / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text.encode()

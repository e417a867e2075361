"""What watched a card: telemetry and a canary, quiet or edited, and the machine gate on them."""

from __future__ import annotations

from pathlib import Path

from evidence_samples import RTX_4090, bench_rows, row

from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import GateResult

MACHINE = Path(__file__).parent / "fixtures" / "machine"
BEGAN = 1763900000000


def telemetry(name: str = "quiet.csv"):
    return parse_telemetry((MACHINE / name).read_bytes(), name)


def canary(name: str = "steady.canary.csv"):
    return parse_canary((MACHINE / name).read_bytes(), name)


def judged(samples=None, probes=None, **changes: object) -> GateResult:
    cell = row("dense", 64, **{"began_ms": BEGAN, "ended_ms": BEGAN + 1500, **changes})
    return machine_gate(
        "sel_dense.csv", bench_rows("dense", cell), samples or telemetry(), probes or canary()
    )


def sample(when: int, *, sm: int, bits: int, busy: int, foreign: int, gpu: int = 0) -> str:
    return f"{when},{gpu},{RTX_4090},{sm},2520,10501,90,61,{bits:#018x},{busy},0,0,{foreign},"


def edited(name: str, *changes: tuple[str, str]) -> bytes:
    """A fixture with some texts replaced, each of which is there."""
    text = (MACHINE / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return retimed(text).encode()


def retimed(text: str) -> str:
    """The same, each row of a canary with the `ms` in which its work comes to its value."""
    lines = []
    for line in text.splitlines():
        fields = line.split(",")
        if fields[0] in ("before", "after"):
            value, (done, flops) = float(fields[2]), map(float, fields[6:8])
            taken = {"GB/s": done / 1e6, "TFLOP/s": flops / 1e9}.get(fields[3])
            fields[5] = f"{taken / value if taken else value / 1e3:.6g}"
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"

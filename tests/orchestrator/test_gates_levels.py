"""The two levels of a row against each other: weak references, and what was measured once."""

from __future__ import annotations

import pytest
from evidence_samples import csv_of, row
from gate_checks import judged, refused

from orchestrator.models.playbook import BenchGate
from orchestrator.models.verdict import Reason, Verdict

LENGTHS = (64, 128, 256)
GATE = BenchGate(gate="bench", file="sel_dense.csv", mode="dense", lengths=list(LENGTHS))
PAIRS = [(level, basis) for level in ("kernel", "operator") for basis in ("shipped", "strongest")]


def table(times, **changes: object) -> bytes:
    """Rows of a 4090 with these times in ms at L=64, all of them as many times as L is 64."""
    rows = []
    for length in LENGTHS:
        # no two rows alike but for their length
        ms = {name: value * length / 64 * (1 + length * 1e-5) for name, value in times.items()}
        told: dict[str, object] = {f"{name}_ms": value for name, value in ms.items()}
        for level, basis in PAIRS:
            ratio = ms[f"{level}_{basis}"] / ms[f"{level}_tri"]
            told |= {f"{level}_{basis}_lo": 0.97 * ratio, f"{level}_{basis}_hi": 1.03 * ratio}
        ours, theirs = ms["operator_tri"], ms["operator_strongest"]
        told |= {"tri_ms": ours, "ref_ms": theirs, "speedup": theirs / ours}
        told |= {bound: told[f"operator_strongest_{bound[-2:]}"] for bound in _BOUNDS}
        for side, own in (("tri", ours), ("ref", theirs)):
            told |= {f"{side}_p10": 0.98 * own, f"{side}_p90": 1.05 * own}
        rows.append(row("dense", length, **{**told, **changes}))
    return csv_of("dense", *rows)


_BOUNDS = ("speedup_lo", "speedup_hi")
HONEST = {
    # what the card needs for L=64 is 0.0354 ms
    "kernel_tri": 0.04, "kernel_shipped": 0.06, "kernel_strongest": 0.05,
    "operator_tri": 0.045, "operator_shipped": 0.105, "operator_strongest": 0.1,
}  # fmt: skip


def test_honest_levels_pass() -> None:
    assert judged(GATE, table(HONEST)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # its gather is a Python loop
        (
            {"operator_strongest": 9.0, "operator_shipped": 9.1},
            ("operator level is none", "sdpa_packed takes 9.0", "(0.106 ms of memory traffic)"),
        ),
        # ten calls in a graph, and not divided by ten
        (
            {name: 10 * HONEST[name] for name in HONEST if "tri" not in name},
            ("kernel level is none", "where the card needs 0.0354 ms", "3 such rows"),
        ),
    ],
)
def test_a_strongest_reference_that_is_none(changes, words) -> None:
    found = refused(GATE, table(HONEST | changes), Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE, *words)
    assert "Python loop" in (found.next_step or "")


@pytest.mark.parametrize(
    ("side", "whose"),
    [("tri", "the kernel"), ("strongest", "the strongest reference"), ("shipped", "the shipped")],
)
def test_a_side_that_was_measured_at_one_level_only(side: str, whose: str) -> None:
    """Packed once, outside of its time; or copied from the other level."""
    cheap = {"operator_strongest": 0.055, "operator_shipped": 0.0605}
    times = HONEST | cheap | {f"operator_{side}": HONEST[f"kernel_{side}"]}
    refused(GATE, table(times), Verdict.INVALID, Reason.ONE_SIDED, f"{whose}", "at both levels")


@pytest.mark.parametrize(
    "changes",
    [{"device": "NVIDIA A1000"}, {"device": "NVIDIA H200 MIG 1g.18gb"}, {"form": "decode"}],
)
def test_what_no_peak_is_known_of_is_not_called_weak(changes) -> None:
    slow = {name: 40 * ms if "tri" not in name else ms for name, ms in HONEST.items()}
    assert "is none" not in judged(GATE, table(slow, **changes)).message

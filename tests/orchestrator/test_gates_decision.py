from __future__ import annotations

import pytest
from evidence_samples import bench_rows, interpreted, row
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.gates import decide
from orchestrator.models.verdict import GateResult, Outcome, Reason, Verdict

NAMES = ("tests p.xml", "parity p.xml", "bench sel_dense.csv", "bench sel_varlen.csv")
GATES = tuple(
    GateResult(gate=name, verdict=Verdict.PASS, message="Fine.", measured={"n": 1})
    for name in NAMES
)
FAILED = GateResult(
    gate="parity p.xml", verdict=Verdict.FAIL, message="Off.", reason=Reason.ERROR_TOO_LARGE
)
LENGTHS = (64, 128, 256)


def timed(mode: str, *bounds: float, **changes: object):
    """Rows whose lower bounds of the speedup are these, from L=64 on."""
    rows = (
        row(mode, length, speedup_lo=low, **changes)
        for length, low in zip(LENGTHS, bounds, strict=False)
    )
    return bench_rows(mode, *rows)


def decided(dense, varlen, gates=GATES, margin=1.2, **more):
    return decide(dense, varlen, margin, gates, **more)


def test_enable_from_the_smallest_length_that_holds_for_all_longer_ones():
    decision = decided(timed("dense", 1.5, 1.3, 1.4), timed("varlen", 1.0, 1.25, 1.9))
    assert (decision.outcome, decision.min_L) == (Outcome.ENABLE, 128)
    assert decision.summary.startswith("ENABLE from L=128: on NVIDIA GeForce RTX 4090 every")
    assert "Below that: varlen many" in decision.summary


def test_one_slow_long_length_moves_it():
    decision = decided(timed("dense", 1.5, 1.1, 1.4), timed("varlen", 1.5, 1.5, 1.5))
    assert decision.min_L == 256


def test_keep_off():
    slow = timed("dense", 1.5, 1.5, 0.4), timed("varlen", 1.5, 1.5, 1.5)
    decision = decided(*slow)
    assert (decision.outcome, decision.min_L) == (Outcome.KEEP_OFF, 2048)
    assert "speedup 0.400" in decision.summary
    assert decided(*slow, current_min_L=4096).min_L == 4096


def test_the_interpreter_alone_is_one_reason():
    rows = [
        bench_rows(mode, *(interpreted(mode, length) for length in LENGTHS))
        for mode in ("dense", "varlen")
    ]
    decision = decided(*rows)
    assert decision.outcome is Outcome.UNDECIDED
    assert [obstacle.reason for obstacle in decision.obstacles] == [Reason.NO_CUDA_DEVICE]
    assert decision.summary == (
        "UNDECIDED: the pod has no CUDA device, so no timing counts; parity and completeness "
        "were verified."
    )
    with_failure = decided(*rows, gates=(*GATES, FAILED))
    assert {o.reason for o in with_failure.obstacles} == {
        Reason.ERROR_TOO_LARGE,
        Reason.NO_CUDA_DEVICE,
    }


GOOD = timed("dense", 1.5, 1.5, 1.5), timed("varlen", 1.5, 1.5, 1.5)
HALF = bench_rows("dense", row("dense", 64), interpreted("dense", 128))


@pytest.mark.parametrize(
    ("dense", "varlen", "gates", "reason", "word"),
    [
        (*GOOD, (*GATES, FAILED), Reason.ERROR_TOO_LARGE, "parity p.xml: Off."),
        (*GOOD, (), Reason.NOT_RUN, "No gate has judged"),
        ((), GOOD[1], GATES, Reason.NO_EVIDENCE, "no dense measurements"),
        (GOOD[0], (), GATES, Reason.NO_EVIDENCE, "no varlen measurements"),
        (HALF, GOOD[1], GATES, Reason.NO_CUDA_DEVICE, "1 of 5 rows"),
        (GOOD[0] * 2, GOOD[1], GATES, Reason.MALFORMED, "measured twice"),
        (GOOD[1], GOOD[1], GATES, Reason.MALFORMED, "is a varlen row among the dense"),
        (
            timed("dense", 1.5, device=""),
            GOOD[1],
            GATES,
            Reason.NO_EVIDENCE,
            "does not name the device",
        ),
        (
            timed("dense", 1.5, 1.5, 1.5, device="NVIDIA L4"),
            GOOD[1],
            GATES,
            Reason.WRONG_GPU,
            "NVIDIA GeForce RTX 4090, NVIDIA L4",
        ),
        (
            bench_rows("dense", row("dense", 64, status="error: MLIR", speedup_lo="", speedup="")),
            GOOD[1],
            GATES,
            Reason.MALFORMED,
            "sel_dense.csv, line 2",
        ),
    ],
)
def test_undecided(dense, varlen, gates, reason, word):
    decision = decided(dense, varlen, gates)
    assert decision.outcome is Outcome.UNDECIDED
    assert decision.min_L is None
    assert reason in {obstacle.reason for obstacle in decision.obstacles}
    assert any(word in obstacle.message for obstacle in decision.obstacles)


BOUNDS = st.tuples(*(st.sampled_from([0.5, 1.1, 1.2, 1.3, 2.0]) for _ in LENGTHS))
MARGINS = st.sampled_from([1.0, 1.15, 1.2, 1.5])


@settings(deadline=None)
@given(BOUNDS, BOUNDS, MARGINS, st.permutations(range(3)))
def test_enable_never_admits_a_length_below_the_margin(dense, varlen, margin, order):
    rows = timed("dense", *dense), timed("varlen", *varlen)
    decision = decided(*rows, margin=margin)
    if decision.outcome is Outcome.ENABLE:
        for bounds in (dense, varlen):
            admitted = [
                low for length, low in zip(LENGTHS, bounds, strict=True) if length >= decision.min_L
            ]
            assert min(admitted) >= margin
    shuffled = decided([rows[0][n] for n in order], [rows[1][n] for n in order], margin=margin)
    assert shuffled.min_L == decision.min_L
    stricter = decided(*rows, margin=margin + 0.2)
    if stricter.outcome is Outcome.ENABLE:
        assert decision.outcome is Outcome.ENABLE
        assert decision.min_L <= stricter.min_L


@pytest.mark.parametrize("left_out", NAMES)
def test_what_no_gate_has_judged_decides_nothing(left_out):
    decision = decided(*GOOD, gates=[gate for gate in GATES if gate.gate != left_out])
    assert decision.outcome is Outcome.UNDECIDED
    assert [obstacle.reason for obstacle in decision.obstacles] == [Reason.NOT_RUN]


@pytest.mark.parametrize("device", ["cpu-interpreter", "NVIDIA L4"])
def test_parity_on_another_device_decides_nothing(device):
    parity = GateResult(
        gate="parity p.xml", verdict=Verdict.PASS, message="Fine.", measured={"devices": [device]}
    )
    decision = decided(*GOOD, gates=[*(g for g in GATES if g.gate != "parity p.xml"), parity])
    assert decision.outcome is Outcome.UNDECIDED
    assert [obstacle.reason for obstacle in decision.obstacles] == [Reason.WRONG_GPU]

"""The decision: enabled, kept off, or what it lacks to be either."""

from __future__ import annotations

import pytest
from decision_samples import GATES, LENGTHS, NAMES
from evidence_samples import RTX_4090, bench_rows, interpreted, row

from orchestrator.engine.waivers import waived
from orchestrator.gates.decision import decide
from orchestrator.models.verdict import GateResult, Outcome, Reason, Verdict, Waiver

FAILED = GateResult(
    gate="parity p.xml", verdict=Verdict.FAIL, message="Off.", reason=Reason.ERROR_TOO_LARGE
)
LONG = (2048, 4096, 8192)


def timed(mode: str, *bounds: float, **changes: object):
    """Rows whose lower bounds of the speedup are these, from L=64 on."""
    rows = (
        row(mode, length, speedup_lo=low, **changes)
        for length, low in zip(LENGTHS, bounds, strict=False)
    )
    return bench_rows(mode, *rows)


GOOD = timed("dense", 1.5, 1.5, 1.5), timed("varlen", 1.5, 1.5, 1.5)


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


def test_keep_off_is_above_every_length_that_lost():
    tables = [
        bench_rows(mode, *(row(mode, length, speedup_lo=0.49, speedup_hi=0.51) for length in LONG))
        for mode in ("dense", "varlen")
    ]
    decision = decided(*tables)
    assert (decision.outcome, decision.min_L) == (Outcome.KEEP_OFF, 8193)


def slow_reference(factor: float, low: float) -> tuple:
    """GOOD, but for a reference at L=64 that takes `factor` times as long as that at L=128."""
    scale = 128 / 64 * factor
    at_64 = row(
        "dense", 64, speedup=low * 1.02, speedup_lo=low, speedup_hi=low * 1.04,
        tri_ms=0.15 * scale / (low * 1.02), ref_ms=0.15 * scale,
    )  # fmt: skip
    rest = (row("dense", length, speedup_lo=1.5) for length in (128, 256))
    return bench_rows("dense", at_64, *rest), GOOD[1]


def test_a_reference_that_a_longer_cell_beats_counts_for_no_more_than_that():
    """The longer cell's time is the most that the strongest can take at the shorter length."""
    certain = slow_reference(1.5, 3.0)  # at least 3.0 / 1.5, well above the margin
    assert decided(*certain).min_L == 64
    doubtful = slow_reference(1.5, 1.6)  # 1.07 perhaps: below it
    decision = decided(*doubtful)
    assert decision.outcome is Outcome.UNDECIDED
    (obstacle,) = decision.obstacles
    assert obstacle.reason is Reason.NO_EVIDENCE
    assert "the threshold would be another: sel_dense.csv, line 2" in obstacle.message
    assert "sdpa_packed at L=128 is faster (0.3 ms) than sdpa_packed at L=64" in obstacle.message
    assert decided(*slow_reference(1.5, 1.1)).min_L == 128  # a loss is one either way
    assert decided(*doubtful, reference="shipped").min_L is not None


NOISE = {"speedup_hi": 100, "settled": "no: noisy"}


def test_noise_keeps_nothing_off():
    noisy = timed("dense", 1.5, 1.5, 0.01, **NOISE)
    decision = decided(noisy, GOOD[1])
    assert (decision.outcome, decision.min_L) == (Outcome.UNDECIDED, None)
    (obstacle,) = decision.obstacles
    assert obstacle.reason is Reason.MACHINE_DISTURBED
    assert "fp16 operator, L=256: [0.01, 100], no: noisy" in obstacle.message


@pytest.mark.parametrize(
    ("bounds", "changes"),
    [
        ((1.5, 1.5, 0.01), {**NOISE, "settled": "yes"}),  # it settled: this is what there is
        ((1.5, 1.5, 0.4), {**NOISE, "speedup_hi": 1.1}),  # it cannot be a win
    ],
)
def test_a_loss_that_is_sure_keeps_it_off(bounds, changes):
    rows = [
        row("dense", n, **changes, speedup_lo=low) for n, low in zip(LENGTHS, bounds, strict=True)
    ]
    assert decided(bench_rows("dense", *rows), GOOD[1]).outcome is Outcome.KEEP_OFF
    both = timed("dense", 1.5, 1.5, 0.01, **NOISE), timed("varlen", 1.5, 1.5, 0.4, speedup_hi=1.1)
    assert decided(*both).outcome is Outcome.KEEP_OFF


def test_noise_at_shorter_lengths_only_raises_the_threshold():
    decision = decided(timed("dense", 0.01, 1.5, 1.5, **NOISE), GOOD[1])
    assert (decision.outcome, decision.min_L) == (Outcome.ENABLE, 128)


def narrow(length: int) -> dict[str, object]:
    times = {"tri_ms": 0.1 * length / 64, "ref_ms": 0.122 * length / 64}
    return {"speedup_lo": 1.21, "speedup_hi": 1.23, "speedup": 1.22, **times}


@pytest.mark.parametrize("settled", ["no", "still warming up after 25 iterations"])
def test_a_narrow_interval_of_times_that_did_not_settle_is_not_believed(settled):
    rows = [row("dense", n, **narrow(n), settled=settled if n == 256 else "yes") for n in LENGTHS]
    decision = decided(bench_rows("dense", *rows), GOOD[1])
    assert decision.outcome is Outcome.UNDECIDED
    (obstacle,) = decision.obstacles
    assert obstacle.reason is Reason.MACHINE_DISTURBED
    assert f"L=256: [1.16, 1.28], {settled}." in obstacle.message
    sure = bench_rows("dense", *(row("dense", n, **narrow(n)) for n in LENGTHS))
    assert decided(sure, GOOD[1]).outcome is Outcome.ENABLE


def test_a_clear_win_need_not_settle():
    rows = [row("dense", n, settled="no") for n in LENGTHS]
    assert decided(bench_rows("dense", *rows), GOOD[1]).outcome is Outcome.ENABLE


def test_a_missing_cell_cannot_be_waived():
    waiver = Waiver(gate="bench sel_varlen.csv", reason="no matter")
    lacking = GateResult(
        gate="bench sel_varlen.csv",
        verdict=Verdict.NOT_VERIFIED,
        message="One missing.",
        reason=Reason.INCOMPLETE,
        measured={"missing": ["varlen L=256"]},
    )
    gates = [gate for gate in GATES if gate.gate != lacking.gate]
    decision = decided(*GOOD, gates=[*gates, waived(lacking, [waiver])])
    assert decision.outcome is Outcome.UNDECIDED
    (obstacle,) = decision.obstacles
    assert obstacle.reason is Reason.INCOMPLETE
    assert "nobody can answer for what was not measured: varlen L=256" in obstacle.message
    complete = lacking.model_copy(update={"measured": {"cells": 3}})
    assert decided(*GOOD, gates=[*gates, waived(complete, [waiver])]).outcome is Outcome.ENABLE


@pytest.mark.parametrize(
    ("changes", "reason", "word"),
    [
        ({"N": 1}, Reason.INCOMPLETE, "Only dense rows have N=1024 H=8 D=128"),
        ({"H": 1}, Reason.INCOMPLETE, "Only varlen rows have N=1024 H=1 D=128"),
        ({"D": 16}, Reason.INCOMPLETE, "no dense row has"),
        ({"Dv": 16}, Reason.INCOMPLETE, "no varlen row has"),
        ({"dtype": "fp32"}, Reason.INCOMPLETE, "dtype=fp32"),
        ({"level": "kernel"}, Reason.INCOMPLETE, "level=kernel"),
        ({"form": "decode"}, Reason.INCOMPLETE, "form=decode"),
        ({"dist": "few"}, Reason.INCOMPLETE, "have one span"),
        ({"nspans": 1}, Reason.INCOMPLETE, "have one span"),
        ({"torch": "2.3.1"}, Reason.MALFORMED, "not measured in one run on one card: torch is"),
        ({"l2_mib": 40}, Reason.MALFORMED, "l2_mib is 40, 72"),
    ],
)
def test_dense_and_varlen_are_one_matrix_of_one_run(changes, reason, word):
    decision = decided(GOOD[0], timed("varlen", 1.5, 1.5, 1.5, **changes))
    assert decision.outcome is Outcome.UNDECIDED
    assert {obstacle.reason for obstacle in decision.obstacles} == {reason}
    assert any(word in obstacle.message for obstacle in decision.obstacles)


def test_streams_may_differ_as_in_the_document():
    two = {"streams": 2, "tri_streams": 2, "ref_streams": 2}
    decision = decided(GOOD[0], timed("varlen", 1.5, 1.5, 1.5, **two))
    assert decision.outcome is Outcome.ENABLE


def test_the_interpreter_alone_is_one_reason():
    rows = [
        bench_rows(mode, *(interpreted(mode, length) for length in LENGTHS))
        for mode in ("dense", "varlen")
    ]
    no_card = GateResult(
        gate="physics sel_dense.csv",
        verdict=Verdict.NOT_VERIFIED,
        message="No card.",
        reason=Reason.NO_CUDA_DEVICE,
    )
    decision = decided(*rows, gates=(*GATES, no_card))
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


HALF = bench_rows("dense", row("dense", 64), interpreted("dense", 128))


@pytest.mark.parametrize(
    ("dense", "varlen", "gates", "reason", "word"),
    [
        (*GOOD, (*GATES, FAILED), Reason.ERROR_TOO_LARGE, "parity p.xml: Off."),
        (*GOOD, (), Reason.NOT_RUN, "No gate has judged"),
        ((), GOOD[1], GATES, Reason.NO_EVIDENCE, "no dense measurements"),
        (GOOD[0], (), GATES, Reason.NO_EVIDENCE, "no varlen measurements"),
        (HALF, GOOD[1], GATES, Reason.NO_CUDA_DEVICE, "1 of 5 rows"),
        ([*GOOD[0], *GOOD[0]], GOOD[1], GATES, Reason.MALFORMED, "measured twice"),
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


# --- how firm it is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "reference", "outcome"),
    [
        ("operator", "strongest", Outcome.KEEP_OFF),
        ("operator", "shipped", Outcome.ENABLE),
        ("kernel", "strongest", Outcome.ENABLE),
    ],
)
def test_the_level_and_the_reference_that_are_asked_for_decide(level, reference, outcome):
    changes = {"operator_strongest_lo": 1.1, "operator_strongest_hi": 1.6}
    tables = [
        bench_rows(mode, *(row(mode, length, **changes) for length in LENGTHS))
        for mode in ("dense", "varlen")
    ]
    decision = decided(*tables, level=level, reference=reference)
    assert (decision.outcome, decision.level, decision.reference) == (outcome, level, reference)
    assert f"the {reference} reference at {level} level" in decision.summary
    thresholds = {(c.level, c.reference): c.min_L for c in decision.comparisons}
    assert thresholds == {
        ("kernel", "shipped"): 64,
        ("kernel", "strongest"): 64,
        ("operator", "shipped"): 64,
        ("operator", "strongest"): None,
    }


def test_a_level_that_was_not_measured_decides_nothing():
    lacking = {"kernel_strongest_lo": "", "kernel_strongest_hi": ""}
    dense = bench_rows("dense", *(row("dense", length, **lacking) for length in LENGTHS))
    decision = decided(dense, GOOD[1], level="kernel")
    assert decision.outcome is Outcome.UNDECIDED
    assert "column kernel_strongest_lo: not measured" in decision.obstacles[0].message


def test_margins_and_cells_that_waver_are_shown():
    decision = decided(timed("dense", 1.25, 1.15, 1.45), timed("varlen", 1.5, 1.5, 1.5))
    assert [(at.margin, at.min_L) for at in decision.sensitivity] == [
        (1.1, 64), (1.2, 256), (1.3, 256),
    ]  # fmt: skip
    assert [text.partition(": ")[2] for text in decision.non_monotone] == [
        "L=128 is below the margin (1.150), L=64 is not"
    ]
    assert [text.partition(", L=")[2] for text in decision.noise_bound] == [
        "128: [1.150, 1.550] holds the margin 1.2"
    ]
    assert decision.device == RTX_4090


@pytest.mark.parametrize("left_out", NAMES)
def test_what_no_gate_has_judged_decides_nothing(left_out):
    decision = decided(*GOOD, gates=[gate for gate in GATES if gate.gate != left_out])
    assert decision.outcome is Outcome.UNDECIDED
    assert [obstacle.reason for obstacle in decision.obstacles] == [Reason.NOT_RUN]


def parity(**recorded: list[str]) -> list[GateResult]:
    """All gates, and parity by the paths that its tests recorded on each device."""
    found = GateResult(
        gate="parity p.xml", verdict=Verdict.PASS, message="Fine.", measured={"recorded": recorded}
    )
    return [*(gate for gate in GATES if gate.gate != "parity p.xml"), found]


BOTH = ["triton.dense.group", "triton.varlen"]


@pytest.mark.parametrize(
    ("recorded", "reason", "word"),
    [
        (
            {"cpu-interpreter": BOTH},
            Reason.WRONG_GPU,
            "shown on cpu-interpreter, the times are from NVIDIA",
        ),
        ({"NVIDIA L4": BOTH}, Reason.WRONG_GPU, "shown on NVIDIA L4, the times"),
        ({}, Reason.WRONG_GPU, "shown on no device, the times"),
        (
            {RTX_4090: ["triton.dense"], "cpu-interpreter": BOTH},
            Reason.NO_EVIDENCE,
            f"not shown on {RTX_4090} for triton.varlen, which the rows say ran; the tests ran "
            "triton.dense there",
        ),
        ({RTX_4090: ["sdpa_packed"]}, Reason.NO_EVIDENCE, "the tests ran no Triton kernel there"),
    ],
)
def test_parity_of_another_card_or_kernel_decides_nothing(recorded, reason, word):
    decision = decided(*GOOD, gates=parity(**recorded))
    assert decision.outcome is Outcome.UNDECIDED
    assert [obstacle.reason for obstacle in decision.obstacles] == [reason]
    assert word in decision.obstacles[0].message
    assert decided(*GOOD, gates=parity(**{RTX_4090: BOTH})).outcome is Outcome.ENABLE


def test_the_form_that_decides_is_told_from_the_others_however_it_was_launched():
    split = "triton.ranges_split.group+ranges_combine.group"
    launched = {"kernel": split, "operator_launched": split, "kernel_launched": ""}
    rows = [timed(mode, 1.5, 1.5, 1.5, **launched) for mode in ("dense", "varlen")]
    assert decided(*rows, gates=parity(**{RTX_4090: ["triton.ranges.group"]})).min_L == 64
    for other in (BOTH, ["triton.ranges.head"], ["triton.ranges"]):
        (obstacle,) = decided(*rows, gates=parity(**{RTX_4090: other})).obstacles
        assert "for triton.ranges.group, which the rows say ran" in obstacle.message


def test_a_bound_above_the_ratio_of_the_times_counts_as_that_ratio():
    rows = bench_rows("dense", row("dense", 64, ref_ms=0.119, speedup=1.19, speedup_lo=1.2))
    assert rows[0].cell("operator", "strongest").speedup == pytest.approx(1.19)

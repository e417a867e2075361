"""The bench gate: passing once, and failing in each way it can."""

from __future__ import annotations

import pytest
from bench_samples import BENCH, GOOD, bench
from evidence_samples import RTX_4090, csv_of, interpreted, row
from gate_checks import judged, refused

from orchestrator.evidence.bench import parse_bench
from orchestrator.gates.bench import table_gate
from orchestrator.models.verdict import Reason, Verdict

FAIL, INVALID, NOT_VERIFIED = Verdict.FAIL, Verdict.INVALID, Verdict.NOT_VERIFIED


def at(seconds: float) -> dict[str, int]:
    """When a cell was timed; that of length 64 at 64."""
    began = 1763900000000 + int(1000 * seconds)
    return {"began_ms": began, "ended_ms": began + 990}


def test_bench_passes():
    result = judged(BENCH, csv_of("dense", *GOOD))
    assert result.verdict is Verdict.PASS
    assert result.measured["max_mae"] == pytest.approx(2e-4, rel=0.01)
    assert result.measured["timing"] == "measured"
    assert result.measured["kernels"] == ["triton.dense"]


def test_bench_of_the_interpreter_passes_without_timing():
    result = judged(BENCH, csv_of("dense", interpreted("dense", 64), interpreted("dense", 128)))
    assert result.verdict is Verdict.PASS
    assert result.measured["timing"] == "none: cpu-interpreter"
    assert "count for nothing" in result.message


@pytest.mark.parametrize(
    ("changes", "verdict", "reason", "word"),
    [
        ({"status": "error: MLIR"}, FAIL, Reason.JOB_FAILED, "L=128 (error: MLIR)"),
        ({"mae": 0.15, "max_err": 1.0}, FAIL, Reason.ERROR_TOO_LARGE, "1.5e-01 at L=128"),
        ({"mae": -0.1}, INVALID, Reason.MALFORMED, "line 3: a mean absolute error below zero"),
        ({"mae": 1e-2, "max_err": 1e-3}, INVALID, Reason.MALFORMED, "mean error 0.01 is above its"),
        ({"max_err": 0.5}, FAIL, Reason.ERROR_TOO_LARGE, "5.0e-01 against 1.5e-03 at L=128"),
        ({"tri_probe": "ignored: last key"}, FAIL, Reason.ERROR_TOO_LARGE, "ignored: last key"),
        ({"mae": "nan"}, INVALID, Reason.MALFORMED, "line 3, column mae"),
        ({"ref_probe": "last key ignored"}, INVALID, Reason.REFERENCE_WRONG, "last key ignored"),
        ({"ref_probe": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "(L=128) does not say ref_probe"),
        # the source project's: attention over the first key, over the first 64 keys
        ({"ref_mae": 0.8, "ref_max_err": 4}, INVALID, Reason.REFERENCE_WRONG, "MAE 8.0e-01"),
        ({"ref_mae": 0.11, "ref_max_err": 1}, INVALID, Reason.REFERENCE_WRONG, "MAE 1.1e-01 at L="),
        ({"reference": "triton.dense"}, INVALID, Reason.REFERENCE_WRONG, "is called triton.dense"),
        ({"ref_mae": -1}, INVALID, Reason.REFERENCE_WRONG, "L=128"),
        ({"ref_mae": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "does not say ref_mae"),
        ({"operator_launched": "sdpa"}, INVALID, Reason.FALLBACK_RAN, "L=128 (sdpa)"),
        (
            {"kernel_launched": "triton.varlen.group"},
            INVALID,
            Reason.FALLBACK_RAN,
            "L=128 (triton.varlen.group)",
        ),
        ({"kernel": "sdpa_packed"}, INVALID, Reason.FALLBACK_RAN, "L=128 (sdpa_packed)"),
        ({"kernel": "triton.dense_sdpa"}, INVALID, Reason.FALLBACK_RAN, "(triton.dense_sdpa)"),
        ({"kernel": "triton.dense+sdpa"}, INVALID, Reason.FALLBACK_RAN, "(triton.dense+sdpa)"),
        ({"kernel": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "L=128) does not say kernel"),
        ({"tri_ms": 0}, INVALID, Reason.MALFORMED, "line 3: a time that is not above zero"),
        ({"ref_ms": -1}, INVALID, Reason.MALFORMED, "line 3: a time that is not above zero"),
        ({"tri_ms": "inf"}, INVALID, Reason.MALFORMED, "column tri_ms"),
        ({"speedup": 25}, INVALID, Reason.MALFORMED, "speedup 25 is not ref_ms / tri_ms"),
        ({"speedup": 1.52}, INVALID, Reason.MALFORMED, "speedup 1.52 is not"),
        ({"speedup_lo": 1.6, "speedup_hi": 1.7}, INVALID, Reason.MALFORMED, "its own interval"),
        ({"device": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "does not say device"),
        ({"device": "NVIDIA L4"}, INVALID, Reason.MALFORMED, "not one run on one card: device is"),
        ({"torch": "2.3.1"}, INVALID, Reason.MALFORMED, "torch is 2.13.0, 2.3.1"),
        ({"triton": "2.3.1"}, INVALID, Reason.MALFORMED, "triton is 2.3.1, 3.9.0"),
        ({"l2_mib": 40}, INVALID, Reason.MALFORMED, "l2_mib is 40, 72"),
        ({"sm_max_mhz": 3105}, INVALID, Reason.MALFORMED, "sm_max_mhz is 2520, 3105"),
        ({"sm_max_mhz": 2520.004}, INVALID, Reason.MALFORMED, "sm_max_mhz is 2520, 2520.004"),
        ({"dist": "many"}, INVALID, Reason.MALFORMED, "line 3 is a dense row of dist=many"),
        ({"L": 256}, INVALID, Reason.MALFORMED, "not declare: L=256"),
        ({"L": 64}, INVALID, Reason.MALFORMED, "measured twice: L=64"),
        ({"N": 4}, NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=128"),
        (
            {"operator_strongest_lo": 1.9},
            INVALID,
            Reason.MALFORMED,
            "at operator level over the st",
        ),
        ({"kernel_shipped_hi": 1.2}, INVALID, Reason.MALFORMED, "at kernel level over the shipped"),
        ({"kernel_tri_ms": 0}, INVALID, Reason.MALFORMED, "a time that is not above zero"),
        ({"speedup": 2 / 3}, INVALID, Reason.MALFORMED, "the sides are swapped"),
        ({"iters": 9}, NOT_VERIFIED, Reason.NO_EVIDENCE, "Only 9 timed iterations at L=128"),
        ({"timer": "wall"}, NOT_VERIFIED, Reason.NO_EVIDENCE, "timed by 'wall', not on the device"),
        ({"tri_streams": 2}, INVALID, Reason.ONE_SIDED, "Triton used 2 streams and the ref"),
        ({"ref_streams": 2, "tri_streams": 2}, INVALID, Reason.ONE_SIDED, "where the cell has 1"),
        (
            {"aa_lo": 1.1, "aa_hi": 1.2},
            INVALID,
            Reason.MACHINE_DISTURBED,
            "[1.100, 1.200] at L=128",
        ),
        ({"aa_lo": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "no A/A control (aa_lo, aa_hi) at L=128"),
        ({"l2_mib": 0}, NOT_VERIFIED, Reason.NO_EVIDENCE, "Whether the L2 cache was cold"),
        ({"flush_mib": 72, "bytes": 2**20}, NOT_VERIFIED, Reason.NO_EVIDENCE, "may be the cache's"),
        *(
            ({name: ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, f"does not say {name}")
            for name in (
                "ragged",
                "form",
                "kernel_launched",
                "operator_launched",
                "warmup",
                "bytes",
                "flops",
                "launch_us",
                "torch",
                "triton",
                "tri_p10",
                "ref_p90",
                "tri_cv",
                "ref_cv",
            )
        ),
        ({"operator_strongest": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "say operator_strongest"),
        (
            {"operator_strongest": "flash"},
            INVALID,
            Reason.MALFORMED,
            "reference is sdpa_packed and operator_strongest flash: the same side",
        ),
        (
            {"operator_launched": "triton.dense.group"},
            INVALID,
            Reason.MALFORMED,
            "kernel is triton.dense and operator_launched triton.dense.group",
        ),
        ({"tri_cv": 7.1}, INVALID, Reason.MALFORMED, "50 times of one mean cannot vary by more"),
        ({"ref_cv": 0}, INVALID, Reason.MALFORMED, "ref_cv is 0, yet ref_p10 and ref_p90 are"),
        ({"tri_p10": 0}, INVALID, Reason.MALFORMED, "does not lie between"),
        ({"launch_us": 0}, INVALID, Reason.MALFORMED, "launch_us is 0, and no launch"),
        ({"ragged": "a bit"}, INVALID, Reason.MALFORMED, "'a bit' is none of equal, uniform"),
        ({"warmup": 0}, NOT_VERIFIED, Reason.NO_EVIDENCE, "no warm-up at L=128"),
        ({"warmup": -1}, INVALID, Reason.MALFORMED, "column warmup: -1 is below zero"),
        ({"tri_cv": -0.1}, INVALID, Reason.MALFORMED, "column tri_cv: -0.1 is below zero"),
        ({"launch_us": -5}, INVALID, Reason.MALFORMED, "column launch_us: -5 is below zero"),
        ({"sm_mhz": -1}, INVALID, Reason.MALFORMED, "column sm_mhz: -1 is below zero"),
        (
            {"ref_max_err": 100, "max_err": 50},
            INVALID,
            Reason.REFERENCE_WRONG,
            "largest error against the fp64 oracle is 1.0e+02 at L=128",
        ),
        ({"operator_tri_ms": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "does not say operator_tri_ms"),
        # what decides is what is judged
        (
            {"operator_tri_ms": 1e-4, "operator_strongest_lo": 2950, "operator_strongest_hi": 3050},
            INVALID,
            Reason.MALFORMED,
            "line 3: tri_ms is 0.2 and operator_tri_ms 0.0001; with level=operator and basis=stro",
        ),
        ({"operator_strongest_ms": 0.29}, INVALID, Reason.MALFORMED, "operator_strongest_ms 0.29"),
        ({"operator_strongest_lo": 1.46}, INVALID, Reason.MALFORMED, "operator_strongest_lo 1.46"),
        ({"operator_strongest_hi": 1.54}, INVALID, Reason.MALFORMED, "operator_strongest_hi 1.54"),
        (
            {"kernel_strongest_ms": 0.4, "kernel_strongest_lo": 2.4, "kernel_strongest_hi": 2.6},
            INVALID,
            Reason.MALFORMED,
            "kernel_strongest_ms 0.4 is above kernel_shipped_ms 0.3",
        ),
        ({"speedup_lo": -1}, INVALID, Reason.MALFORMED, "the speedup, -1, is not above zero"),
        (
            {"speedup_lo": -1, "speedup_hi": 1},
            INVALID,
            Reason.MALFORMED,
            "the speedup, -1, is not above zero",
        ),
        ({"kernel_shipped_lo": 0}, INVALID, Reason.MALFORMED, "is not above zero"),
        ({"tri_p10": 0.21}, INVALID, Reason.MALFORMED, "tri_ms, the median 0.2, does not lie"),
        ({"ref_p90": 0.29}, INVALID, Reason.MALFORMED, "ref_ms, the median 0.3, does not lie"),
        ({"aa_lo": 0, "aa_hi": 1e9}, INVALID, Reason.MALFORMED, "A/A control [0, 1e+09] is no int"),
        ({"aa_lo": 1.01, "aa_hi": 0.99}, INVALID, Reason.MALFORMED, "[1.01, 0.99] is no interval"),
        (
            {"aa_lo": 0.5, "aa_hi": 1.5},
            NOT_VERIFIED,
            Reason.MACHINE_DISTURBED,
            "too wide to tell equal times from a speedup: [0.5, 1.5] at L=128",
        ),
        # bootstraps that nobody ran
        (
            {"speedup_lo": 1.5, "speedup_hi": 1.5},
            NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            "interval of the speedup, 1.5 to 1.5, is far narrower than 50 times that vary",
        ),
        (
            {
                "iters": 10,
                "tri_p10": 0.12,
                "tri_p90": 0.3,
                "tri_cv": 0.35,
                "ref_p10": 0.2,
                "ref_p90": 0.45,
                "ref_cv": 0.35,
                "speedup_lo": 1.495,
                "speedup_hi": 1.505,
            },
            NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            "1.495 to 1.505, is far narrower than 10 times that vary as tri_p10 to ref_p90 say",
        ),
        (
            {"kernel_strongest_lo": 1.8, "kernel_strongest_hi": 1.8},
            NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            "interval of the speedup at kernel level over the strongest reference, 1.8 to 1.8,",
        ),
    ],
)
def test_bench_does_not_pass(changes, verdict, reason, word):
    refused(BENCH, bench(**changes), verdict, reason, word)


def test_the_source_projects_row_is_never_a_pass():
    data = (
        b"mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae\n"
        b"dense,1024,4,64,64,64,1,0.381,0.018,0.047,0.0001\n"
        b"dense,1024,4,64,64,128,1,0.381,0.018,0.047,0.0001\n"
    )
    result = judged(BENCH, data)
    assert result.verdict is NOT_VERIFIED
    assert any(
        "no column contract, status, dist" in found["message"]
        for found in result.measured["findings"]
    )


def test_two_levels_in_one_file_are_two_families():
    rows = [
        row("dense", length, level=level, mae=2e-4 + length * 1e-8, **at(later + length))
        for level, later in (("kernel", 0), ("operator", 500))
        for length in (64, 128)
    ]
    assert judged(BENCH, csv_of("dense", *rows)).verdict is Verdict.PASS
    refused(BENCH, csv_of("dense", *rows[:3]), NOT_VERIFIED, Reason.INCOMPLETE, "operator", "L=128")


def test_a_side_whose_packing_costs_nothing_is_not_verified():
    times = {"kernel_shipped_ms": 0.4, "kernel_shipped_lo": 2.4, "kernel_shipped_hi": 2.6}
    result = refused(BENCH, bench(**times), NOT_VERIFIED, Reason.ONE_SIDED)
    assert result.message.startswith("The shipped reference is faster at operator level than at")
    in_place = bench(**times, operator_shipped="flex_attention")
    assert judged(BENCH, in_place).verdict is Verdict.PASS


def test_a_reference_that_reads_in_place_reads_the_same_keys():
    ahead = {"operator_shipped": "flex_attention", "kernel_strongest_ms": 0.39}
    ahead |= {"kernel_strongest_lo": 2.4, "kernel_strongest_hi": 2.5, "kernel_shipped_ms": 0.4}
    ahead |= {"kernel_shipped_lo": 2.4, "kernel_shipped_hi": 2.6}
    result = refused(BENCH, bench(**ahead), NOT_VERIFIED, Reason.ONE_SIDED, "less than 0.8 of")
    assert "0.3 ms against 0.39 ms" in result.message


def test_triton_may_read_keys_in_place():
    changes = {"kernel_tri_ms": 0.3, "kernel_shipped_lo": 0.98, "kernel_shipped_hi": 1.02}
    changes |= {"kernel_strongest_lo": 0.94, "kernel_strongest_hi": 0.98}
    in_place = bench(
        **changes, kernel="triton.ranges.group", operator_launched="triton.ranges.group"
    )
    assert judged(BENCH, in_place).verdict is Verdict.PASS
    refused(BENCH, bench(**changes), NOT_VERIFIED, Reason.ONE_SIDED, "Triton is faster at operator")


def test_a_weak_fallback_is_fixed_first():
    slow = {"operator_shipped_ms": 0.6, "operator_shipped_lo": 2.9, "operator_shipped_hi": 3.1}
    result = refused(BENCH, bench(**slow), FAIL, Reason.WEAK_FALLBACK, "2.00 times as long")
    assert result.next_step.startswith("Fix the fallback first")


@pytest.mark.parametrize("gpus", [(), ("NVIDIA L4",)])
def test_rows_of_a_card_that_the_pod_does_not_have(gpus):
    table = parse_bench(csv_of("dense", *GOOD), "sel_dense.csv")
    result = table_gate(BENCH, table, gpus)
    assert (result.verdict, result.reason) == (INVALID, Reason.WRONG_GPU)
    assert RTX_4090 in result.message
    assert table_gate(BENCH, table, [RTX_4090]).verdict is Verdict.PASS


def test_the_interpreter_is_on_every_pod():
    table = parse_bench(csv_of("dense", interpreted("dense", 64), interpreted("dense", 128)))
    assert table_gate(BENCH, table, ()).verdict is Verdict.PASS


def test_two_cells_were_not_timed_at_once():
    refused(BENCH, bench(**at(64.3)), INVALID, Reason.MACHINE_DISTURBED, "line 2 and line 3 were")
    refused(BENCH, bench(**at(64)), INVALID, Reason.MACHINE_DISTURBED, "a copy of the other")
    assert judged(BENCH, bench(**at(64.9))).verdict is Verdict.PASS  # somebody set the clock


def test_an_older_contract_shows_too_little():
    both = csv_of("dense", *(row("dense", n, contract=1) for n in (64, 128)))
    refused(BENCH, both, NOT_VERIFIED, Reason.NO_EVIDENCE, "line 2: 2 rows of contract version 1")


def test_rows_of_two_contracts_are_not_of_one_run():
    refused(BENCH, bench(contract=1), INVALID, Reason.MALFORMED, "contract is 1, 2")


def test_cells_that_did_not_settle_are_named():
    result = judged(BENCH, bench(settled="no: interval wider than 5 %"))
    assert result.verdict is Verdict.PASS
    (named,) = result.measured["noise_bound"]
    assert named.endswith("L=128: no: interval wider than 5 %")
    assert "did not settle in 1 cell" in result.message


def test_a_strongest_reference_that_more_keys_beat_is_said():
    """What it means for the decision is the decision's."""
    longer = {
        "ref_ms": 0.1,
        "tri_ms": 0.12,
        "speedup": 0.8333,
        "speedup_lo": 0.8,
        "speedup_hi": 0.86,
    }
    named = {"reference": "flex_attention", "operator_strongest": "flex_attention"}
    words = "flex_attention at L=128 is faster (0.1 ms) than sdpa_packed at L=64 (0.15 ms)"
    found = judged(BENCH, bench(**longer, **named))
    kernel, operator = found.measured["missed_strongest"]
    assert words in operator
    assert "it was not found at L=64" in operator
    assert "(0.09 ms) than sdpa_packed at L=64 (0.144 ms)" in kernel
    assert "strongest references a longer cell's beats" in found.message
    near = {
        "ref_ms": 0.155,
        "tri_ms": 0.12,
        "speedup": 1.2917,
        "speedup_lo": 1.28,
        "speedup_hi": 1.31,
    }
    assert judged(BENCH, bench(**near)).measured["missed_strongest"] == []

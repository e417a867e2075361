"""The bench gate on errors that two roundings cannot have, and on what no measurement gives."""

from __future__ import annotations

import pytest
from bench_samples import BENCH, GOOD, bench
from evidence_samples import csv_of, row
from gate_checks import judged, refused

from orchestrator.models.verdict import Reason, Verdict

FAIL, INVALID, NOT_VERIFIED = Verdict.FAIL, Verdict.INVALID, Verdict.NOT_VERIFIED


@pytest.mark.parametrize("mae", [0, 1e-300, 1e-4])
@pytest.mark.parametrize("side", ["mae", "ref_mae"])
def test_errors_that_are_all_the_same_were_not_measured(mae, side):
    data = csv_of("dense", *(row("dense", length, **{side: mae}) for length in (64, 128)))
    refused(BENCH, data, INVALID, Reason.MALFORMED, "exactly zero" if mae < 1e-4 else "same number")


def test_one_cell_whose_error_is_zero_was_not_compared():
    refused(BENCH, bench(mae=0.0), INVALID, Reason.MALFORMED, "mean error is exactly zero")


SAME = {
    "aa": {"aa_lo": 1, "aa_hi": 1},
    "cv": {"tri_cv": 0, "tri_p10": 0.1, "tri_p90": 0.1},
    "l2": {"l2_mib": 1},
}


@pytest.mark.parametrize(
    ("what", "word"),
    [("aa", "has no width in all 2 rows"), ("cv", "varies in any of 2"), ("l2", "l2_mib is 1,")],
)
def test_what_no_measurement_gives(what, word):
    changes = SAME[what]
    rows = [row("dense", 64, **changes), row("dense", 128, **changes)]
    if what == "cv":
        rows[1] |= {"tri_p10": 0.2, "tri_p90": 0.2}
    refused(BENCH, csv_of("dense", *rows), NOT_VERIFIED, Reason.NO_EVIDENCE, word)
    if what != "l2":  # one such row may be rounding
        mixed = csv_of("dense", rows[0], GOOD[1])
        assert judged(BENCH, mixed).verdict is Verdict.PASS


def errors(**changes: object) -> bytes:
    """Two rows whose errors follow what is changed, in every digit different."""
    rows = []
    for number, length in enumerate((64, 128)):
        scaled = {
            name: value * (1 + number / 10) if isinstance(value, float) else value
            for name, value in changes.items()
        }
        rows.append(row("dense", length, **scaled))
    return csv_of("dense", *rows)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason", "word"),
    [
        # a key too few at a tile's border: far from every limit but the reference's own error
        (
            {"mae": 8e-4, "max_err": 7e-3, "ref_mae": 4e-5, "ref_max_err": 4e-4},
            FAIL,
            Reason.ERROR_TOO_LARGE,
            "mean error is more than 4 times the reference's in the same precision: 8.0e-04 ag",
        ),
        (
            {"mae": 4e-5, "max_err": 4e-4, "ref_mae": 8e-4, "ref_max_err": 7e-3},
            INVALID,
            Reason.REFERENCE_WRONG,
            "reference's errors are far above the kernel's in the same precision: 8.0e-04 and at",
        ),
        (
            {"mae": 2e-4, "max_err": 0.2, "ref_mae": 2.1e-4, "ref_max_err": 0.2},
            INVALID,
            Reason.REFERENCE_WRONG,
            "largest error against the fp64 oracle is 2.0e-01",
        ),
        (
            {"mae": 4e-5, "max_err": 4e-4, "ref_mae": 3e-8, "ref_max_err": 5e-7},
            NOT_VERIFIED,
            Reason.NO_EVIDENCE,
            "far below what the rounding of fp16 outputs costs the kernel, 4.0e-05: it was not",
        ),
        (
            {"mae": 1e-4, "max_err": 2e-3, "ref_mae": 1e-4, "ref_max_err": 2e-3},
            INVALID,
            Reason.FALLBACK_RAN,
            "errors agree in every digit",
        ),
        (
            {"max_err": 1e-2, "mae": 1e-9, "ref_mae": 1.1e-9, "ref_max_err": 1.1e-4},
            INVALID,
            Reason.MALFORMED,
            "too small for 1048576 outputs beside, 0.01",
        ),
    ],
)
def test_errors_that_two_roundings_of_one_result_cannot_have(changes, verdict, reason, word):
    refused(BENCH, errors(**changes), verdict, reason, word)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_errors_that_they_can_have(dtype):
    scale = {"bf16": 8, "fp32": 2.0**-12}[dtype]
    some = {"mae": 4e-5, "max_err": 4e-4, "ref_mae": 4.2e-5, "ref_max_err": 3.6e-4}
    data = errors(dtype=dtype, **{name: error * scale for name, error in some.items()})
    assert "error" not in judged(BENCH, data).message

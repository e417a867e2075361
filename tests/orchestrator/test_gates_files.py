"""Each gate, passing once and failing in each way it can."""

from __future__ import annotations

import pytest
from evidence_samples import PARITY, RTX_4090, case, failure, junit, skip
from gate_checks import judged, refused

from orchestrator.gates.findings import listed
from orchestrator.models.playbook import BenchGate, ParityGate, TestsGate
from orchestrator.models.verdict import Reason, Verdict

FAIL, INVALID, NOT_VERIFIED = Verdict.FAIL, Verdict.INVALID, Verdict.NOT_VERIFIED
TESTS = TestsGate(gate="tests", file="p.xml", min_passed=2)
PARITY_GATE = ParityGate(gate="parity", file="p.xml", paths=["triton.dense"])
BENCH = BenchGate(gate="bench", file="sel_dense.csv", mode="dense", lengths=[64, 128])


@pytest.mark.parametrize("gate", [TESTS, PARITY_GATE, BENCH], ids=["tests", "parity", "bench"])
@pytest.mark.parametrize(
    ("data", "verdict", "reason", "says"),
    [
        (None, NOT_VERIFIED, Reason.NO_EVIDENCE, "left no"),
        (b"", NOT_VERIFIED, Reason.NO_EVIDENCE, "is empty"),
        (b" \n", NOT_VERIFIED, Reason.NO_EVIDENCE, "is empty"),
        (b"\x00garbage", INVALID, Reason.MALFORMED, "cannot be read as evidence"),
    ],
)
def test_no_file_or_a_broken_one(gate, data, verdict, reason, says):
    refused(gate, data, verdict, reason, says, gate.file)


def test_the_next_step_fits_files_of_any_origin():
    result = judged(BENCH, b"\x00garbage")
    assert result.next_step == "Look at sel_dense.csv for what it really is, and measure again."


def test_clauses_with_commas_are_told_apart():
    assert listed(["a, b", "c"], between="; ") == "a, b; c"


# --- tests ----------------------------------------------------------------------------------------


def test_tests_pass():
    result = judged(TESTS, junit(case("a"), case("b"), case("c", inner=skip("no GPU"))))
    assert result.verdict is Verdict.PASS
    assert result.message == "2 tests passed, none failed, 1 skipped."
    assert result.measured == {"passed": 2, "failed": 0, "error": 0, "skipped": 1, "min_passed": 2}


@pytest.mark.parametrize(
    ("cases", "verdict", "reason", "words"),
    [
        ([], NOT_VERIFIED, Reason.NO_EVIDENCE, ["No test was collected"]),
        (
            [case("a", inner=skip("set NSA_TEST_TRITON_SEL=1"))] * 2,
            NOT_VERIFIED,
            Reason.TOO_FEW_TESTS,
            ["All 2 tests were skipped (set NSA_TEST_TRITON_SEL=1)"],
        ),
        ([case("a")], NOT_VERIFIED, Reason.TOO_FEW_TESTS, ["1 test passed, the gate needs 2"]),
        (
            [case("a"), case("b"), case("c", inner=failure("MAE 0.15 > 0.001"))],
            FAIL,
            Reason.TESTS_FAILED,
            ["1 of 3 tests failed: c.", "MAE 0.15"],
        ),
        (
            [case("a"), case("b"), case("c", inner='<error message="MLIR"/>')],
            FAIL,
            Reason.TESTS_FAILED,
            ["1 of 3 tests failed: c.", "MLIR"],
        ),
    ],
)
def test_tests_do_not_pass(cases, verdict, reason, words):
    refused(TESTS, junit(*cases), verdict, reason, *words)


def test_a_test_counts_once():
    refused(
        TESTS,
        junit(case("a"), case("a")),
        INVALID,
        Reason.MALFORMED,
        "In the file more than once, and passed: tests.kernels.test_parity::a.",
    )
    skipped = case("a", inner=skip("no GPU"))
    refused(TESTS, junit(skipped, case("a"), case("b")), INVALID, Reason.MALFORMED, "::a")


def test_a_test_that_fails_and_then_breaks_is_there_twice():
    broken = case("a", inner=failure("no")), case("a", inner='<error message="teardown"/>')
    refused(TESTS, junit(*broken, case("b")), FAIL, Reason.TESTS_FAILED, "2 of 3 tests failed")


# --- parity ---------------------------------------------------------------------------------------


def recorded(**changes: str) -> bytes:
    return junit(case("good", PARITY), case("odd[L=128]", {**PARITY, **changes}))


def test_parity_passes():
    result = judged(PARITY_GATE, recorded(kernel_path="triton.dense_group", mae="3e-4"))
    assert result.verdict is Verdict.PASS
    assert result.measured == {
        "tests": 2,
        "max_mae": 3e-4,
        "limit": 1e-3,
        "paths": ["triton.dense", "triton.dense_group"],
        "devices": [RTX_4090],
        "recorded": {RTX_4090: ["triton.dense", "triton.dense_group"]},
    }


@pytest.mark.parametrize("name", PARITY)
def test_parity_needs_every_property(name):
    lacking = {key: value for key, value in PARITY.items() if key != name}
    data = junit(case("good", PARITY), case("odd", lacking))
    refused(PARITY_GATE, data, NOT_VERIFIED, Reason.NO_EVIDENCE, "Test odd passed without", name)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason", "word"),
    [
        ({"mae": "0.151", "max_err": "2"}, FAIL, Reason.ERROR_TOO_LARGE, "odd[L=128] (1.5e-01)"),
        ({"mae": "nan"}, INVALID, Reason.ERROR_TOO_LARGE, "NaN or infinity"),
        ({"max_err": "inf"}, INVALID, Reason.ERROR_TOO_LARGE, "NaN or infinity"),
        ({"mae": "-1e-4"}, INVALID, Reason.MALFORMED, "lies between 0 and the largest"),
        ({"mae": "5e-4", "max_err": "1e-5"}, INVALID, Reason.MALFORMED, "lies between 0"),
        ({"max_err": "1e30"}, FAIL, Reason.ERROR_TOO_LARGE, "largest error above 0.25: odd[L=128]"),
        ({"mae": "1_0e-5"}, INVALID, Reason.MALFORMED, "not both numbers"),
        ({"mae": "small"}, INVALID, Reason.MALFORMED, "not both numbers"),
        ({"kernel_path": "sdpa_packed"}, INVALID, Reason.FALLBACK_RAN, "odd[L=128] (sdpa_packed)"),
        ({"kernel_path": "triton.sdpa_fallback"}, INVALID, Reason.FALLBACK_RAN, "a fallback"),
        ({"kernel_path": "triton.dense_sdpa"}, INVALID, Reason.FALLBACK_RAN, "a fallback"),
        ({"kernel_path": "not triton.dense"}, INVALID, Reason.FALLBACK_RAN, "a fallback"),
    ],
)
def test_parity_does_not_pass(changes, verdict, reason, word):
    refused(PARITY_GATE, recorded(**changes), verdict, reason, word)


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ([("0", "0")], "1 test are exactly zero"),
        ([("1e-300", "1e-299"), ("2e-300", "1e-299")], "2 tests are exactly zero, or as good as"),
        ([("0", "0"), ("0.0", "1e-3"), ("0", "0")], "3 tests are exactly zero"),
        ([("1e-4", "1e-3"), ("1.0e-4", "2e-3"), ("0.0001", "3e-3")], "same number, mae=0.0001"),
    ],
)
def test_errors_that_nobody_measured(errors, word):
    cases = [
        case(f"t{number}", {**PARITY, "mae": mae, "max_err": largest})
        for number, (mae, largest) in enumerate(errors)
    ]
    refused(PARITY_GATE, junit(*cases), INVALID, Reason.MALFORMED, word)
    measured = case("t9", {**PARITY, "mae": "1.1e-4"})
    assert judged(PARITY_GATE, junit(*cases, measured)).verdict is Verdict.PASS


def test_parity_needs_the_declared_paths():
    gate = PARITY_GATE.model_copy(update={"paths": ["triton.dense", "triton.varlen"]})
    refused(gate, recorded(), INVALID, Reason.FALLBACK_RAN, "No test ran triton.varlen")


def test_parity_of_nothing_is_not_verified():
    data = junit(case("a", PARITY, skip("no GPU")))
    refused(PARITY_GATE, data, NOT_VERIFIED, Reason.NO_EVIDENCE, "None of 1 test passed")
    refused(PARITY_GATE, junit(), NOT_VERIFIED, Reason.NO_EVIDENCE, "No test was collected")


def test_the_error_of_a_failing_test_counts():
    data = junit(
        case("good", PARITY), case("bad", {**PARITY, "mae": "0.15", "max_err": "1"}, failure("!"))
    )
    result = refused(PARITY_GATE, data, FAIL, Reason.ERROR_TOO_LARGE, "bad (1.5e-01)")
    assert result.measured["max_mae"] == 0.15


def test_the_worst_finding_decides_and_the_others_are_named():
    data = junit(
        case("large", {**PARITY, "mae": "0.5", "max_err": "1"}),
        case("fallback", {**PARITY, "kernel_path": "sdpa"}),
        case("silent"),
    )
    result = refused(
        PARITY_GATE, data, INVALID, Reason.FALLBACK_RAN, "fallback (sdpa)", "Also:", "silent"
    )
    assert len(result.measured["findings"]) == 3
    assert all(found["next_step"] for found in result.measured["findings"])

"""Each gate, passing once and failing in each way it can."""

from __future__ import annotations

import pytest
from evidence_samples import PARITY, RTX_4090, case, csv_of, failure, interpreted, junit, row, skip

from orchestrator.gates import judge_gate
from orchestrator.models.playbook import BenchGate, ParityGate, TestsGate
from orchestrator.models.verdict import GateResult, Reason, Verdict

FAIL, INVALID, NOT_VERIFIED = Verdict.FAIL, Verdict.INVALID, Verdict.NOT_VERIFIED
TESTS = TestsGate(gate="tests", file="p.xml", min_passed=2)
PARITY_GATE = ParityGate(gate="parity", file="p.xml", paths=["triton.dense"])
BENCH = BenchGate(gate="bench", file="sel_dense.csv", mode="dense", lengths=[64, 128])


def judged(gate, data: bytes | None) -> GateResult:
    result = judge_gate(gate, {gate.file: data}.get)
    assert result.gate == f"{gate.gate} {gate.file}"
    assert result.message.endswith(".")
    assert (result.next_step is None) == (result.verdict is Verdict.PASS)
    assert GateResult.model_validate_json(result.model_dump_json()) == result
    return result


def refused(gate, data, verdict, reason, *words) -> GateResult:
    result = judged(gate, data)
    assert (result.verdict, result.reason) == (verdict, reason), result.message
    for word in words:
        assert word in result.message
    return result


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
        ({"mae": "small"}, INVALID, Reason.MALFORMED, "not both numbers"),
        ({"kernel_path": "sdpa_packed"}, INVALID, Reason.FALLBACK_RAN, "odd[L=128] (sdpa_packed)"),
        ({"kernel_path": "not triton.dense"}, INVALID, Reason.FALLBACK_RAN, "a fallback"),
    ],
)
def test_parity_does_not_pass(changes, verdict, reason, word):
    refused(PARITY_GATE, recorded(**changes), verdict, reason, word)


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
    assert len(result.measured["also"]) == 2


# --- bench ----------------------------------------------------------------------------------------

GOOD = row("dense", 64), row("dense", 128)


def bench(**changes: object) -> bytes:
    return csv_of("dense", GOOD[0], row("dense", 128, **changes))


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
        ({"mae": 0.15}, FAIL, Reason.ERROR_TOO_LARGE, "1.5e-01 at L=128"),
        ({"mae": -0.1}, INVALID, Reason.MALFORMED, "line 3: a mean absolute error below zero"),
        ({"mae": "nan"}, INVALID, Reason.MALFORMED, "line 3, column mae"),
        ({"ref_probe": "last key ignored"}, INVALID, Reason.REFERENCE_WRONG, "last key ignored"),
        ({"ref_probe": ""}, INVALID, Reason.REFERENCE_WRONG, "L=128"),
        ({"ref_mae": 0.8}, INVALID, Reason.REFERENCE_WRONG, "MAE 8.0e-01 at L=128"),
        ({"ref_mae": -1}, INVALID, Reason.REFERENCE_WRONG, "L=128"),
        ({"ref_mae": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "not checked against the oracle"),
        ({"kernel": "sdpa_packed"}, INVALID, Reason.FALLBACK_RAN, "L=128 (sdpa_packed)"),
        ({"kernel": ""}, INVALID, Reason.FALLBACK_RAN, "L=128 (no name)"),
        ({"tri_ms": 0}, INVALID, Reason.MALFORMED, "line 3: a time that is not above zero"),
        ({"ref_ms": -1}, INVALID, Reason.MALFORMED, "line 3: a time that is not above zero"),
        ({"tri_ms": "inf"}, INVALID, Reason.MALFORMED, "column tri_ms"),
        ({"speedup": 25}, INVALID, Reason.MALFORMED, "speedup 25 is not ref_ms / tri_ms"),
        ({"speedup": 1.52}, INVALID, Reason.MALFORMED, "speedup 1.52 is not"),
        ({"speedup_lo": 1.6, "speedup_hi": 1.7}, INVALID, Reason.MALFORMED, "its own interval"),
        ({"device": ""}, NOT_VERIFIED, Reason.NO_EVIDENCE, "does not name the device"),
        ({"device": "NVIDIA L4"}, INVALID, Reason.MALFORMED, "mixes devices"),
        ({"L": 256}, INVALID, Reason.MALFORMED, "not declare: L=256"),
        ({"L": 64}, INVALID, Reason.MALFORMED, "measured twice: L=64"),
        ({"N": 4}, NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=128"),
    ],
)
def test_bench_does_not_pass(changes, verdict, reason, word):
    refused(BENCH, bench(**changes), verdict, reason, word)


@pytest.mark.parametrize(
    ("data", "verdict", "reason", "word"),
    [
        (csv_of("dense", GOOD[0]), NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=128"),
        (csv_of("dense"), NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=64, L=128"),
        (csv_of("dense", *GOOD)[:-7], NOT_VERIFIED, Reason.INCOMPLETE, "no end mark"),
        (csv_of("dense", *GOOD, GOOD[0]), INVALID, Reason.MALFORMED, "measured twice: L=64"),
        (csv_of("dense", *GOOD) * 2, INVALID, Reason.MALFORMED, "appended"),
        (
            csv_of("dense", *GOOD).replace(b"#end,2", b"#end,9"),
            INVALID,
            Reason.MALFORMED,
            "the end mark counts 9",
        ),
        (csv_of("varlen", row("varlen", 64)), INVALID, Reason.MALFORMED, "is a varlen row"),
    ],
)
def test_a_file_that_is_not_the_declared_one(data, verdict, reason, word):
    refused(BENCH, data, verdict, reason, word)


def test_the_source_projects_row_is_never_a_pass():
    data = (
        b"mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae\n"
        b"dense,1024,4,64,64,64,1,0.381,0.018,0.047,0.0001\n"
        b"dense,1024,4,64,64,128,1,0.381,0.018,0.047,0.0001\n"
    )
    result = judged(BENCH, data)
    assert result.verdict is NOT_VERIFIED
    assert any("no column status, device, kernel" in text for text in result.measured["also"])


def test_two_levels_in_one_file_are_two_families():
    rows = [
        row("dense", length, level=level)
        for level in ("kernel", "operator")
        for length in (64, 128)
    ]
    assert judged(BENCH, csv_of("dense", *rows)).verdict is Verdict.PASS
    refused(BENCH, csv_of("dense", *rows[:3]), NOT_VERIFIED, Reason.INCOMPLETE, "operator", "L=128")

from __future__ import annotations

import json
import math

import gate_checks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gates.diagnostics import BROADCAST, NUMERICS, SPEED
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import DiagnosticsGate
from orchestrator.models.verdict import GateResult, Reason, Verdict

GATE = DiagnosticsGate(gate="diagnostics", file="diagnostics.jsonl")


def call(path: str = "triton.ranges.group", length: int = 64, **more: object) -> dict[str, object]:
    return {"path": path, "kernels": [], "reason": "ok", "L": length, "bucket": length, **more}


def judged(*records: object, tail: str = "") -> GateResult:
    data = "".join(json.dumps(record) + "\n" for record in records) + tail
    return gate_checks.judged(GATE, data.encode())


def symptoms(*records: object) -> list[dict[str, str]]:
    result = judged(*records)
    assert result.verdict is Verdict.PASS
    return result.measured["symptoms"]


def only(*records: object) -> dict[str, str]:
    (found,) = symptoms(*records)
    assert set(found) == {"symptom", "where", "remedy"}
    return found


def test_healthy_calls_pass_with_what_was_measured():
    result = judged(
        call(ms=1.0, mae=1e-4), call(ms=3.0, mae=2e-4), call("triton.dense.group", 128, ms=5.0)
    )
    assert result.verdict is Verdict.PASS
    assert result.message == "3 calls recorded; no known symptom."
    assert result.measured == {
        "calls": 3,
        "paths": ["triton.dense.group", "triton.ranges.group"],
        "buckets": [
            {"bucket": 64, "path": "triton.ranges.group", "calls": 2, "ms": 2.0, "max_mae": 2e-4},
            {"bucket": 128, "path": "triton.dense.group", "calls": 1, "ms": 5.0, "max_mae": None},
        ],
        "torn": False,
        "symptoms": [],
    }


@pytest.mark.parametrize("data", [None, b"", b" \n", b'{"path": "tri'])
def test_no_calls_are_not_verified(data):
    result = judge_gate(GATE, {GATE.file: data}.get)
    assert (result.verdict, result.reason) == (Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE)


def test_a_bad_line_is_invalid():
    result = judged(call(), {"path": "x"}, call())
    assert (result.verdict, result.reason) == (Verdict.INVALID, Reason.MALFORMED)
    assert "line 2" in result.message


def test_a_last_line_that_was_cut_off_is_told():
    result = judged(call(), tail='{"path": "tri')
    assert result.verdict is Verdict.PASS
    assert result.measured["torn"] is True
    assert "cut off" in result.message


# --- symptoms -------------------------------------------------------------------------------------


def test_large_mae_at_long_lengths():
    found = only(call(mae=1e-4), call(length=256, mae=0.02), call(length=128, mae=0.002))
    assert found["symptom"] == "Large MAE at L >= 128"
    assert found["where"] == (
        "L=128: 2.0e-03 (triton.ranges.group), L=256: 2.0e-02 (triton.ranges.group)"
    )
    assert found["remedy"] == NUMERICS
    assert "two-pass FP32 LSE and scaling" in NUMERICS
    assert "inv_sqrt_d" in NUMERICS


def test_large_mae_at_short_lengths_too():
    found = only(call(mae=0.1), call(mae=0.5), call(length=128, mae=0.3))
    assert found["symptom"] == "Large MAE (above 0.001)"
    assert found["where"].startswith("L=64: 5.0e-01")
    assert found["remedy"] == NUMERICS


def test_an_mae_at_the_limit_is_none():
    assert symptoms(call(length=128, mae=1e-3)) == []


@pytest.mark.parametrize("field", ["mae", "max_err"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan(field, value):
    found = only(call(length=64, **{field: value}))
    assert found == {"symptom": "NaN or infinite error", "where": "L=64", "remedy": NUMERICS}


def test_a_fallback_says_its_reason():
    reason = "selected length up to 32 < threshold 64 (NSA_SEL_TRITON_MIN_L)"
    found = only(
        call("packed_sdpa", 32, reason=reason), call("packed_sdpa", 16, reason=reason), call()
    )
    assert found["symptom"] == "A fallback ran (packed_sdpa)"
    assert found["where"] == "L=16, L=32, 2 calls"
    assert found["remedy"] == f"Remove the recorded reason: {reason}."


@pytest.mark.parametrize(
    "reason",
    [
        "CompilationError: at 12:5",
        "MLIR assertion failed",
        "cannot broadcast <64> to <64x16>",
        "ptxas failed",
    ],
)
def test_a_compiler_error_has_the_documents_remedy(reason):
    found = only(call("packed_sdpa", reason=reason))
    assert found["symptom"].startswith("MLIR/broadcast shape issue")
    assert reason in found["where"]
    assert found["remedy"] == BROADCAST
    assert BROADCAST == "Ensure boolean tile masks only; avoid pointer-shaped broadcast."


def test_what_kept_flex_attention_from_running_is_no_fault_of_a_kernel():
    reason = "off by policy: slow; not flex_attention: it did not build: InductorError: compiler"
    assert only(call("packed_sdpa", reason=reason))["symptom"] == "A fallback ran (packed_sdpa)"


def test_a_benchmark_without_a_kernel_is_a_fallback():
    assert only(call("bench.kernel"))["symptom"] == "A fallback ran (bench.kernel)"
    assert symptoms(call("bench.kernel", kernels=["dense_rows_fwd.group"])) == []


def test_slower_than_the_reference_in_the_same_call():
    found = only(call(ms=2.0, ref_ms=1.0), call(length=128, ms=1.0, ref_ms=2.0))
    assert found["symptom"] == "Underperformance: Triton is slower than the reference"
    assert found["where"] == "L=64: 2 ms against 1 ms"
    assert found["remedy"] == SPEED
    for word in ("NSA_SEL_TRITON_GROUP=1", "num_warps/stages", "read-modify-write on O"):
        assert word in SPEED


def test_slower_than_the_reference_in_equal_calls():
    found = symptoms(call(ms=2.0), call(ms=4.0), call("packed_sdpa", ms=1.0))
    assert [f["symptom"].split(":")[0] for f in found] == [
        "A fallback ran (packed_sdpa)",
        "Underperformance",
    ]
    assert found[1]["where"] == "L=64: 3 ms against 1 ms"


def test_calls_that_differ_are_not_compared():
    shapes = {"Q": [1]}
    for other in ({"length": 128}, {"length": 64, "shapes": shapes}, {"length": 64, "dtype": "x"}):
        found = symptoms(call(ms=2.0), call("packed_sdpa", ms=1.0, **other))
        assert len(found) == 1


def test_the_per_head_path_while_group_is_available():
    found = only(call("triton.ranges.head", 128), call("triton.ranges.group", 64))
    assert found["symptom"].startswith("Underperformance: the per-head path ran")
    assert found["where"] == "L=128 (triton.ranges.head)"
    assert found["remedy"] == SPEED
    assert only(call("bench.kernel", kernels=["dense_rows_fwd.head"]))["remedy"] == SPEED


def test_tests_that_run_both_forms_are_no_symptom():
    assert symptoms(call("triton.ranges.head"), call("triton.dense.group")) == []


def test_the_list_of_symptoms_is_capped():
    records = [call("packed_sdpa", reason=f"reason {n}") for n in range(50)]
    assert len(symptoms(*records)) == 20


NUMBERS = st.floats(0, 1e100)
RECORDS = st.builds(
    call,
    st.sampled_from(["packed_sdpa", "triton.ranges.head", "bench.kernel"]) | st.text(min_size=1),
    st.integers(0, 2**20),
    reason=st.text(),
    ms=st.none() | NUMBERS,
    ref_ms=st.none() | NUMBERS,
    mae=st.none() | NUMBERS | st.sampled_from([math.nan, math.inf]),
    kernels=st.lists(st.text(), max_size=3),
)


@given(st.lists(RECORDS, min_size=1, max_size=8))
def test_any_calls_give_a_verdict_that_can_be_stored(records):
    assert judged(*records).verdict is Verdict.PASS

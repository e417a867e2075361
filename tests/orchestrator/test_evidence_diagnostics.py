from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence import EvidenceError
from orchestrator.evidence import diagnostics as module
from orchestrator.evidence.diagnostics import Bucket, Call, by_bucket, parse_diagnostics

DISPATCHED = {
    "path": "triton.ranges.group",
    "kernels": ["ranges_fwd.group"],
    "reason": "selected length up to 128 >= threshold 64",
    "L": 100,
    "bucket": 128,
    "ms": 1.25,
    "mae": 2e-4,
    "max_err": 1e-3,
    "shapes": {"Q": [1, 2, 1, 8, 64]},
    "dtype": "float16",
    "device": "cuda:0",
}
BENCHED = {"path": "bench.kernel", "kernels": ["dense_rows_fwd.head"], "L": 64, "bucket": 64}


def lines(*records: object, end: str = "\n") -> bytes:
    return ("\n".join(json.dumps(record) for record in records) + end).encode()


def test_reads_what_the_kernels_write():
    found = parse_diagnostics(lines(DISPATCHED, BENCHED), "d.jsonl")
    assert (found.file, found.torn) == ("d.jsonl", False)
    first, second = found.calls
    assert (first.line, first.path, first.kernels) == (
        1,
        "triton.ranges.group",
        ("ranges_fwd.group",),
    )
    assert (first.L, first.bucket, first.ms, first.ref_ms) == (100, 128, 1.25, None)
    assert (first.mae, first.max_err, first.infinite) == (2e-4, 1e-3, False)
    assert first.shapes is not None
    assert "float16" in first.shapes
    assert (first.triton, first.in_group, first.per_head) == (True, True, False)
    assert (second.triton, second.in_group, second.per_head) == (True, False, True)
    assert (second.ms, second.mae, second.reason, second.shapes) == (None, None, "", None)
    assert second.name == "bench.kernel dense_rows_fwd.head"


@pytest.mark.parametrize(
    "record",
    [
        {"path": "packed_sdpa", "bucket": 64},
        {**BENCHED, "kernels": []},
        {**BENCHED, "kernels": [""]},
    ],
)
def test_a_fallback_is_no_triton_kernel(record):
    (only,) = parse_diagnostics(lines(record)).calls
    assert not only.triton
    assert not only.per_head
    assert not only.in_group


@pytest.mark.parametrize("error", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["mae", "max_err"])
def test_an_error_that_is_no_number_is_kept_as_such(error, field):
    (only,) = parse_diagnostics(lines({**DISPATCHED, field: error})).calls
    assert only.infinite
    assert getattr(only, field) is None


def test_a_length_that_was_not_recorded_is_its_buckets():
    (only,) = parse_diagnostics(lines({"path": "p", "bucket": 256})).calls
    assert only.L == 256


def test_text_is_kept_short_and_writable():
    (only,) = parse_diagnostics(lines({**DISPATCHED, "reason": "\ud800" + "x" * 999})).calls
    assert only.reason == "?" + "x" * (module.MAX_TEXT - 1)


@pytest.mark.parametrize("cut", range(1, len(json.dumps(BENCHED))))
def test_a_last_line_that_was_cut_off_is_noted(cut):
    found = parse_diagnostics(lines(DISPATCHED) + json.dumps(BENCHED).encode()[:cut])
    assert found.torn
    assert len(found.calls) == 1


def test_a_last_line_may_lack_its_end_only():
    found = parse_diagnostics(lines(DISPATCHED, BENCHED, end=""))
    assert (len(found.calls), found.torn) == (2, False)


@pytest.mark.parametrize("data", [b"", b"\n \n", b'{"path": "tri'])
def test_no_calls(data):
    assert parse_diagnostics(data).calls == ()


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("text", "not a JSON object"),
        ([1], "not a JSON object"),
        ({"bucket": 64}, "column path"),
        ({**BENCHED, "path": ""}, "column path"),
        ({**BENCHED, "path": 3}, "column path"),
        ({"path": "p"}, "column bucket"),
        ({**BENCHED, "bucket": True}, "column bucket"),
        ({**BENCHED, "bucket": -1}, "column bucket"),
        ({**BENCHED, "bucket": 1e3}, "column bucket"),
        ({**BENCHED, "L": None}, "column L"),
        ({**BENCHED, "L": 2**60}, "column L"),
        ({**BENCHED, "kernels": "a"}, "column kernels"),
        ({**BENCHED, "kernels": ["a"] * 99}, "column kernels"),
        ({**BENCHED, "kernels": [1]}, "column kernels"),
        ({**BENCHED, "reason": 1}, "column reason"),
        ({**BENCHED, "ms": math.nan}, "column ms"),
        ({**BENCHED, "ms": -1}, "column ms"),
        ({**BENCHED, "ms": "1"}, "column ms"),
        ({**BENCHED, "mae": -1e-9}, "column mae"),
        ({**BENCHED, "mae": 10**400}, "column mae"),
        ({**BENCHED, "ms": 1e200}, "too large"),
        ({**BENCHED, "max_err": True}, "column max_err"),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_bad_line_is_named(record, says, end):
    with pytest.raises(EvidenceError) as caught:
        parse_diagnostics(lines(DISPATCHED, record, end=end), "d.jsonl")
    assert str(caught.value).startswith("d.jsonl, line 2")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"\x00",
        b'{"path": "tri',
        b'{"path": "\xff", "bucket": 1}',
        b'{"path": "a", "path": "b", "bucket": 1}',
        b"[" * 100_000,
        b'{"path": "p", "bucket": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_line_that_is_no_record_is_named(line):
    with pytest.raises(EvidenceError, match=r"^d, line 1"):
        parse_diagnostics(line + b"\n" + lines(DISPATCHED), "d")


def test_size_is_capped(monkeypatch):
    monkeypatch.setattr(module, "MAX_LINES", 3)
    with pytest.raises(EvidenceError, match="more than 3 lines"):
        parse_diagnostics(lines(*[BENCHED] * 4))
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(EvidenceError, match="more than the 10 that are read"):
        parse_diagnostics(lines(BENCHED))


def test_calls_are_summed_up_by_bucket_and_path():
    def call(path: str, bucket: int, **more: object) -> Call:
        return Call(1, path, (), "", bucket, bucket, **more)

    found = by_bucket(
        [
            call("b", 128, ms=3.0, mae=1e-4),
            call("b", 128, ms=1.0, mae=5e-4),
            call("b", 128, ms=2.0, infinite=True),
            call("a", 128),
            call("b", 64, ms=9.0),
        ]
    )
    assert found == (
        Bucket(64, "b", 1, 9.0, None, False),
        Bucket(128, "a", 1, None, None, False),
        Bucket(128, "b", 3, 2.0, 5e-4, True),
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    for candidate in (data, lines(DISPATCHED) + data, b'{"path": "p", "bucket": 1' + data):
        try:
            found = parse_diagnostics(candidate)
        except EvidenceError:
            continue
        assert all(call.path for call in found.calls)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*DISPATCHED, "ref_ms"]), JSON))
def test_any_record_is_read_into_finite_numbers_or_refused(changes):
    try:
        found = parse_diagnostics(lines({**DISPATCHED, **changes}))
    except EvidenceError:
        return
    for call in found.calls:
        numbers = (call.ms, call.ref_ms, call.mae, call.max_err)
        assert all(math.isfinite(number) for number in numbers if number is not None)
        assert not any(number < 0 for number in numbers if number is not None)
        "".join((call.path, call.reason, *call.kernels)).encode()

"""The machine gate: each disturbance, and each gap in what was watched."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence_samples import bench_rows, interpreted, row

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry, throttle_names
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import GateResult, Reason, Verdict

FIXTURES = Path(__file__).parent / "fixtures" / "machine"
BEGAN = 1763900000000


def telemetry(name: str = "quiet.csv"):
    return parse_telemetry((FIXTURES / name).read_bytes(), name)


def canary(name: str = "steady.canary.csv"):
    return parse_canary((FIXTURES / name).read_bytes(), name)


def judged(samples=None, probes=None, **changes: object) -> GateResult:
    cell = row("dense", 64, **{"began_ms": BEGAN, "ended_ms": BEGAN + 1500, **changes})
    return machine_gate(
        "sel_dense.csv", bench_rows("dense", cell), samples or telemetry(), probes or canary()
    )


def _sample(when: int, *, sm: int, bits: int, busy: int, foreign: int, gpu: int = 0) -> str:
    return f"{when},{gpu},RTX,{sm},2520,10501,90,61,{bits:#018x},{busy},0,0,{foreign},"


def test_a_quiet_card_passes_and_says_what_it_rests_on() -> None:
    found = judged()
    assert found.verdict is Verdict.PASS, found.message
    assert found.measured["hottest_c"] == 61
    assert found.measured["drift"] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("throttled.csv", "thermal slowdown (software)"),
        ("slow_clock.csv", "56% of the maximum"),
        ("busy.csv", "Other processes"),
        ("hot.csv", "93 C"),
    ],
)
def test_a_disturbed_card_is_invalid(file: str, says: str) -> None:
    found = judged(telemetry(file))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MACHINE_DISTURBED)
    assert says in found.message
    assert "L=64" in found.message


def test_the_rows_own_clock_counts_too() -> None:
    found = judged(sm_mhz=1900)
    assert found.verdict is Verdict.INVALID
    assert "1900 of 2520 MHz, 75%" in found.message
    assert judged(sm_mhz=2100).verdict is Verdict.PASS


def test_a_canary_that_moved_is_invalid() -> None:
    found = judged(probes=canary("drifted.canary.csv"))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MACHINE_DISTURBED)
    assert "copy from 920 to 837.2 GB/s (-9.0%)" in found.message


def test_half_a_canary_is_not_verified() -> None:
    found = judged(probes=canary("cut.canary.csv"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "both before and after" in found.message


def test_samples_of_another_time_tell_nothing() -> None:
    found = judged(telemetry("earlier.csv"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "outside the samples" in found.message


def test_trouble_outside_the_cell_does_not_count_against_it() -> None:
    lines = (FIXTURES / "quiet.csv").read_text().splitlines()
    lines.append(_sample(BEGAN + 60_000, sm=600, bits=0x40, busy=0, foreign=3))
    late = parse_telemetry(("\n".join(lines) + "\n").encode())
    assert judged(late).verdict is Verdict.PASS


def test_an_idle_card_between_cells_is_not_throttled() -> None:
    lines = (FIXTURES / "quiet.csv").read_text().splitlines()
    lines += [_sample(BEGAN + n, sm=210, bits=1, busy=0, foreign=0) for n in (100, 200, 300)]
    assert judged(parse_telemetry(("\n".join(lines) + "\n").encode())).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("column", "names"),
    [(",throttle_reasons", "throttle"), (",sm_mhz", "sm_mhz")],
)
def test_a_field_that_is_missing_is_named(column: str, names: str) -> None:
    text = (FIXTURES / "quiet.csv").read_text().replace(column, ",something_else")
    found = judged(parse_telemetry(text.encode()))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert f"does not say {names}" in found.message


def test_hidden_processes_are_made_up_for_by_a_fast_canary_only() -> None:
    hidden = telemetry("container.csv")
    found = judged(hidden)
    assert found.verdict is Verdict.PASS, found.message
    assert "90%" in found.measured["foreign"]
    slow = b"when,probe,value,unit\nbefore,copy,500,GB/s\nafter,copy,500,GB/s\n"
    found = judged(hidden, parse_canary(slow))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "foreign_processes" in found.message


def test_of_several_cards_the_busy_one_counts() -> None:
    lines = (FIXTURES / "quiet.csv").read_text().splitlines()
    lines.append(_sample(BEGAN + 500, sm=210, bits=0x40, busy=3, foreign=2, gpu=1))
    assert judged(parse_telemetry(("\n".join(lines) + "\n").encode())).verdict is Verdict.PASS


@pytest.mark.parametrize("column", ["began_ms", "sm_mhz", "sm_max_mhz"])
def test_a_row_that_does_not_say_is_named(column: str) -> None:
    found = judged(**{column: None})
    assert found.verdict is Verdict.NOT_VERIFIED
    assert column in found.message


def test_absence_is_not_verified_and_never_a_pass() -> None:
    rows = bench_rows("dense", row("dense", 64))
    found = machine_gate("sel_dense.csv", rows, None, None)
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "telemetry" in found.message
    assert "canary" in found.message


def test_the_interpreter_has_no_card_to_watch() -> None:
    rows = bench_rows("dense", interpreted("dense", 64))
    found = machine_gate("x.csv", rows, None, None)
    assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.NO_CUDA_DEVICE)


# --- the files --------------------------------------------------------------------------------


def test_nvidia_smis_own_csv_is_read() -> None:
    found = parse_telemetry(
        b"timestamp, clocks.current.sm [MHz], clocks.max.sm [MHz], temperature.gpu, "
        b"clocks_throttle_reasons.active, utilization.gpu [%]\n"
        b"2025/11/23 12:13:20.000, 2505 MHz, 2520 MHz, 61, 0x0000000000000004, 98 %\n"
        b"2025/11/23 12:13:21.000, [N/A], 2520 MHz, 61, [Not Supported], 98 %\n"
    )
    first, second = found.samples
    assert first.when_ms == 1763900000000
    assert (first.sm_mhz, first.sm_max_mhz, first.throttle) == (2505, 2520, 4)
    assert (second.sm_mhz, second.throttle) == (None, None)


def test_a_torn_last_line_is_left_out() -> None:
    whole = (FIXTURES / "quiet.csv").read_bytes()
    assert len(parse_telemetry(whole[:-9]).samples) == len(telemetry().samples) - 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"sm_mhz\n1\n", "no column says when"),
        (b"when_ms,sm_mhz\n1,fast\n", "column sm_mhz"),
        (b"when_ms,sm_mhz\n1\n", "line 2"),
        (b"when_ms,throttle_reasons\n1,0xZZ\n", "bit mask"),
        (b"when_ms\n\xff\n", "UTF-8"),
    ],
)
def test_telemetry_that_is_none_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        parse_telemetry(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"when,probe,value\n", "column unit"),
        (b"when,probe,value,unit\nbefore,copy,nan,TB/s\n", "positive"),
        (b"when,probe,value,unit\nbefore,copy,-1,TB/s\n", "positive"),
        (b"when,probe,value,unit\nduring,copy,1,TB/s\n", "before nor after"),
        (b"when,probe,value,unit\nbefore,copy\n", "line 2"),
    ],
)
def test_a_canary_that_is_none_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        parse_canary(data)


def test_l2_bandwidth_comes_from_the_canary() -> None:
    assert canary().l2_tb_per_s == pytest.approx(4.8)
    assert parse_canary(b"when,probe,value,unit\nbefore,copy,1,TB/s\n").l2_tb_per_s is None


def test_throttle_bits_have_names() -> None:
    assert throttle_names(0x88) == "hardware slowdown, power brake"

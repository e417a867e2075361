"""Telemetry and canaries as files: what is read of them, and what is refused with its place."""

from __future__ import annotations

import pytest
from machine_samples import MACHINE, canary, edited, telemetry

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry, throttle_names


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
    whole = (MACHINE / "quiet.csv").read_bytes()
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
    ("old", "new"), [(",2505,", ",-2505,"), (",24564,0,", ",24564,-1,"), (",98,", ",-98,")]
)
def test_telemetry_below_zero_is_none(old, new) -> None:
    with pytest.raises(EvidenceError, match="is not a number that it can be"):
        parse_telemetry(edited("quiet.csv", (old, new)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"when,probe,value\n", "column unit"),
        (b"when,probe,value,unit\nbefore,copy,nan,TB/s\n", "positive"),
        (b"when,probe,value,unit\nbefore,copy,-1,TB/s\n", "positive"),
        (b"when,probe,value,unit\nduring,copy,1,TB/s\n", "before nor after"),
        (b"when,probe,value,unit\nbefore,copy\n", "line 2"),
        (b"when,probe,value,unit\nbefore,copy,1,TB/s\n#end,99\n", "counts 99 rows"),
        (b"when,probe,value,unit\n#end,0\nbefore,copy,1,TB/s\n", "after the end mark"),
        (b"when,probe,value,unit,began_ms\nbefore,copy,1,TB/s,soon\n", "column began_ms"),
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

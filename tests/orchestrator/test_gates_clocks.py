"""The machine gate on clocks and launches: what rows say against the samples and the canary."""

from __future__ import annotations

import pytest
from evidence_samples import RTX_4090, bench_rows, row
from machine_samples import BEGAN, MACHINE, canary, edited, judged, sample, telemetry

from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import GateResult, Reason, Verdict


def sampled(*times: float, sm: int = 2505):
    """Samples at these milliseconds after the cell began."""
    head = (MACHINE / "quiet.csv").read_text().partition("\n")[0]
    lines = [sample(BEGAN + int(when), sm=sm, bits=0, busy=97, foreign=0) for when in times]
    return parse_telemetry(("\n".join([head, *lines]) + "\n").encode(), "telemetry.csv")


WHILE = tuple(range(0, 1500, 100))


def test_a_clock_that_stands_still_ran_nothing() -> None:
    found = judged(sm_mhz=0)
    assert found.verdict is Verdict.INVALID
    assert "sm_mhz is 0, and something ran" in found.message


def test_a_clock_above_its_maximum_is_none() -> None:
    found = judged(sm_max_mhz=1)
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MALFORMED)
    assert "2520 is above sm_max_mhz 1" in found.message


def test_a_low_clock_is_said_and_no_fault_by_itself() -> None:
    """A 4090's driver names 3105 MHz, an L4 runs at its power cap: both sides at the same clock."""
    for found in (
        judged(sm_mhz=2475, sm_max_mhz=3105),
        judged(sm_mhz=1000, sm_max_mhz=2040),
        judged(telemetry("slow_clock.csv")),
    ):
        assert found.verdict is Verdict.PASS, found.message
        assert "(low, and steady)" in found.message
        assert {"slow", "slow_clock"} & found.measured.keys()


def test_a_low_clock_with_a_harmful_reason_or_a_drift_is_invalid() -> None:
    braked = parse_telemetry(edited("slow_clock.csv", ("0x0000000000000004", "0x80")))
    found = judged(braked)
    assert found.verdict is Verdict.INVALID
    assert "(power brake, 56% of the maximum clock)" in found.message
    assert judged(probes=canary("drifted.canary.csv"), sm_mhz=1000).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("samples", "verdict", "says"),
    [
        (sampled(*range(-500, 2500, 100), sm=9000), Verdict.INVALID, "9000 of 2520 MHz"),
        (sampled(*range(-500, 2500, 100), sm=300), Verdict.NOT_VERIFIED, "300 MHz while"),
        (sampled(-400, -300, -200, -100, 4000, 4100), Verdict.NOT_VERIFIED, "has gaps of"),
        (sampled(-13e3, -10e3, -7e3, -4e3, 6e3, 9e3), Verdict.NOT_VERIFIED, "has gaps of"),
    ],
)
def test_clocks_and_gaps_that_tell_of_another_card(samples, verdict, says) -> None:
    found = judged(samples)
    assert found.verdict is verdict
    assert says in found.message


@pytest.mark.parametrize(
    "times", [(*range(-500, 2500, 100),), (-300, -200, -100, 0, 100, 3000, 3100), (0, 3000, 6000)]
)
def test_samples_a_busy_pod_takes_late_are_no_gap(times) -> None:
    assert judged(sampled(*times)).verdict is Verdict.PASS


def test_a_clock_that_was_set_leaves_no_gap_in_a_cell_beside_a_sample() -> None:
    day = 86_400_000
    set_back = sampled(*range(day, day + 1000, 200), *range(-1000, 0, 200))
    assert judged(set_back, ended_ms=BEGAN + 20).verdict is Verdict.PASS
    assert "has gaps of" in judged(set_back, ended_ms=BEGAN + 9000).message


@pytest.mark.parametrize(
    ("sampled_mhz", "row_mhz", "contradicted"),
    [
        (2505, 2520, False),
        (1800, 2520, False),  # capped after the row's own reading
        (1410, 2520, True),
        (1410, 1410, False),
        (2505, 1410, True),
        (2000, 1410, False),
    ],
)
def test_the_clock_of_a_row_is_held_against_the_samples_during_it(
    sampled_mhz, row_mhz, contradicted
) -> None:
    found = judged(sampled(*WHILE, sm=sampled_mhz), sm_mhz=row_mhz)
    assert found.verdict is (Verdict.NOT_VERIFIED if contradicted else Verdict.PASS), found.message
    if contradicted:
        assert "contradicts sm_mhz of the rows: the card ran at" in found.message
        assert f"{sampled_mhz} MHz while dense" in found.message
        assert f"was timed, whose row says {row_mhz}." in found.message


def test_clocks_of_cells_shorter_than_a_period_are_held_against_all_samples() -> None:
    starts = range(0, 5000, 1000)

    def of(*, sm: int, cells: int = 5) -> GateResult:
        rows = [
            row("dense", 64 * (1 + at // 1000), began_ms=BEGAN + at, ended_ms=BEGAN + at + 50)
            for at in starts[:cells]
        ]
        watched = sampled(*(at + 20 for at in starts), sm=sm)
        return machine_gate("sel_dense.csv", bench_rows("dense", *rows), watched, canary())

    found = of(sm=1410)
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "56% of what the rows say, over the 5 samples" in found.message
    assert of(sm=2505).verdict is Verdict.PASS
    assert of(sm=1410, cells=2).verdict is Verdict.PASS  # too few to tell


def test_samples_of_a_card_at_rest_say_nothing_of_a_clock() -> None:
    idle = [sample(BEGAN + at, sm=300, bits=0, busy=0, foreign=0) for at in WHILE[::2]]
    busy = [sample(BEGAN + at, sm=2505, bits=0, busy=97, foreign=0) for at in WHILE[1::2]]
    head = (MACHINE / "quiet.csv").read_text().partition("\n")[0]
    both = parse_telemetry(("\n".join([head, *idle, *busy]) + "\n").encode(), "telemetry.csv")
    assert judged(both).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("launch_us", "says"),
    [
        (2.5, None),
        (0.8, None),
        (15, None),
        (20, "launch_us is 20, while a launch took 2.4 us in"),
        (0.2, "launch_us is 0.2, while a launch took 2.4 us in"),
        (None, None),
    ],
)
def test_the_launch_floor_of_a_row_is_held_against_the_canarys(launch_us, says) -> None:
    found = judged(launch_us=launch_us)
    if says is None:
        assert found.verdict is Verdict.PASS, found.message
    else:
        assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.MACHINE_DISTURBED)
        assert says in found.message
        assert "1 such row." in found.message


def test_one_odd_launch_of_the_canary_vouches_for_no_row() -> None:
    odd = "".join(
        f"{when},launch,{us},us,{RTX_4090},,,,,,{at}\n"
        for when, at in (("before", BEGAN - 1000), ("after", BEGAN + 5000))
        for us in (0.3, 900)
    )
    text = edited("steady.canary.csv").decode()
    rows, mark, _ = text.partition("#end")
    count = len(rows.splitlines()) - 1 + odd.count("\n")
    probes = parse_canary(f"{rows}{odd}{mark},{count}\n".encode())
    found = judged(probes=probes, launch_us=100)
    assert "launch_us is 100, while a launch took 2.4 us in" in found.message

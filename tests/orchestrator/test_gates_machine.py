"""The machine gate: each disturbance, and each gap in what was watched."""

from __future__ import annotations

import pytest
from evidence_samples import RTX_4090, bench_rows, interpreted, row
from machine_samples import BEGAN, MACHINE, canary, edited, judged, sample, telemetry

from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.telemetry import parse_telemetry
from orchestrator.gates.company import company_findings
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import Reason, Verdict


def with_neighbour(own: tuple[str, str] | None = None, **other: int):
    """The quiet card, and another of the same name beside it."""
    lines = edited("quiet.csv", *([own] if own else [])).decode().splitlines()
    times = [int(line.partition(",")[0]) for line in lines[1:]]
    lines += [sample(when, gpu=1, **other) for when in times]
    return parse_telemetry(("\n".join(lines) + "\n").encode(), "telemetry.csv")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [(",920,", ",460,"), (",910.8,", ",455,")],
            "copy of 460 GB/s is 46% of what the RTX 4090",
        ),
        ([(",150,", ",1,"), (",148.5,", ",1,")], "gemm of 1 TFLOP/s is 0% of what"),
        ([(",2.4,", ",5000,")], "no launch takes 5000 us"),
        ([(",2.4,", ",0.11,")], "no launch takes 0.11 us"),
    ],
)
def test_a_canary_far_below_its_card_shows_another_state(changes, says) -> None:
    found = judged(probes=parse_canary(edited("steady.canary.csv", *changes)))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert says in found.message


def test_a_quiet_card_passes_and_says_what_it_rests_on() -> None:
    found = judged()
    assert found.verdict is Verdict.PASS, found.message
    assert found.measured["hottest_c"] == 61
    assert found.measured["drift"] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("throttled.csv", "thermal slowdown (software)"),
        ("busy.csv", "Other processes"),
        ("hot.csv", "93 C"),
    ],
)
def test_a_disturbed_card_is_invalid(file: str, says: str) -> None:
    found = judged(telemetry(file))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MACHINE_DISTURBED)
    assert says in found.message
    assert "L=64" in found.message


def test_the_rows_own_temperature_counts_too() -> None:
    found = judged(temperature_c=99)
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MACHINE_DISTURBED)
    assert "says 99 C" in found.message


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
    lines = (MACHINE / "quiet.csv").read_text().splitlines()
    lines.append(sample(BEGAN + 60_000, sm=600, bits=0x40, busy=0, foreign=3))
    late = parse_telemetry(("\n".join(lines) + "\n").encode())
    assert judged(late).verdict is Verdict.PASS


def test_an_idle_card_between_cells_is_not_throttled() -> None:
    lines = (MACHINE / "quiet.csv").read_text().splitlines()
    lines += [sample(BEGAN + n, sm=210, bits=1, busy=0, foreign=0) for n in (100, 200, 300)]
    assert judged(parse_telemetry(("\n".join(lines) + "\n").encode())).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("column", "names"),
    [(",throttle_reasons", "throttle"), (",sm_mhz", "sm_mhz")],
)
def test_a_field_that_is_missing_is_named(column: str, names: str) -> None:
    text = (MACHINE / "quiet.csv").read_text().replace(column, ",something_else")
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


A100, H200 = "NVIDIA A100-SXM4-80GB", "NVIDIA H200"


@pytest.mark.parametrize(
    ("device", "gb_per_s", "says"),
    [
        (f"{A100} MIG 1g.10gb", 200, None),
        (f"{A100} MIG 1g.10gb+me", 200, None),
        (f"{A100} MIG 1g.10gb", 150, "70% of the DRAM bandwidth of 0.125 of the card, and had 59%"),
        (f"{A100} MIG 1g.20gb", 200, "of 0.25 of the card, and had 39%"),
        (f"{A100} MIG 1c.3g.40gb", 800, None),
        (f"{A100} MIG 7g.80gb", 1000, "of 1 of the card, and had 49%"),
        (f"{A100} MIG 1g.10gb", 1700, "had 667% of the DRAM bandwidth of 0.125 of the card, more"),
        (f"{A100} MIG 1g.5gb", 130, "had 51%"),
        (f"{H200} MIG 3g.71gb", 2000, None),
        (f"{H200} MIG 4g.71gb", 1500, "had 62%"),
        (f"{H200} MIG 1", 2000, "does not tell which part"),
        (f"{H200} MIG 5g.71gb", 2000, "does not tell which part"),
        (f"{H200} MIG 7g.300gb", 4000, "does not tell which part"),
        (f"{RTX_4090} MIG 1g.10gb", 900, "does not tell which part"),
    ],
)
def test_a_slices_copy_is_held_against_its_share(device, gb_per_s, says) -> None:
    probes = f"when,probe,value,unit\nbefore,copy,{gb_per_s},GB/s\nafter,copy,{gb_per_s},GB/s\n"
    rows = bench_rows("dense", row("dense", 64, device=device))
    measured = {}
    hidden = telemetry("container.csv")
    found = list(company_findings(rows, hidden, parse_canary(probes.encode()), measured))
    assert [finding.verdict for finding in found] == ([Verdict.NOT_VERIFIED] if says else [])
    assert says in found[0].message if says else "of the card" in measured["foreign"]
    if says and ("more" in says or "tell" in says):
        assert found[0].next_step.startswith("Run the job where nvidia-smi sees")


def test_of_several_cards_the_one_that_the_job_uses_counts() -> None:
    for neighbour in (
        {"sm": 210, "bits": 0x40, "busy": 0, "foreign": 0},
        {"sm": 1200, "bits": 0x40, "busy": 100, "foreign": 3},
    ):
        found = judged(with_neighbour(**neighbour))
        assert found.verdict is Verdict.PASS, found.message


def test_where_it_may_have_been_either_card_nothing_is_known() -> None:
    own = ("0x0000000000000000", "0x40")
    found = judged(with_neighbour(own, sm=2505, bits=0, busy=100, foreign=0))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "2 cards that the cells may have run on (0, 1)" in found.message
    assert "CUDA_VISIBLE_DEVICES" in found.next_step
    assert judged(with_neighbour(sm=2505, bits=0, busy=99, foreign=0)).verdict is Verdict.PASS
    both = judged(with_neighbour(own, sm=2505, bits=0x40, busy=99, foreign=0))
    assert both.verdict is Verdict.INVALID


def test_a_card_at_rest_ran_no_cells() -> None:
    resting = edited("quiet.csv", (",98,", ",0,"))
    assert judged(parse_telemetry(resting)).verdict is Verdict.NOT_VERIFIED
    asleep = parse_telemetry(resting.replace(b",2505,", b",210,"))
    found = judged(asleep, ended_ms=BEGAN + 3000)
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.MACHINE_DISTURBED)
    assert "at rest in all of the 4 samples" in found.message


@pytest.mark.parametrize(("awake", "verdict"), [(1, Verdict.NOT_VERIFIED), (4, Verdict.PASS)])
def test_a_sample_or_two_do_not_wake_a_card(awake: int, verdict: Verdict) -> None:
    lines = [
        sample(BEGAN + 50 * number, sm=2505, bits=0, busy=98 * (number < awake), foreign=0)
        for number in range(30)
    ]
    head = (MACHINE / "quiet.csv").read_text().partition("\n")[0]
    text = "\n".join([head, *lines]) + "\n"
    found = judged(parse_telemetry(text.encode(), "telemetry.csv"))
    assert found.verdict is verdict, found.message
    if awake == 1:
        assert "at rest in 29 of the 30 samples" in found.message


def test_a_card_that_its_driver_calls_idle_ran_no_cells() -> None:
    """However much it is said to be used."""
    idle = edited("quiet.csv", ("0x0000000000000000", "0x1"), (",2505,", ",300,"))
    assert judged(parse_telemetry(idle)).verdict is Verdict.NOT_VERIFIED
    assert judged(parse_telemetry(idle), ended_ms=BEGAN + 3000).verdict is Verdict.INVALID


def test_telemetry_of_another_card_is_invalid() -> None:
    found = judged(parse_telemetry(edited("quiet.csv", (RTX_4090, "NVIDIA H200")), "t.csv"))
    assert found.verdict is Verdict.INVALID
    assert f"t.csv is of NVIDIA H200, the rows are of {RTX_4090}" in found.message


def test_a_loose_name_refutes_nothing() -> None:
    found = judged(device="Fancy GPU")
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "the rows are of Fancy GPU" in found.message
    assert judged(device="RTX 4090").verdict is Verdict.PASS


def test_fields_that_are_known_at_another_time_only_are_missing() -> None:
    head, *lines = (MACHINE / "quiet.csv").read_text().splitlines()
    before = sample(BEGAN - 60_000, sm=2505, bits=0, busy=98, foreign=0)
    unread = [
        line.replace("2505,2520", "[N/A],[N/A]").replace("0x0000000000000000", "[N/A]")
        for line in lines
    ]
    found = judged(parse_telemetry(("\n".join([head, before, *unread]) + "\n").encode()))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "does not say throttle of the time of the cells" in found.message


# --- the canary -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (RTX_4090, "NVIDIA H200", "canary.csv is of NVIDIA H200, the rows are of"),
        (",920,", ",50000,", "copy of 50000 GB/s cannot be true on the RTX 4090"),
        (",4800,", ",9e9,", "l2_read of 9e+09 GB/s cannot be true"),
        (",150,", ",400,", "gemm of 400 TFLOP/s cannot be true"),
        ("910.8,GB/s", "910.8,TB/s", "copy is in gb/s, tb/s"),
        ("2.4,us", "2.4,parsec", "launch is in parsec"),
        ("1763900000000", "1", "at began_ms 1, before"),
        ("1763900002000", "1763899000000", "probes after the cells"),
        ("1763900000000", "1763900099000", "probes before the cells"),
        ("1763900000000", "1753900000000", "probes before the cells"),
    ],
)
def test_a_canary_that_is_not_of_these_rows_is_invalid(old: str, new: str, says: str) -> None:
    found = judged(probes=parse_canary(edited("steady.canary.csv", (old, new))))
    assert found.verdict is Verdict.INVALID, found.message
    assert says in found.message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (",copy,920,", ",copy,940,", "copy before the cells says 940 GB/s; by its own ms and"),
        (",gemm,148.5,", ",gemm,152,", "gemm after the cells says 152 TFLOP/s; by its own ms and"),
        (",launch,2.4,", ",launch,2.5,", "launch before the cells says 2.5 us; by its own ms and"),
        (",l2_read,4800,", ",l2_read,4700,", "done it is 4800."),
    ],
)
def test_a_value_that_its_own_work_and_time_do_not_give_is_invalid(old, new, says) -> None:
    text = (MACHINE / "steady.canary.csv").read_text()
    assert old in text
    found = judged(probes=parse_canary(text.replace(old, new).encode()))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.IMPOSSIBLE)
    assert says in found.message


def test_a_card_that_boosts_beyond_its_datasheet_is_believed() -> None:
    fast = edited("steady.canary.csv", (",150,", ",180,"), (",148.5,", ",179,"))
    assert judged(probes=parse_canary(fast)).verdict is Verdict.PASS


@pytest.mark.parametrize("probe", ["copy", "gemm", "launch"])
def test_each_probe_is_needed(probe: str) -> None:
    found = judged(probes=parse_canary(edited("steady.canary.csv", (f",{probe},", ",foo,"))))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert f"no value of {probe} both before and after" in found.message


def test_a_canary_without_device_time_or_end_is_not_verified() -> None:
    for old, new, says in (
        (",device,", ",host,", "does not say device"),
        (",began_ms", ",then", "does not say began_ms"),
        ("#end,8\n", "", "has no end mark"),
    ):
        found = judged(probes=parse_canary(edited("steady.canary.csv", (old, new))))
        assert found.verdict is Verdict.NOT_VERIFIED
        assert says in found.message


def test_launches_that_take_longer_are_the_hosts():
    slow = edited("steady.canary.csv", ("\nafter,launch,2.4,", "\nafter,launch,4.8,"))
    found = judged(probes=parse_canary(slow, "x.canary.csv"))
    assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.MACHINE_DISTURBED)
    assert "launch from 2.4 to 4.8 us" in found.message


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

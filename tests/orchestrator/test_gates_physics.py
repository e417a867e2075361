"""The physics gate refuses what cannot be true, on both sides, and says what it could not tell."""

from __future__ import annotations

import itertools

import pytest
from evidence_samples import RTX_4090, bench_rows, interpreted, row

from orchestrator.evidence.cards import CARDS
from orchestrator.gates.physics import physics_gate
from orchestrator.models.verdict import GateResult, Reason, Verdict

LENGTHS = (64, 128, 256, 512, 1024)


def judged(*rows, **options: object) -> GateResult:
    return physics_gate("sel_dense.csv", bench_rows("dense", *rows), **options)


def cell(length: int, **changes: object) -> dict[str, object]:
    """A good row with some columns changed, and its work; no others."""
    values = {**row("dense", length), **changes}
    N, H, D, Dv, L = (int(values[name]) for name in ("N", "H", "D", "Dv", "L"))  # noqa: N806
    counted = {"bytes": N * (L + H) * (D + Dv) * 2, "flops": 2 * N * H * L * (D + Dv)}
    return {**values, **counted, **changes}


def family(**changes: object):
    """Lengths of one family; a callable change is a function of L."""
    return [cell(n, **{k: v(n) if callable(v) else v for k, v in changes.items()}) for n in LENGTHS]


def test_honest_times_pass_and_say_how_close_they_come() -> None:
    found = judged(*family())
    assert found.verdict is Verdict.PASS, found.message
    assert found.measured["closest"]["of_limit"] < 1


@pytest.mark.parametrize(
    "column",
    ["tri_ms", "ref_ms", "kernel_tri_ms", "kernel_shipped_ms", "kernel_strongest_ms",
     "operator_shipped_ms"],
)  # fmt: skip
def test_an_impossible_time_of_any_side_is_invalid(column: str) -> None:
    found = judged(cell(1024, **{column: 0.05}))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.IMPOSSIBLE)
    assert "TB/s" in found.message
    assert "1.008 TB/s (DRAM)" in found.message
    assert "line 2" in found.message


def test_the_limit_has_five_percent_of_room() -> None:
    needs = (1024 * (1024 * 256 + 8 * 128) * 2) / 1.008e9
    assert judged(cell(1024, tri_ms=needs / 1.04)).verdict is Verdict.PASS
    assert judged(cell(1024, tri_ms=needs / 1.06)).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    "device",
    ["NVIDIA 4090 + H200", "NVIDIA GeForce RTX 4090 + NVIDIA H200", f"{RTX_4090}, {RTX_4090}"],
)
def test_a_name_of_two_cards_has_the_peaks_of_none(device) -> None:
    found = judged(cell(1024, device=f'"{device}"'))
    assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE)
    assert f"No peaks are known of '{device}'" in found.message


def test_more_computing_than_the_tensor_cores_can_do_is_invalid() -> None:
    needs = 2 * 1024 * 2048 * 1024 * 256 / 203.5e9
    times = {"tri_ms": needs / 2, "kernel_tri_ms": needs, "ref_ms": 2 * needs}
    times |= dict.fromkeys(("kernel_shipped_ms", "kernel_strongest_ms"), 2 * needs)
    times |= {"operator_shipped_ms": 2 * needs}
    found = judged(cell(1024, H=2048, **times))
    assert found.verdict is Verdict.INVALID
    assert "203.5 TFLOP/s" in found.message


@pytest.mark.parametrize(
    "claim",
    [
        {"ragged": "uniform"},
        {"ragged": "uniform", "form": "decode"},
        {"form": "decode"},
        {"ragged": "equal", "form": "rows"},
    ],
    ids=str,
)
def test_a_claim_of_no_work_makes_nothing_possible(claim: dict[str, str]) -> None:
    lie = cell(1024, **claim, bytes=1, flops=1)
    found = judged(lie)
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.IMPOSSIBLE)
    assert "bytes is 1, which rows of that shape cannot have" in found.message
    times = {name: value / 1e4 for name, value in lie.items() if name.endswith("_ms") and value}
    times |= {"began_ms": lie["began_ms"], "ended_ms": lie["ended_ms"]}
    assert "cannot be true" in judged({**lie, **times}).message


def test_a_set_that_fits_in_l2_needs_proof_of_a_flush() -> None:
    small = {"N": 64, "flush_mib": 0, "launch_us": 50}
    found = judged(cell(256, **small))
    assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE)
    assert "flush_mib" in found.message
    assert judged(cell(256, **{**small, "flush_mib": 144})).verdict is Verdict.PASS


def test_a_flush_of_less_than_the_cache_is_no_flush() -> None:
    assert judged(cell(256, N=64, flush_mib=36)).verdict is Verdict.NOT_VERIFIED


def test_even_l2_has_a_limit() -> None:
    """8.4 MB in half a microsecond are 17 TB/s: three times what the canary measured."""
    impossible = cell(256, N=64, flush_mib=0, tri_ms=0.0005)
    found = judged(impossible, l2_tb_per_s=5.5)
    assert found.verdict is Verdict.INVALID
    assert "11 TB/s (L2, generously)" in found.message
    assert found.measured["l2"] == "5.5 TB/s, measured by the canary"


def test_a_third_partys_l2_figure_is_marked_and_gets_room() -> None:
    faster_than_cited = cell(256, N=64, flush_mib=0, tri_ms=0.0012)
    found = judged(faster_than_cited)
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "third-party" in found.measured["l2"]


def test_faster_than_dram_but_possible_from_a_warm_cache_is_not_verified() -> None:
    """Twice the cache: half of it may have stayed there."""
    bytes_read = 1024 * (288 * 256 + 8 * 128) * 2
    warm = cell(288, tri_ms=0.6 * bytes_read / 1.008e9, flush_mib=0)
    assert judged(warm).verdict is Verdict.NOT_VERIFIED
    assert judged({**warm, "flush_mib": 256}).verdict is Verdict.INVALID


@pytest.mark.parametrize("column", ["tri_ms", "ref_ms", "kernel_tri_ms", "kernel_shipped_ms"])
def test_flat_in_l_is_invalid_on_both_sides(column: str) -> None:
    found = judged(*family(**{column: 2.0}))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.FLAT_IN_L)
    assert "at L=64 and 2 ms at L=1024" in found.message


def test_a_flat_tail_is_invalid_where_the_bytes_must_show() -> None:
    """A reference that attends to the first 256 keys grows up to there."""
    grows = {64: 0.2, 128: 0.4, 256: 0.75, 512: 0.76, 1024: 0.77}
    found = judged(*family(ref_ms=grows.__getitem__))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.FLAT_IN_L)


def test_flat_near_the_measured_launch_floor_is_launch_bound_and_listed() -> None:
    small = {"N": 16, "ref_ms": 0.02, "launch_us": 10.0}
    found = judged(*family(**small))
    assert found.verdict is Verdict.PASS, found.message
    assert found.measured["launch_bound"] == [
        "dense few N=16 H=8 D=128 Dv=128 streams=1 fp16 operator L=1024, the reference"
    ]
    assert "launch-bound" in found.message


def test_flat_and_tiny_without_a_launch_floor_names_the_field() -> None:
    found = judged(*family(N=16, ref_ms=0.02, launch_us=None))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "launch_us" in found.message


def decode(**changes: object):
    """Honest figures of an H200: four rows of L keys from one cache, cold L2."""
    ref = {64: 0.0271, 128: 0.0272, 256: 0.0275, 512: 0.0280, 1024: 0.0288}
    tri = {64: 0.0029, 128: 0.0030, 256: 0.0034, 512: 0.0046, 1024: 0.0064}
    times: dict[str, object] = {"tri_ms": tri.__getitem__, "ref_ms": ref.__getitem__}
    times |= dict.fromkeys(("kernel_tri_ms", "operator_tri_ms"), tri.__getitem__)
    for level, side in itertools.product(("kernel", "operator"), ("shipped", "strongest")):
        times[f"{level}_{side}_ms"] = ref.__getitem__
    shape = {"N": 4, "H": 16, "form": "decode", "device": "NVIDIA H200", "launch_us": 1.0}
    return family(**{**shape, **times, **changes})


def test_several_launches_may_hide_the_few_bytes_of_a_decode() -> None:
    found = judged(*decode(), launch_us=1.1)
    assert found.verdict is Verdict.PASS, found.message
    assert any("the reference" in said for said in found.measured["launch_bound"])
    slow = judged(*decode(ref_ms=0.15), launch_us=1.1)
    assert slow.verdict is Verdict.NOT_VERIFIED
    assert "so few bytes do not show" in slow.message


def test_a_launch_floor_that_the_canary_denies_excuses_nothing() -> None:
    small = family(N=16, ref_ms=0.15, launch_us=10.0)
    assert judged(*small, launch_us=8.0).verdict is Verdict.PASS
    found = judged(*small, launch_us=2.5)
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "the reference takes 0.15 ms at L=64 and 0.15 ms" in found.message


def test_a_cell_cannot_be_shorter_than_its_iterations() -> None:
    """50 iterations of 1.6 and 2.4 ms are 200 ms."""
    began = cell(1024)["began_ms"]
    assert judged(cell(1024, ended_ms=began + 190)).verdict is Verdict.PASS
    found = judged(cell(1024, ended_ms=began + 170))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.IMPOSSIBLE)
    assert "50 iterations of 4 ms for both sides take 200 ms, the cell took 170" in found.message


@pytest.mark.parametrize(
    "when",
    [{"began_ms": 0}, {"began_ms": 1, "ended_ms": 2000}, {"ended_ms": 1763900000000}],
    ids=str,
)
def test_a_cell_that_ran_at_no_time_is_invalid(when: dict[str, int]) -> None:
    found = judged(cell(1024, **when))
    assert found.verdict is Verdict.INVALID
    assert "no time of a measurement" in found.message


def test_a_time_below_the_launch_floor_is_no_launch() -> None:
    assert judged(cell(1024, launch_us=100)).verdict is Verdict.PASS
    found = judged(cell(1024, launch_us=20_000))
    assert (found.verdict, found.reason) == (Verdict.INVALID, Reason.IMPOSSIBLE)
    assert "is below its launch floor, 20000 us" in found.message


def test_a_slice_is_held_against_the_whole_card_and_that_is_said() -> None:
    found = judged(*family(device="NVIDIA H200 MIG 1g.18gb"))
    assert found.verdict is Verdict.PASS, found.message
    assert "whole H200" in found.message
    assert "1g.18gb: held against the peaks of the whole card" in found.measured["slice"]


def test_order_of_rows_is_irrelevant() -> None:
    rows = family(ref_ms=2.0)
    assert judged(*rows[::-1]).reason is Reason.FLAT_IN_L


@pytest.mark.parametrize("device", ["Fancy GPU 9000", "NVIDIA A100"])
def test_an_unknown_card_is_not_verified(device: str) -> None:
    found = judged(cell(1024, device=device, tri_ms=0.01))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert device in found.message


def test_a_row_without_device_takes_the_one_that_is_given() -> None:
    impossible = cell(1024, device=None, ref_ms=0.05)
    without = judged(impossible)
    assert without.verdict is Verdict.NOT_VERIFIED
    assert "device" in without.message
    assert judged(impossible, device=RTX_4090).verdict is Verdict.INVALID


def test_a_missing_dtype_never_passes_and_still_refutes() -> None:
    found = judged(cell(1024, dtype=None))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "dtype (fp16 assumed)" in found.message
    assert judged(cell(1024, dtype=None, ref_ms=0.05)).verdict is Verdict.INVALID


def test_the_interpreter_has_no_card() -> None:
    found = physics_gate("x.csv", bench_rows("dense", interpreted("dense", 64)))
    assert (found.verdict, found.reason) == (Verdict.NOT_VERIFIED, Reason.NO_CUDA_DEVICE)


def test_no_cell_that_ran_is_not_verified() -> None:
    died = cell(64, status="error: MLIR")
    assert judged(died).verdict is Verdict.NOT_VERIFIED


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_refuses_ten_times_its_bandwidth(card) -> None:
    needs = (1024 * (1024 * 256 + 8 * 128) * 2) / (card.dram_tb_per_s * 1e9)
    found = judged(cell(1024, device=None, tri_ms=needs / 10), device=f"NVIDIA {card.name}")
    assert found.verdict is Verdict.INVALID, found.message


def test_flat_are_only_times_of_one_implementation() -> None:
    """The strongest reference may be another at each length, and a better one at the longest."""

    def rows(reference):
        named = dict.fromkeys(("reference", "operator_strongest"), reference)
        return family(ref_ms=lambda n: 1.6 + n / 20480, **named)

    flat = judged(*rows("flex_attention"))
    assert (flat.verdict, flat.reason) == (Verdict.INVALID, Reason.FLAT_IN_L)
    other = judged(*rows(lambda n: "flex_attention" if n == 1024 else f"gqa.{n}"))
    assert other.verdict is Verdict.PASS, other.message


def test_a_flush_that_is_too_small_is_said_as_it_is() -> None:
    small = judged(cell(64, flush_mib=1, tri_ms=0.02, ref_ms=0.03))
    assert "flush_mib is 1, less than the cache" in small.message
    unsaid = judged(cell(64, flush_mib=None, tri_ms=0.02, ref_ms=0.03))
    assert "does not say that it was flushed" in unsaid.message


def test_device_is_not_recommended_where_the_row_names_its_own() -> None:
    found = judged(cell(64, device="Card of tomorrow"))
    assert "--device" not in str(found.next_step)

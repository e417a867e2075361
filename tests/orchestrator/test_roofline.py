"""Arithmetic of cells and cards."""

from __future__ import annotations

import random

import pytest

from orchestrator.evidence.cards import CARDS, find_card, is_slice, same_card
from orchestrator.evidence.foreign import ForeignRow
from orchestrator.evidence.roofline import (
    Work,
    dram_bound,
    implied_tb_per_s,
    misstated,
    warm_bound,
    work,
    work_of,
)

CARD = next(card for card in CARDS if card.name == "RTX 4090")


def cell(**columns: object) -> ForeignRow:
    known = {"N": 1024, "H": 4, "D": 64, "Dv": 64, "L": 1024, "dtype": "fp16", **columns}
    return ForeignRow("x.csv", 2, "dense", None, "dense", **known)


def test_bytes_and_flops_of_the_published_row() -> None:
    found = work_of(cell())
    assert isinstance(found, Work)
    assert found.bytes == 1024 * (1024 * 128 + 4 * 128) * 2 == 269_484_032
    assert found.read_bytes == found.bytes - 1024 * 4 * 64 * 2
    assert found.flops == 2 * 1024 * 4 * 1024 * 128
    assert implied_tb_per_s(found, 0.018) == pytest.approx(14.97, abs=0.01)
    assert dram_bound(found, CARD).ms == pytest.approx(0.2668, abs=1e-4)


def test_fp32_moves_twice_the_bytes() -> None:
    half, single = work(8, 4, 64, 32, 512, "fp16"), work(8, 4, 64, 32, 512, "fp32")
    assert single.bytes == 2 * half.bytes


def test_what_is_missing_is_taken_at_its_smallest_and_said() -> None:
    known, guessed = work_of(cell()), work_of(cell(H=None, Dv=None, dtype=None))
    assert isinstance(known, Work)
    assert isinstance(guessed, Work)
    assert guessed.bytes < known.bytes
    assert guessed.assumed == ("dtype (fp16 assumed)", "H (1 assumed)", "Dv (0 assumed)")


def test_without_a_shape_there_is_no_work() -> None:
    assert work_of(cell(N=None, D=None)) == ("N", "D")


def test_only_the_writer_knows_the_bytes_of_ragged_and_shared_keys() -> None:
    assert work_of(cell(dist="mixed")) == ("bytes",)
    assert work_of(cell(form="decode")) == ("bytes",)
    full = work_of(cell())
    ragged = work_of(cell(ragged="1..L", bytes=1e8))
    more = work_of(cell(ragged="1..L", bytes=1e12))
    assert isinstance(full, Work)
    assert isinstance(ragged, Work)
    assert isinstance(more, Work)
    assert ragged.bytes == 10**8
    assert more.bytes == full.bytes, "a claim never raises the limit"


@pytest.mark.parametrize(
    ("columns", "read", "selected"),
    [
        ({"form": "decode", "ragged": "equal"}, 1024, 1024 * 1024),
        ({"form": "decode", "ragged": "1..L"}, 1024, 1024 + 1023),
        ({"ragged": "1..L"}, 1024 + 1023, 1024 + 1023),
        ({"ragged": "1..L", "nspans": 8}, 1024 + 1023 * 8, 1024 + 1023 * 8),
        ({"ragged": "1..L", "nspans": 8, "dist": "mixed"}, 1024 + 1023, 1024 + 1023),
        ({"dist": "mixed"}, 1024 + 1023, 1024 + 1023),
    ],
)
def test_a_claim_never_falls_below_what_such_rows_need(columns, read, selected) -> None:
    """The longest row's keys, one for each span of the others, Q and the output."""
    found = work_of(cell(bytes=1.0, flops=1.0, **columns))
    assert isinstance(found, Work)
    assert found.bytes == work(1024, 4, 64, 64, read, "fp16").bytes
    assert found.read_bytes == work(1024, 4, 64, 64, read, "fp16").read_bytes
    assert found.flops == work(1024, 4, 64, 64, selected, "fp16").flops


def test_lengths_drawn_evenly_add_up_to_half_but_for_chance() -> None:
    full, found = work_of(cell()), work_of(cell(ragged="uniform", bytes=1.0))
    assert isinstance(full, Work)
    assert isinstance(found, Work)
    assert 0.4 * full.bytes < found.bytes < 0.5 * full.bytes
    for seed in range(200):
        rng = random.Random(seed)  # noqa: S311
        keys = 1024 + sum(rng.randint(1, 1024) for _ in range(1023))
        assert work(1024, 4, 64, 64, keys, "fp16").bytes > found.bytes


def test_a_claim_that_the_shape_cannot_have_is_told() -> None:
    equal = {"ragged": "equal", "form": "rows"}
    for columns, told in (
        ({**equal, "bytes": 1.0}, "bytes is 1"),
        ({**equal, "bytes": 2.7e8, "flops": 1e12}, "flops is 1e+12"),
        ({**equal, "form": "decode", "bytes": 1.0}, "bytes is 1"),
        ({**equal, "bytes": 2.69e8}, None),
    ):
        row = cell(**columns)
        todo = work_of(row)
        assert isinstance(todo, Work)
        assert (misstated(row, todo) or "").startswith(told or ""), columns
        assert bool(misstated(row, todo)) is bool(told)


def test_a_claim_of_few_bytes_does_not_lower_the_limit_of_equal_rows() -> None:
    assert work_of(cell(bytes=1.0, ragged="equal", form="rows")) == work_of(cell())


def test_a_warm_cache_saves_what_fits_and_no_more() -> None:
    large = work_of(cell())
    assert isinstance(large, Work)
    saved = dram_bound(large, CARD).ms - warm_bound(large, CARD, None).ms
    assert saved == pytest.approx(CARD.l2_bytes / 1.008e12 * 1e3)
    small = work_of(cell(N=16))
    assert isinstance(small, Work)
    through_l2 = warm_bound(small, CARD, 5.0)
    assert through_l2.peak == "5 TB/s (L2, generously)"
    assert 0 < through_l2.ms < dram_bound(small, CARD).ms


def test_much_computing_is_bound_by_the_tensor_cores() -> None:
    heavy = work_of(cell(H=4096))
    assert isinstance(heavy, Work)
    assert dram_bound(heavy, CARD).peak == "165.2 TFLOP/s (fp16)"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX 4090", "RTX 4090"),
        ("rtx_4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("H100 SXM", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
    ],
)
def test_device_names(device: str, name: str) -> None:
    found = find_card(device)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "device",
    ["H100", "A100", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU",
     "NVIDIA GeForce RTX 3090 Ti", "NVIDIA L40", "NVIDIA A10G", "NVIDIA GB200", "Tesla T4", ""],
)  # fmt: skip
def test_a_name_that_fits_no_card_or_several_is_a_guess(device: str) -> None:
    assert find_card(device) is None


def test_every_card_has_a_source_and_every_dtype() -> None:
    for card in CARDS:
        assert card.source
        assert set(card.tflops) == {"fp16", "bf16", "fp32"}


def test_one_card_has_several_names_and_a_slice_is_its_cards() -> None:
    for one, other, same in (
        ("NVIDIA GeForce RTX 4090", "RTX 4090", True),
        ("NVIDIA H200", "NVIDIA H200 MIG 1g.18gb", True),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("Fancy GPU 9000", "NVIDIA Fancy GPU 9000", True),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 D", False),
        ("NVIDIA H200", "NVIDIA GeForce RTX 4090", False),
        ("Fancy GPU 9000", "Fancy GPU 8000", False),
    ):
        assert same_card(one, other) is same_card(other, one) is same
    assert is_slice("NVIDIA H200 MIG 1g.18gb")
    assert not is_slice("NVIDIA H200")

"""Arithmetic of cells and cards."""

from __future__ import annotations

import random

import pytest

from orchestrator.evidence.cards import CARDS, Card, find_card, is_slice, same_card
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

PAPERS = [
    ("RTX 4090", 165.2, 2520),
    ("RTX 3090", 71.2, 1695),
    ("L40S", 362.05, 2490),
    ("L4", 121.0, 2040),
    ("A10", 125.0, 1695),
    ("A100 40GB", 312.0, 1410),
    ("A100 80GB SXM", 312.0, 1410),
    ("A100 80GB PCIe", 312.0, 1410),
    ("H100 NVL", 835.5, 1545),
    ("H100 PCIe", 756.0, 1620),
    ("H100 SXM", 989.4, 1830),
    ("H200", 989.4, 1830),
    ("B200", 2250.0, 1856),
]
"""What vendors say: dense TFLOP/s in fp16 with fp32 accumulation, and the clock, MHz, it is for."""
DRIVERS = [
    ("RTX 4090", 384, 10501, 75497472),
    ("RTX 3090", 384, 9751, 6291456),
    ("L40S", 384, 9001, 100663296),
    ("L4", 192, 6251, 50331648),
    ("A10", 384, 6251, 6291456),
    ("A100 40GB", 5120, 1215, 41943040),
    ("A100 80GB SXM", 5120, 1593, 41943040),
    ("A100 80GB PCIe", 5120, 1512, 41943040),
    ("H100 NVL", 6144, 2619, 62914560),
    ("H100 PCIe", 5120, 1593, 52428800),
    ("H100 SXM", 5120, 2619, 52428800),
    ("H200", 6144, 3201, 62914560),
    ("B200", 7680, 3996, 132644864),
]
"""What such cards report: bus, bits; memory clock, MHz; L2, bytes."""


def named(name: str) -> Card:
    return next(card for card in CARDS if card.name == name)


CARD = named("RTX 4090")


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
    assert dram_bound(heavy, CARD).peak == "203.5 TFLOP/s (fp16)"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("GeForce RTX 4090", "RTX 4090"),
        ("RTX 4090", "RTX 4090"),
        ("rtx_4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("A100 40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100 80GB SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA A100-PCIE-80GB", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100 SXM"),
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


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name(card: Card) -> None:
    assert find_card(card.name) is card


@pytest.mark.parametrize(
    "device",
    [
        *("", "NVIDIA", "H100", "NVIDIA A100", "A100 80GB", "Tesla T4", "NVIDIA A30"),
        *("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090D", "NVIDIA GeForce RTX 5090"),
        *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti"),
        *("NVIDIA RTX 6000 Ada Generation", "NVIDIA L40", "NVIDIA L40G", "NVIDIA L4-24Q"),
        *("NVIDIA A10G", "NVIDIA A10M", "NVIDIA A10-24Q", "NVIDIA RTX A1000", "NVIDIA A100X"),
        *("NVIDIA A100-SXM-64GB", "GRID A100D-80C", "NVIDIA A800-SXM4-80GB"),
        *("NVIDIA H100 80GB HBM2e", "NVIDIA H100 64GB HBM2", "NVIDIA H100 96GB HBM3"),
        *("NVIDIA H800", "NVIDIA H20", "NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e"),
        *("NVIDIA H200 NVL", "NVIDIA GB200", "NVIDIA B200A", "NVIDIA B300 SXM6 AC"),
    ],
)
def test_a_name_that_fits_no_card_or_several_is_a_guess(device: str) -> None:
    assert find_card(device) is None


@pytest.mark.parametrize(
    ("name", "tflops", "mhz"),
    PAPERS,
)
def test_at_the_vendors_clock_the_tensor_cores_do_what_the_vendor_says(name, tflops, mhz) -> None:
    """Dense, with fp32 accumulation; a figure that counts sparsity would be twice as high."""
    card = named(name)
    assert mhz <= card.max_mhz
    assert card.tflops["fp16"] * mhz / card.max_mhz == pytest.approx(tflops, rel=3e-3)
    assert card.tflops["bf16"] == card.tflops["fp16"] == 2 * card.tflops["fp32"]


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("RTX 3090", 82.6),  # bf16 GEMM at 1990 MHz, 16 % above its whitepaper
        ("RTX 4090", 167.8),  # zzc0721/torch-performance-test-data#20
        ("A100 80GB SXM", 271.2),  # stas00/ml-engineering, as the next two
        ("H100 SXM", 794.5),
        ("B200", 1745.0),
    ],
)
def test_a_gemm_that_others_measured_is_possible(name: str, tflops: float) -> None:
    card = named(name)
    for dtype in ("fp16", "bf16"):
        todo = Work(bytes=1, read_bytes=1, flops=10**12, dtype=dtype)
        assert dram_bound(todo, card).ms < 1e3 / tflops


@pytest.mark.parametrize(
    ("name", "bits", "mhz", "l2_bytes"),
    DRIVERS,
)
def test_memory_is_what_drivers_report(name: str, bits: int, mhz: int, l2_bytes: int) -> None:
    """Two transfers a clock. What lies between vendor and driver is less than the gate forgives."""
    card = named(name)
    assert card.dram_tb_per_s == pytest.approx(2 * bits / 8 * mhz / 1e6, rel=0.025)
    assert card.l2_bytes == l2_bytes


def test_every_card_is_held_against_vendor_and_driver() -> None:
    for table in (PAPERS, DRIVERS):
        assert {row[0] for row in table} == {card.name for card in CARDS}


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
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", True),
        ("Fancy GPU 9000 MIG 1g.5gb", "NVIDIA Fancy GPU 9000", True),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 D", False),
        ("NVIDIA H200", "NVIDIA H200 NVL", False),
        ("NVIDIA H200", "NVIDIA GeForce RTX 4090", False),
        ("Fancy GPU 9000", "Fancy GPU 8000", False),
    ):
        assert same_card(one, other) is same_card(other, one) is same
    assert is_slice("NVIDIA H200 MIG 1g.18gb")
    assert not is_slice("NVIDIA H200")

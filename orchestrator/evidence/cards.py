"""What each card can do at best, from its vendor's papers. The roofline stands on these numbers.

All are peaks, dense (no sparsity), with fp32 accumulation; no program has been faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class L2Peak:
    """Read bandwidth of the L2 cache, and who says so."""

    tb_per_s: float
    source: str
    third_party: bool
    """Measured by others, on a card of theirs: an indication, not a limit."""


@dataclass(frozen=True)
class Card:
    """Peaks of one card."""

    name: str
    pattern: str
    """Found in the device name as torch and nvidia-smi spell it, ignoring case."""
    dram_tb_per_s: float
    l2_bytes: int
    tflops: Mapping[str, float]
    """Per dtype of the inputs; fp32 may be computed as tf32 on the tensor cores."""
    source: str
    l2: L2Peak | None = None


def _tflops(half: float, single: float) -> dict[str, float]:
    return {"fp16": half, "bf16": half, "fp32": single}


_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_CHIPS_AND_CHEESE = "chipsandcheese.com, microbenchmarks of the card"
_A100_L2 = L2Peak(7.2, "NVIDIA A100 whitepaper: 5,120 bytes a clock at 1,410 MHz", False)
_HOPPER_L2 = L2Peak(5.6, f"{_CHIPS_AND_CHEESE} (H100 PCIe)", True)

# The first pattern that is found names the card: the special names come before the general ones.
CARDS: tuple[Card, ...] = (
    Card(
        "RTX 4090", r"\brtx 4090\b(?! (d|laptop))", 1.008, 72 * MIB, _tflops(165.2, 82.6),
        f"{_ADA}, appendix A", L2Peak(5.0, _CHIPS_AND_CHEESE, True),
    ),
    Card(
        "RTX 3090", r"\brtx 3090\b(?! (ti|laptop))", 0.936, 6 * MIB, _tflops(71.0, 35.6),
        "NVIDIA Ampere GA102 GPU Architecture whitepaper, table 9",
    ),
    Card(
        "L40S", r"\bl40s\b", 0.864, 96 * MIB, _tflops(362.1, 183.0),
        f"L40S datasheet; L2: {_ADA}",
    ),
    Card("L4", r"\bl4\b", 0.300, 48 * MIB, _tflops(121.0, 60.0), f"L4 datasheet; L2: {_ADA}"),
    Card("A10", r"\ba10\b", 0.600, 6 * MIB, _tflops(125.0, 62.5), "A10 datasheet; L2: GA102 paper"),
    Card(
        "A100 80GB PCIe", r"\ba100[- ]pcie[- ]80gb\b|\ba100 80gb pcie\b", 1.935, 40 * MIB,
        _tflops(312.0, 156.0), "A100 datasheet, 80GB PCIe", _A100_L2,
    ),
    Card(
        "A100 80GB SXM", r"\ba100\b.*\b80gb\b", 2.039, 40 * MIB, _tflops(312.0, 156.0),
        "A100 datasheet, 80GB SXM", _A100_L2,
    ),
    Card(
        "A100 40GB", r"\ba100\b.*\b40gb\b", 1.555, 40 * MIB, _tflops(312.0, 156.0),
        "NVIDIA A100 whitepaper, table 1", _A100_L2,
    ),
    Card(
        "H100 NVL", r"\bh100 nvl\b", 3.938, 50 * MIB, _tflops(835.5, 417.5),
        "H100 datasheet, NVL; L2: H100 whitepaper", _HOPPER_L2,
    ),
    Card(
        "H100 PCIe", r"\bh100[- ]pcie\b", 2.039, 50 * MIB, _tflops(756.0, 378.0),
        "H100 datasheet, PCIe; L2: H100 whitepaper", _HOPPER_L2,
    ),
    # torch and nvidia-smi say "NVIDIA H100 80GB HBM3" for the SXM module
    Card(
        "H100 SXM", r"\bh100 (80gb hbm3|sxm5?)\b|\bh100-sxm5?", 3.352, 50 * MIB,
        _tflops(989.4, 494.7), "H100 datasheet, SXM; L2: H100 whitepaper", _HOPPER_L2,
    ),
    Card(
        "H200", r"\bh200\b", 4.8, 50 * MIB, _tflops(989.4, 494.7),
        "H200 datasheet; L2 as H100", _HOPPER_L2,
    ),
    Card(
        "B200", r"(?<!g)\bb200\b", 8.0, 126 * MIB, _tflops(2250.0, 1125.0),
        "HGX B200 datasheet, an eighth; L2: as the driver reports it",
    ),
)  # fmt: skip

FASTEST = max(CARDS, key=lambda card: card.dram_tb_per_s)


def find_card(device: str) -> Card | None:
    """The card that a device name means; None for one that is not in the table.

    A name that fits several cards with different peaks ("H100", "A100") fits none: the limit
    would be a guess.
    """
    name = _plain(device)
    return next((card for card in CARDS if re.search(card.pattern, name)), None)


def same_card(one: str, other: str) -> bool:
    """Whether two names, torch's or nvidia-smi's, may be one card's; a slice is its card's."""
    names = {re.sub(r"^nvidia |\bgeforce | mig .*$", "", _plain(name)) for name in (one, other)}
    known = find_card(one)
    return len(names) == 1 or (known is not None and known == find_card(other))


def is_slice(device: str) -> bool:
    """Whether a device is a part of a card (MIG): the table has the peaks of the whole."""
    return " mig " in _plain(device)


def _plain(device: str) -> str:
    return re.sub(r"\s+", " ", device.replace("_", " ")).strip().lower()

"""What each card can do at best. The roofline stands on these numbers.

Dense (no sparsity), at the highest clock that the card's driver names: boost goes beyond the clock
that vendors count at (an RTX 3090 was measured at 82.6 TFLOP/s in bf16, its paper says 71).

Products of fp16 are accumulated in fp32 here. GeForce cards do twice as much with fp16
accumulators, but nothing that is timed has those: the kernels' `tl.dot` and the flash,
memory-efficient and cuDNN backends of SDPA accumulate in fp32, and so does its math backend unless
`torch.backends.cuda.matmul.allow_fp16_accumulation` is set, which the benchmark leaves alone. A
foreign kernel that has them is not refuted for it either: rows that come from DRAM and share no
keys meet this limit only beyond 94 heads (RTX 3090) or 201 (RTX 4090).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    """All of the device name, as torch and nvidia-smi spell it, that `_bare` leaves."""
    dram_tb_per_s: float
    l2_bytes: int
    sms: int
    half_flop: int
    """FLOPs of one SM in one clock, fp16 or bf16 accumulated in fp32."""
    max_mhz: int
    source: str
    l2: L2Peak | None = None

    @cached_property
    def tflops(self) -> Mapping[str, float]:
        """Per dtype of the inputs; fp32 may be computed as tf32, at half the rate of fp16."""
        half = round(self.sms * self.half_flop * self.max_mhz / 1e6, 1)
        return {"fp16": half, "bf16": half, "fp32": half / 2}


# Where the numbers stand in public. The vendor's papers are cited as others quote them, with table
# and page; the originals were not at hand. (1) marks a number that was found in one place only.
#
# Vendor:
#   ada    NVIDIA Ada GPU Architecture whitepaper 2.02, appendix A, table 2
#   ga102  NVIDIA Ampere GA102 GPU Architecture whitepaper 2, appendix A (RTX 3090)
#   gb20x  NVIDIA RTX Blackwell GPU Architecture whitepaper, table 3 (pp. 46-48), has both cards too
#   a100   NVIDIA A100 Tensor Core GPU Architecture whitepaper, p. 35 and table 4 (pp. 36-37)
#   h100   NVIDIA H100 Tensor Core GPU Architecture whitepaper, table 3 (pp. 39-40)
#   sheet  the card's datasheet or product page; where it counts sparsity, half of it
# Drivers of such cards, and measurements, at github.com:
#   xla    openxla/xla, xla/backends/gpu/target_config/specs/{b200,h100_sxm,h100_pcie,a100_*}.txtpb
#   mt4g   caps-tum/mt4g, sample_results/{NVIDIA H100 NVL,NVIDIA H100 80GB HBM3,...}/README.md
#   rrze   RRZE-HPC/gpu-benches, gpu-l2-cache/{a100_80,h100_pcie,h200,l40}.txt: plateaus
#   query  thamada/nvidia-smi, nvsim/{H100SXMx8,A100SXMx4}_deviceQuery.py
#   titan  pytorch/torchtitan, torchtitan/tools/utils.py, get_peak_flops: dense, from datasheets
#   stas   stas00/ml-engineering, compute/accelerator/README.md: dense TFLOPS, clocks, bandwidths
# Not to be used: torch/_inductor/analysis/device_info.py counts sparsity for H100 and L4, and has
# 3350 GB/s for the L4; a100_pcie_80 and h200 of xla were not read from such cards.

_RRZE = "RRZE-HPC/gpu-benches, gpu-l2-cache"
_AD102_L2 = L2Peak(5.3, f"{_RRZE}/l40.txt (L40, the same die)", True)
# 5120 bytes a clock (a100, p. 35; V100's 2048, and the 2.3 times of NVIDIA's blog, agree)
_A100_L2 = L2Peak(7.22, "NVIDIA A100 whitepaper, p. 35: 5,120 bytes a clock at 1,410 MHz", False)
_H100_PCIE_L2 = L2Peak(7.0, f"{_RRZE}/h100_pcie.txt", True)
# H100 SXM and NVL have as many SMs as the H200, which read it, and no higher a clock;
# tile-ai/tilelang, tilelang/carver/arch/h100.py has 8.7 for the SXM
_HOPPER_L2 = L2Peak(9.9, f"{_RRZE}/h200.txt (H200)", True)

CARDS: tuple[Card, ...] = (
    Card(
        "RTX 4090",
        r"rtx 4090",
        dram_tb_per_s=1.008,  # ada; NVIDIA/nvbench#207: 384 bit at 10501 MHz
        l2_bytes=72 * MIB,  # ada: 73728 KB; nvbench#207 (early reports of the paper say 96 MB)
        sms=128,  # ada; nvbench#207
        half_flop=512,  # ada: 165.2 TFLOPS at 2520 MHz; gb20x. pytorch#123157: 330.3 in fp16
        # nvidia-smi of such cards; boards differ: horizon-research/SnapPix, set_gpu.sh has one of
        # 3165, and cards are seen at up to 2820 (noonghunna/club-3090#697)
        max_mhz=3105,
        source="NVIDIA Ada GPU Architecture whitepaper 2.02, appendix A, table 2",
        l2=_AD102_L2,
    ),
    Card(
        "RTX 3090",
        r"rtx 3090",
        dram_tb_per_s=0.936,  # ga102; 384 bit at 9751 MHz (nicehash/NiceHashQuickMiner#206)
        l2_bytes=6 * MIB,  # ga102; Jumperkables/cuda-benchmarking, 00_deviceQuery/README.md
        sms=82,  # ga102; Jumperkables/cuda-benchmarking
        half_flop=512,  # gb20x: 71.2 TFLOPS at 1695 MHz; ga102: 71
        # nvidia-smi of several such cards, a stock one ran at 1965; seen at up to 2010
        max_mhz=2100,
        source="NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A",
    ),
    Card(
        "L40S",
        r"l40s",
        dram_tb_per_s=0.864,  # sheet; nvidia-smi of such a card: 9001 MHz, at 384 bit
        l2_bytes=96 * MIB,  # deviceQuery of such a card; rrze: L40 (some databases say 48 MB)
        sms=142,  # sheet: 568 tensor cores; deviceQuery of such a card
        half_flop=1024,  # sheet: 362.05 TFLOPS, at 2490 MHz; titan
        max_mhz=2520,  # nvidia-smi of such a card; stas: 91.6 TFLOPS in fp32 need it
        source="L40S datasheet; L2: deviceQuery",
        l2=_AD102_L2,
    ),
    Card(
        "L4",
        r"l4",
        dram_tb_per_s=0.300,  # sheet; deviceQuery of such a card: 192 bit at 6251 MHz
        l2_bytes=48 * MIB,  # deviceQuery of such a card: 49152 KB; fpsbench.com
        sms=58,  # deviceQuery of such a card; fpsbench.com: 7424 lanes (others say 60 SMs)
        half_flop=1024,  # sheet: 242 TFLOPS with sparsity, at 2040 MHz; 121 at stores
        max_mhz=2040,  # sheet; deviceQuery of such a card
        source="L4 datasheet; L2: deviceQuery",
    ),
    Card(
        "A10",
        r"a10",
        dram_tb_per_s=0.600,  # sheet; sysrqmts.com: 384 bit at 12.5 Gbit/s
        l2_bytes=6 * MIB,  # aalanwyr/face2cuda, step2cuda/README.md (deviceQuery); sysrqmts.com
        sms=72,  # 816778/Programming_And_Architecture_Practicas, p6/results; sysrqmts.com
        half_flop=1024,  # sheet: 125 TFLOPS in bf16, 62.5 in tf32, at 1695 MHz
        max_mhz=1695,  # face2cuda; Programming_And_Architecture_Practicas
        source="A10 datasheet; L2: deviceQuery",
    ),
    Card(
        "A100 80GB PCIe",
        r"a100 80gb pcie|a100[- ]pcie[- ]80gb",
        dram_tb_per_s=1.935,  # sheet; stas: 1.94; techpowerup.com: 5120 bit at 1512 MHz
        l2_bytes=40 * MIB,  # a100; rrze
        sms=108,  # a100; xla
        half_flop=2048,  # a100: 312 TFLOPS at 1410 MHz; titan
        max_mhz=1410,  # a100; stas
        source="A100 datasheet, 80GB PCIe; L2: A100 whitepaper, table 4",
        l2=_A100_L2,
    ),
    Card(
        "A100 80GB SXM",
        r"a100[- ]sxm4?[- ]80gb|a100 80gb sxm4?",
        dram_tb_per_s=2.039,  # sheet; xla; query: 5120 bit at 1593 MHz
        l2_bytes=40 * MIB,  # a100; xla; query
        sms=108,  # a100; xla; query
        half_flop=2048,  # a100: 312 TFLOPS at 1410 MHz; titan
        max_mhz=1410,  # a100; query
        source="A100 datasheet, 80GB SXM; L2: A100 whitepaper, table 4",
        l2=_A100_L2,
    ),
    Card(
        "A100 40GB",  # SXM and PCIe alike
        r"a100[- ](sxm4?|pcie)[- ]40gb|a100[- ]40gb( (sxm4?|pcie))?",
        dram_tb_per_s=1.555,  # a100; xla; mt4g (PCIe): 5120 bit at 1215 MHz
        l2_bytes=40 * MIB,  # a100; xla; mt4g
        sms=108,  # a100; xla; mt4g
        half_flop=2048,  # a100: 312 TFLOPS at 1410 MHz; titan
        max_mhz=1410,  # a100; xla; mt4g
        source="NVIDIA A100 whitepaper, table 4",
        l2=_A100_L2,
    ),
    Card(
        "H100 NVL",
        r"h100 nvl",
        # sheet: 3.9; 6016 bit at 2619 MHz. mt4g's driver says 6144 bit, 4.02 TB/s: 2 % more
        dram_tb_per_s=3.938,
        l2_bytes=60 * MIB,  # mt4g: 62914560 (1)
        sms=132,  # mt4g; fastfetch-cli/fastfetch#1658
        half_flop=4096,  # as H100 SXM; titan: 835 TFLOPS, at 1545 MHz
        max_mhz=1785,  # mt4g; fastfetch#1658
        source="H100 datasheet, NVL; L2: caps-tum/mt4g",
        l2=_HOPPER_L2,
    ),
    Card(
        "H100 PCIe",
        r"h100[- ]pcie",
        dram_tb_per_s=2.039,  # xla; 5120 bit at 1593 MHz (chipsandcheese.com); sheet: 2
        l2_bytes=50 * MIB,  # h100; xla; chipsandcheese.com
        sms=114,  # h100; xla; chipsandcheese.com
        half_flop=4096,  # as H100 SXM; sheet and titan: 756 TFLOPS, at 1620 MHz
        max_mhz=1755,  # xla; chipsandcheese.com
        source="openxla/xla, h100_pcie.txtpb; L2: H100 whitepaper, table 3",
        l2=_H100_PCIE_L2,
    ),
    Card(
        "H100 SXM",
        r"h100 80gb hbm3|h100[- ]sxm5?",
        dram_tb_per_s=3.352,  # xla; query and mt4g: 5120 bit at 2619 MHz; sheet: 3.35
        l2_bytes=50 * MIB,  # h100; xla; query; mt4g
        sms=132,  # h100; xla; query
        # sheet: 989.4 TFLOPS, at 1830 MHz (stas), though the same paper counts fp32 at 1980
        half_flop=4096,
        max_mhz=1980,  # xla; query; mt4g
        source="openxla/xla, h100_sxm.txtpb; L2: H100 whitepaper, table 3",
        l2=_HOPPER_L2,
    ),
    Card(
        "H200",
        r"h200([- ]sxm5?)?",
        # sheet; stas. awslabs/amazon-eks-ami#1985: 3201 MHz, 4.92 TB/s at 6144 bit: 2 % more
        dram_tb_per_s=4.8,
        # ai-bot-pro/achatbot, deploy/modal/src/llm/vllm/vlm/skywork_r1v.py: torch says 60MB;
        # accel-sim/accel-sim-framework#534: 96 slices, an H100's 80 are 50 MiB. stas and xla: 50
        l2_bytes=60 * MIB,
        sms=132,  # achatbot; stas
        half_flop=4096,  # as H100 SXM; titan: 989 TFLOPS
        max_mhz=1980,  # amazon-eks-ami#1985
        source="H200 datasheet; L2: as torch reports it",
        l2=_HOPPER_L2,
    ),
    Card(
        "B200",
        r"b200",
        # xla and pytorch/ao#4002: 7680 bit at 3996 MHz, which a newer driver corrected from 8192.
        # The DGX B200 datasheet's 8 lies within the gate's tolerance
        dram_tb_per_s=7.672,
        l2_bytes=253 * MIB // 2,  # xla: 132644864, 126.5 MiB; pytorch/ao#4002
        sms=148,  # xla; pytorch/ao#4002
        half_flop=8192,  # sheet and titan: 2250 TFLOPS, at 1856 MHz
        max_mhz=1965,  # xla; stas
        source="openxla/xla, b200.txtpb; pytorch/ao#4002",
    ),
)

FASTEST = max(CARDS, key=lambda card: card.dram_tb_per_s)


@lru_cache
def find_card(device: str) -> Card | None:
    """The card that a device name means; None for one that is not in the table.

    A name that fits several cards with different peaks ("H100", "A100 80GB") fits none: the limit
    would be a guess. Nor does one with more in it than a card's ("RTX 4090 D", "H200 NVL"): that
    is another card. A slice is its card's.
    """
    name = _bare(device)
    return next((card for card in CARDS if re.fullmatch(card.pattern, name)), None)


def cards_like(name: str) -> tuple[Card, ...]:
    """Those that a person may mean by a short name: `4090`, `rtx4090`, `H100`."""
    card = find_card(name)
    if card is not None:
        return (card,)
    short = _letters(_bare(name))
    return tuple(card for card in CARDS if short and short in _letters(card.name))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def same_card(one: str, other: str) -> bool:
    """Whether two names, torch's or nvidia-smi's, may be one card's; a slice is its card's."""
    known = find_card(one)
    return _bare(one) == _bare(other) or (known is not None and known == find_card(other))


@lru_cache
def is_slice(device: str) -> bool:
    """Whether a device is a part of a card (MIG): the table has the peaks of the whole."""
    return " mig " in _plain(device)


def _bare(device: str) -> str:
    """The name without its maker, its brand, and what makes it a slice."""
    return re.sub(r"^nvidia |\bgeforce | mig .*$", "", _plain(device))


def _plain(device: str) -> str:
    return re.sub(r"\s+", " ", device.replace("_", " ")).strip().lower()

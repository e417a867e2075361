"""Inputs and checks that several test files share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels.bench.contract import CPU_INTERPRETER, MAX_MAE
from kernels.selection.checks import max_err, mean_err
from kernels.selection.flags import Flags

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DEVICE_NAME = torch.cuda.get_device_name() if DEVICE.type == "cuda" else CPU_INTERPRETER
# the interpreter computes bf16 wrongly
DTYPES = (torch.float16, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32)

MAX_ERR = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}
"""Largest element error: a few roundings of outputs of size 1 to 4."""

FORMS = ("group", "head")


def randn(*shape, dtype=torch.float16):
    return torch.randn(*shape).to(DEVICE, dtype)


def passes(kernel, form):
    """The launches that serve rows: one, or two where a GPU is large enough to split them."""
    return (
        [f"{kernel}_fwd.{form}"],
        [f"{kernel}_split.{form}", f"{kernel}_combine.{form}"],
    )


def triton_flags(**changes):
    """Flags under which dispatch must choose Triton.

    What does not choose the path comes from the environment: double buffering and diagnostics.
    """
    chosen = {"group": True, "force_path": "auto", "allow_grad": False, "require_align": False}
    chosen["fallback"] = "packed"  # what does not run on Triton must not wait for torch's compiler
    always = {"use_triton": True, "min_l": 0, "force_device": True}
    return replace(Flags.from_env(), **(always | chosen | changes))


@dataclass(frozen=True)
class Selection:
    """Inputs of the selection operator."""

    Q: torch.Tensor
    K: torch.Tensor
    V: torch.Tensor
    ranges: torch.Tensor

    def __iter__(self):
        return iter((self.Q, self.K, self.V, self.ranges))


def selection(ranges, *, S_kv, h=2, D=16, Dv=16, dtype=torch.float16):
    """Random Q, K, V around the given `ranges[B, S, G, n, 2]`."""
    ranges = torch.as_tensor(ranges, device=DEVICE)
    B, S, G = ranges.shape[:3]
    return Selection(
        randn(B, S, G, h, D, dtype=dtype),
        randn(B, G, S_kv, D, dtype=dtype),
        randn(B, G, S_kv, Dv, dtype=dtype),
        ranges,
    )


def row(ranges, **options):
    """Inputs of one row of these ranges, in a cache of 300 keys."""
    return selection([[[ranges]]], **{"S_kv": 300, "dtype": torch.float32} | options)


def spread_ranges(B, S, G, n, width, S_kv):
    """`n` disjoint ranges of `width` keys a row, at random places, in random order."""
    room = S_kv // n
    start = torch.randint(0, room - width + 1, (B, S, G, n)) + torch.arange(n) * room
    start = start.gather(-1, torch.rand(B, S, G, n).argsort(-1))
    return torch.stack([start, start + width], dim=-1)


def assert_matches(out, oracle, dtype=None):
    """Mean and largest error within the limits; NaN and infinity never pass."""
    dtype = dtype or out.dtype
    assert out.shape == oracle.shape
    assert torch.isfinite(out).all(), "output holds NaN or infinity"
    mae, worst = mean_err(out, oracle), max_err(out, oracle)
    assert mae <= MAX_MAE, f"mean error {mae:.3g} > {MAX_MAE:g}"
    assert worst <= MAX_ERR[dtype], f"largest error {worst:.3g} > {MAX_ERR[dtype]:g}"


def record_parity(record_property, out, oracle, packed, kernel_path):
    """Leave the measured parity in the JUnit file, then judge it."""
    record_property("mae", mean_err(out, oracle))
    record_property("max_err", max_err(out, oracle))
    record_property("mae_vs_packed", mean_err(out, packed))
    record_property("kernel_path", kernel_path)
    record_property("device", DEVICE_NAME)
    assert_matches(packed, oracle, out.dtype)
    assert_matches(out, oracle)
    assert mean_err(out, packed) <= MAX_MAE

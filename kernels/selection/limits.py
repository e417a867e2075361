"""What the kernels serve: every check that a launcher makes before it launches."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernel
from .errors import (
    InvalidInput,
    Misaligned,
    UnsupportedDevice,
    UnsupportedDtype,
    UnsupportedGrad,
    UnsupportedShape,
)
from .flags import Flags
from .packing import wants_grad
from .tuning import MAX_GROUP_HEADS, MAX_HEAD_DIM

MAX_KEYS = 2**30
"""Positions within a row are int32, and a last tile reaches beyond the last key."""
MAX_RANGES = 128
ALIGNMENT_BYTES = 16

INTERPRETED = not isinstance(kernel.ranges_fwd, triton.runtime.jit.JITFunction)
"""Whether `TRITON_INTERPRET=1` was set when Triton was imported."""


def check_index(name: str, index: Tensor, size: int, Q: Tensor) -> None:
    """Raise `InvalidInput` unless `index` is `[size]` integers beside Q."""
    if index.shape != (size,) or index.dtype not in (torch.int32, torch.int64):
        raise InvalidInput(
            f"{name} must be [{size}] int32 or int64, got {list(index.shape)} {index.dtype}"
        )
    if index.device != Q.device:
        raise InvalidInput(f"{name} is on {index.device}, Q on {Q.device}")
    if not index.is_contiguous():
        raise InvalidInput(f"{name} must be contiguous")


def check_supported(Q: Tensor, K: Tensor, V: Tensor, group: bool, flags: Flags) -> None:
    """Raise `Unsupported` unless the kernels can serve these, `InvalidInput` if they are mixed.

    Args:
        Q: `[..., H, D]`.
        K: `[..., keys, D]`.
        V: `[..., keys, Dv]`.
        group: all heads of a row in one tile.
        flags: only `require_align` matters here.
    """
    if not Q.dtype == K.dtype == V.dtype:
        raise InvalidInput(f"Q, K, V differ in dtype: {Q.dtype}, {K.dtype}, {V.dtype}")
    if not Q.device == K.device == V.device:
        raise InvalidInput(f"Q, K, V differ in device: {Q.device}, {K.device}, {V.device}")
    if Q.device.type != "cuda" and not INTERPRETED:
        raise UnsupportedDevice(f"Triton runs on CUDA devices, the tensors are on {Q.device}")
    if Q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedDtype(f"the kernels compute fp16, bf16 and fp32, got {Q.dtype}")
    if wants_grad(Q, K, V):
        raise UnsupportedGrad(
            "an input requires grad, and the kernels have no backward: call under torch.no_grad(), "
            "or selection_attention with NSA_SEL_TRITON_ALLOW_GRAD=1"
        )
    if INTERPRETED and Q.dtype is torch.bfloat16:
        raise UnsupportedDtype("Triton's interpreter computes bf16 wrongly; use fp16 or fp32")
    H, D, Dv = Q.shape[-2], Q.shape[-1], V.shape[-1]
    if not (1 <= D <= MAX_HEAD_DIM and Dv <= MAX_HEAD_DIM):
        raise UnsupportedShape(f"head dimensions must be 1 to {MAX_HEAD_DIM}, got D={D}, Dv={Dv}")
    if group and H > MAX_GROUP_HEADS:
        raise UnsupportedShape(f"a group tile holds at most {MAX_GROUP_HEADS} heads, got {H}")
    if K.shape[-2] > MAX_KEYS:
        raise UnsupportedShape(f"at most {MAX_KEYS} keys can be addressed, got {K.shape[-2]}")
    if flags.require_align:
        for name, tensor in (("Q", Q), ("K", K), ("V", V)):
            _check_aligned(name, tensor)


def check_ranges(n: int) -> None:
    """Raise `UnsupportedShape` if a row has more ranges than fit in registers."""
    if n > MAX_RANGES:
        raise UnsupportedShape(
            f"ranges are read in place up to {MAX_RANGES} a row, got {n}; "
            "NSA_SEL_TRITON_FORCE_PATH=dense or varlen takes any number"
        )


def _check_aligned(name: str, tensor: Tensor) -> None:
    """Every row must start on 16 bytes and be contiguous: the widest load a thread can do."""
    if tensor.stride(-1) != 1:
        raise Misaligned(f"{name} has stride {tensor.stride(-1)} along the head dimension, not 1")
    starts = [tensor.data_ptr(), *(s * tensor.element_size() for s in tensor.stride()[:-1])]
    if any(start % ALIGNMENT_BYTES for start in starts):
        raise Misaligned(
            f"rows of {name} do not start on {ALIGNMENT_BYTES} bytes: "
            f"strides {list(tensor.stride())} of {tensor.element_size()} bytes"
        )

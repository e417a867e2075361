"""Launchers: validate, choose launch parameters, launch. They raise; they never fall back.

`*_group` reads each K/V byte once for all heads of a row; the plain form runs one program per
head. Both compute in fp32 and return the dtype of Q.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from . import kernel
from .errors import (
    InvalidInput,
    KernelBuildError,
    Misaligned,
    UnsupportedDevice,
    UnsupportedDtype,
    UnsupportedGrad,
    UnsupportedShape,
)
from .flags import Flags
from .packing import (
    check_inputs,
    fill_slots,
    gather_rows,
    normalise_ranges,
    pack_varlen,
    wants_grad,
)
from .tuning import INTERPRETER, LaunchParams, launch_params

MAX_HEAD_DIM = 512
MAX_GROUP_HEADS = 64
ALIGNMENT_BYTES = 16

INTERPRETED = not isinstance(kernel.ranges_fwd, triton.runtime.jit.JITFunction)
"""Whether `TRITON_INTERPRET=1` was set when Triton was imported."""

_launched: ContextVar[list[str] | None] = ContextVar("launched", default=None)


@contextlib.contextmanager
def record_launches() -> Iterator[list[str]]:
    """Collect the names of the kernels that really start, e.g. `dense_rows_fwd.group`.

    Records may be nested: an outer one gets what its inner ones got.
    """
    names: list[str] = []
    outer = _launched.get()
    token = _launched.set(names)
    try:
        yield names
    finally:
        _launched.reset(token)
        if outer is not None:
            outer += names


def sel_attn_fwd_dense(
    Q: Tensor, K: Tensor, V: Tensor, *, lengths: Tensor | None = None, flags: Flags | None = None
) -> Tensor:
    """Rows with their own keys, one program per head.

    Args:
        Q: `[N, H, D]`.
        K: `[N, L, D]`.
        V: `[N, L, Dv]`.
        lengths: `[N]` integers: how many leading keys of each row count; None means all.
        flags: None reads the environment; only `double_buffer` and `require_align` matter here.

    Returns:
        `[N, H, Dv]`; zeros for a row without keys.

    Raises:
        InvalidInput: the tensors contradict each other.
        Unsupported: a shape, dtype, device or alignment the kernels do not serve, or a kernel
            that Triton cannot build.
    """
    return _dense(Q, K, V, lengths, flags, group=False)


def sel_attn_fwd_dense_group(
    Q: Tensor, K: Tensor, V: Tensor, *, lengths: Tensor | None = None, flags: Flags | None = None
) -> Tensor:
    """`sel_attn_fwd_dense` with all heads of a row in one tile; at most 64 heads."""
    return _dense(Q, K, V, lengths, flags, group=True)


def sel_attn_fwd_varlen(
    Q: Tensor, K_all: Tensor, V_all: Tensor, cu_seqlens: Tensor, *, flags: Flags | None = None
) -> Tensor:
    """Rows end to end, one program per head.

    Args:
        Q: `[N, H, D]`.
        K_all: `[sum L, D]`; may be longer than `cu_seqlens[-1]`.
        V_all: `[sum L, Dv]`.
        cu_seqlens: `[N + 1]` int32 or int64; row `i` owns keys `cu_seqlens[i]` to
            `cu_seqlens[i + 1]`. Clamped to the keys there are.
        flags: None reads the environment.

    Returns:
        `[N, H, Dv]`; zeros for a row without keys.

    Raises:
        InvalidInput, Unsupported: as `sel_attn_fwd_dense`.
    """
    return _varlen(Q, K_all, V_all, cu_seqlens, flags, group=False)


def sel_attn_fwd_varlen_group(
    Q: Tensor, K_all: Tensor, V_all: Tensor, cu_seqlens: Tensor, *, flags: Flags | None = None
) -> Tensor:
    """`sel_attn_fwd_varlen` with all heads of a row in one tile; at most 64 heads."""
    return _varlen(Q, K_all, V_all, cu_seqlens, flags, group=True)


def sel_attn_fwd_ranges(
    Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor, *, group: bool, flags: Flags | None = None
) -> Tensor:
    """Selection attention that reads the selected keys in place: nothing is gathered.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty; a key that
            several ranges select counts once.
        group: all heads of a group in one tile, or one program per head.
        flags: None reads the environment.

    Returns:
        `[B, S, G, h, Dv]`; zeros for a row that selects nothing.

    Raises:
        InvalidInput, Unsupported: as `sel_attn_fwd_dense`.
    """
    check_inputs(Q, K, V, ranges)
    flags = flags or Flags.from_env()
    B, S, G, H, D = Q.shape
    _check_supported(Q, K, V, group, flags)
    out = torch.empty(B, S, G, H, V.shape[3], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or K.shape[2] == 0 or ranges.shape[3] == 0:
        return out.zero_()
    spans = normalise_ranges(ranges, K.shape[2]).to(torch.int32)
    _launch(
        kernel.ranges_fwd,
        B * S * G,
        Q,
        V,
        group,
        flags,
        args=(
            Q,
            K,
            V,
            spans,
            out,
            *Q.stride(),
            *K.stride(),
            *V.stride(),
            S,
            G,
            H,
            ranges.shape[3],
            1.0 / math.sqrt(D),
        ),
    )
    return out


def selection_attention_triton(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    *,
    max_len: int | None = None,
    flags: Flags | None = None,
) -> Tensor:
    """Selection attention on Triton, along `flags.force_path`; no threshold, policy or fallback.

    `auto` reads the ranges in place. `dense` and `varlen` gather first, on Triton's side of any
    comparison, and run the row kernels.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`.
        max_len: an upper bound on the keys a row selects, for the two packed paths; None pads to
            `S_kv`. A row that selects more gets NaN.
        flags: None reads the environment.

    Returns:
        `[B, S, G, h, Dv]`, dtype of Q; zeros for a row that selects nothing.

    Raises:
        InvalidInput, Unsupported: as `sel_attn_fwd_dense`.
    """
    flags = flags or Flags.from_env()
    check_inputs(Q, K, V, ranges)
    nothing = 0 in (*Q.shape[:4], K.shape[2], V.shape[3], ranges.shape[3])
    if flags.force_path == "auto" or nothing:
        return sel_attn_fwd_ranges(Q, K, V, ranges, group=flags.group, flags=flags)
    _check_supported(Q, K, V, flags.group, flags)
    slots = fill_slots(ranges, K.shape[2], max_len)
    rows = Q.reshape(-1, *Q.shape[3:])
    if flags.force_path == "dense":
        out = _dense(
            rows,
            gather_rows(K, slots.keys).flatten(0, 2),
            gather_rows(V, slots.keys).flatten(0, 2),
            slots.lengths.reshape(-1),
            flags,
            group=flags.group,
        )
    else:
        packed = pack_varlen(K, V, slots)
        out = _varlen(rows, packed.K_all, packed.V_all, packed.cu_seqlens, flags, group=flags.group)
    out = out.view(*Q.shape[:4], V.shape[3])
    if max_len is None:
        return out
    return torch.where((slots.lengths > slots.keys.shape[-1])[..., None, None], math.nan, out)


def _dense(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    lengths: Tensor | None,
    flags: Flags | None,
    *,
    group: bool,
) -> Tensor:
    flags = flags or Flags.from_env()
    if Q.dim() != 3 or K.dim() != 3 or V.dim() != 3:
        raise InvalidInput(
            "expected Q [N,H,D], K [N,L,D], V [N,L,Dv]; got "
            f"{list(Q.shape)}, {list(K.shape)}, {list(V.shape)}"
        )
    N, H, D = Q.shape
    if K.shape[0] != N or K.shape[2] != D or V.shape[:2] != K.shape[:2]:
        raise InvalidInput(f"K {list(K.shape)}, V {list(V.shape)} do not fit Q {list(Q.shape)}")
    if lengths is not None:
        _check_index("lengths", lengths, N, Q)
    _check_supported(Q, K, V, group, flags)
    out = torch.empty(N, H, V.shape[2], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or K.shape[1] == 0:
        return out.zero_()
    _launch(
        kernel.dense_rows_fwd,
        N,
        Q,
        V,
        group,
        flags,
        args=(
            Q,
            K,
            V,
            lengths,
            out,
            *Q.stride(),
            *K.stride(),
            *V.stride(),
            H,
            K.shape[1],
            1.0 / math.sqrt(D),
        ),
        HAS_LENGTHS=lengths is not None,
    )
    return out


def _varlen(
    Q: Tensor,
    K_all: Tensor,
    V_all: Tensor,
    cu_seqlens: Tensor,
    flags: Flags | None,
    *,
    group: bool,
) -> Tensor:
    flags = flags or Flags.from_env()
    if Q.dim() != 3 or K_all.dim() != 2 or V_all.dim() != 2:
        raise InvalidInput(
            "expected Q [N,H,D], K_all [keys,D], V_all [keys,Dv]; got "
            f"{list(Q.shape)}, {list(K_all.shape)}, {list(V_all.shape)}"
        )
    N, H, D = Q.shape
    if K_all.shape[1] != D or V_all.shape[0] != K_all.shape[0]:
        raise InvalidInput(
            f"K_all {list(K_all.shape)}, V_all {list(V_all.shape)} do not fit Q {list(Q.shape)}"
        )
    _check_index("cu_seqlens", cu_seqlens, N + 1, Q)
    _check_supported(Q, K_all, V_all, group, flags)
    out = torch.empty(N, H, V_all.shape[1], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or K_all.shape[0] == 0:
        return out.zero_()
    _launch(
        kernel.varlen_rows_fwd,
        N,
        Q,
        V_all,
        group,
        flags,
        args=(
            Q,
            K_all,
            V_all,
            cu_seqlens,
            out,
            *Q.stride(),
            *K_all.stride(),
            *V_all.stride(),
            H,
            K_all.shape[0],
            1.0 / math.sqrt(D),
        ),
    )
    return out


def _check_index(name: str, index: Tensor, size: int, Q: Tensor) -> None:
    if index.shape != (size,) or index.dtype not in (torch.int32, torch.int64):
        raise InvalidInput(
            f"{name} must be [{size}] int32 or int64, got {list(index.shape)} {index.dtype}"
        )
    if index.device != Q.device:
        raise InvalidInput(f"{name} is on {index.device}, Q on {Q.device}")
    if not index.is_contiguous():
        raise InvalidInput(f"{name} must be contiguous")


def _check_supported(Q: Tensor, K: Tensor, V: Tensor, group: bool, flags: Flags) -> None:
    """Raise `Unsupported` unless the kernels can serve these, `InvalidInput` if they are mixed."""
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
    if flags.require_align:
        for name, tensor in (("Q", Q), ("K", K), ("V", V)):
            _check_aligned(name, tensor)


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


def _launch(
    function: Any,
    rows: int,
    Q: Tensor,
    V: Tensor,
    group: bool,
    flags: Flags,
    *,
    args: tuple[object, ...],
    **constants: object,
) -> None:
    H, D, Dv = Q.shape[-2], Q.shape[-1], V.shape[-1]
    heads = H if group else 1
    params = _params(Q, max(D, Dv), flags)
    try:
        with torch.cuda.device_of(Q):
            function[(rows * triton.cdiv(H, heads),)](
                *args,
                HEADS=heads,
                D=D,
                DV=Dv,
                BLOCK_H=_tile(heads),
                BLOCK_L=params.block_l,
                BLOCK_D=_tile(D),
                BLOCK_DV=_tile(Dv),
                num_warps=params.num_warps,
                num_stages=params.num_stages,
                **constants,
            )
    except _BUILD_ERRORS as error:
        raise KernelBuildError(f"{_name(function)}: {error}") from error
    except RuntimeError as error:
        # a failed compiler pass has no type of its own
        if "PassManager" not in str(error):
            raise
        raise KernelBuildError(f"{_name(function)}: {error}") from error
    names = _launched.get()
    if names is not None:
        names.append(f"{_name(function)}.{'group' if group else 'head'}")


def _params(Q: Tensor, head_dim: int, flags: Flags) -> LaunchParams:
    capability = INTERPRETER
    if Q.is_cuda:
        capability = torch.cuda.get_device_capability(Q.device)
    params = launch_params(
        _tile(head_dim), Q.element_size(), capability, double_buffer=flags.double_buffer
    )
    return replace(
        params,
        num_warps=flags.num_warps or params.num_warps,
        num_stages=flags.num_stages or params.num_stages,
    )


def _tile(size: int) -> int:
    """Smallest tile side that holds `size`: `tl.dot` wants powers of two from 16 on."""
    return max(16, triton.next_power_of_2(size))


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or function.fn.__name__)


def _build_errors() -> tuple[type[Exception], ...]:
    """Triton's own errors of building a kernel; where they live moved between 2.3 and 3.x."""
    found = [triton.compiler.CompilationError]
    for module in ("triton.runtime.errors", "triton.runtime.autotuner", "triton.compiler.errors"):
        with contextlib.suppress(ImportError):
            names = vars(__import__(module, fromlist=["*"]))
            found += [names[n] for n in ("OutOfResources", "PTXASError") if n in names]
    return tuple(dict.fromkeys(found))


_BUILD_ERRORS = _build_errors()

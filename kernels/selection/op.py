"""Launchers: validate, choose launch parameters, launch. They raise; they never fall back.

`*_group` reads each K/V byte once for all heads of a row; the plain form runs one program per
head. Both compute in fp32 and return the dtype of Q.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from .errors import InvalidInput
from .flags import Flags
from .launch import CHUNK_RANGES, MIN_RANGES, launch_rows, plan_launch, record_launches
from .limits import INTERPRETED, check_index, check_ranges, check_supported
from .packing import check_inputs, fill_slots, gather_rows, pack_varlen, slot_capacity
from .tuning import LaunchParams

__all__ = [
    "INTERPRETED",
    "record_launches",
    "sel_attn_fwd_dense",
    "sel_attn_fwd_dense_group",
    "sel_attn_fwd_ranges",
    "sel_attn_fwd_varlen",
    "sel_attn_fwd_varlen_group",
    "selection_attention_triton",
]


def sel_attn_fwd_dense(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    *,
    lengths: Tensor | None = None,
    flags: Flags | None = None,
    params: LaunchParams | None = None,
) -> Tensor:
    """Rows with their own keys, one program per head.

    Args:
        Q: `[N, H, D]`.
        K: `[N, L, D]`.
        V: `[N, L, Dv]`.
        lengths: `[N]` integers: how many leading keys of each row count; None means all.
        flags: None reads the environment; what concerns the path does not matter here.
        params: in place of the tuning table's, for measuring.

    Returns:
        `[N, H, Dv]`; zeros for a row without keys.

    Raises:
        InvalidInput: the tensors contradict each other.
        Unsupported: a shape, dtype, device or alignment the kernels do not serve, or a kernel
            that Triton cannot build.
    """
    return _dense(Q, K, V, lengths, flags, group=False, params=params)


def sel_attn_fwd_dense_group(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    *,
    lengths: Tensor | None = None,
    flags: Flags | None = None,
    params: LaunchParams | None = None,
) -> Tensor:
    """`sel_attn_fwd_dense` with all heads of a row in one tile; at most 64 heads."""
    return _dense(Q, K, V, lengths, flags, group=True, params=params)


def sel_attn_fwd_varlen(
    Q: Tensor,
    K_all: Tensor,
    V_all: Tensor,
    cu_seqlens: Tensor,
    *,
    max_len: int | None = None,
    flags: Flags | None = None,
    params: LaunchParams | None = None,
) -> Tensor:
    """Rows end to end, one program per head.

    Args:
        Q: `[N, H, D]`.
        K_all: `[sum L, D]`; may be longer than `cu_seqlens[-1]`.
        V_all: `[sum L, Dv]`.
        cu_seqlens: `[N + 1]` int32 or int64; row `i` owns keys `cu_seqlens[i]` to
            `cu_seqlens[i + 1]`. Clamped to the keys there are.
        max_len: keys of the longest row, at least 1, if the host knows. A hint, by which rows of
            equal length are known where `K_all` ends with the last: a wrong one costs time alone.
        flags: None reads the environment.
        params: in place of the tuning table's, for measuring.

    Returns:
        `[N, H, Dv]`; zeros for a row without keys.

    Raises:
        InvalidInput, Unsupported: as `sel_attn_fwd_dense`.
    """
    return _varlen(Q, K_all, V_all, cu_seqlens, flags, group=False, max_len=max_len, params=params)


def sel_attn_fwd_varlen_group(
    Q: Tensor,
    K_all: Tensor,
    V_all: Tensor,
    cu_seqlens: Tensor,
    *,
    max_len: int | None = None,
    flags: Flags | None = None,
    params: LaunchParams | None = None,
) -> Tensor:
    """`sel_attn_fwd_varlen` with all heads of a row in one tile; at most 64 heads."""
    return _varlen(Q, K_all, V_all, cu_seqlens, flags, group=True, max_len=max_len, params=params)


def sel_attn_fwd_ranges(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    *,
    group: bool,
    max_len: int | None = None,
    flags: Flags | None = None,
    params: LaunchParams | None = None,
) -> Tensor:
    """Selection attention that reads the selected keys in place: nothing is gathered.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty; a key that
            several ranges select counts once. At most 128 a row; not contiguous ones are copied.
        group: all heads of a group in one tile, or one program per head.
        max_len: a bound on the keys a row selects, at least 1. A hint: a wrong one costs time
            alone.
        flags: None reads the environment.
        params: in place of the tuning table's, for measuring.

    Returns:
        `[B, S, G, h, Dv]`; zeros for a row that selects nothing.

    Raises:
        InvalidInput, Unsupported: as `sel_attn_fwd_dense`.
    """
    check_inputs(Q, K, V, ranges)
    flags = flags or Flags.from_env()
    _, S, G, H, _ = Q.shape
    n, S_kv = ranges.shape[3], K.shape[2]
    check_supported(Q, K, V, group, flags)
    check_ranges(n)
    out = torch.empty(*Q.shape[:4], V.shape[3], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or S_kv == 0 or n == 0:
        return out.zero_()
    length = slot_capacity(S_kv, max_len)
    plan = plan_launch("ranges", Q, V.shape[3], length, group=group, flags=flags, params=params)
    places = 1 if n == 1 else max(MIN_RANGES, triton.next_power_of_2(n))
    launch_rows(
        "ranges",
        plan,
        Q,
        V,
        out,
        group=group,
        inputs=(Q, K, V, ranges.contiguous()),
        sizes=(*Q.stride(), *K.stride(), *V.stride(), S, G, H, S_kv, n),
        BLOCK_N=places,
        CHUNK_N=min(places, CHUNK_RANGES),
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
        return sel_attn_fwd_ranges(Q, K, V, ranges, group=flags.group, max_len=max_len, flags=flags)
    check_supported(Q, K, V, flags.group, flags)
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
    params: LaunchParams | None = None,
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
        check_index("lengths", lengths, N, Q)
    check_supported(Q, K, V, group, flags)
    out = torch.empty(N, H, V.shape[2], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or K.shape[1] == 0:
        return out.zero_()
    L = K.shape[1]
    launch_rows(
        "dense_rows",
        plan_launch("dense", Q, V.shape[2], L, group=group, flags=flags, params=params),
        Q,
        V,
        out,
        group=group,
        inputs=(Q, K, V, lengths),
        sizes=(*Q.stride(), *K.stride(), *V.stride(), H, L),
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
    max_len: int | None = None,
    params: LaunchParams | None = None,
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
    check_index("cu_seqlens", cu_seqlens, N + 1, Q)
    check_supported(Q, K_all, V_all, group, flags)
    keys = K_all.shape[0]
    longest = slot_capacity(keys, max_len)
    out = torch.empty(N, H, V_all.shape[1], dtype=Q.dtype, device=Q.device)
    if out.numel() == 0 or keys == 0:
        return out.zero_()
    mean = math.ceil(keys / N)  # how long each row is is known to the device only
    # equal rows want the tiles of dense ones, not those with which ragged ones balance best
    form = "dense" if longest <= mean else "varlen"
    launch_rows(
        "varlen_rows",
        plan_launch(form, Q, V_all.shape[1], mean, group=group, flags=flags, params=params),
        Q,
        V_all,
        out,
        group=group,
        inputs=(Q, K_all, V_all, cu_seqlens),
        sizes=(*Q.stride(), *K_all.stride(), *V_all.stride(), H, keys),
    )
    return out

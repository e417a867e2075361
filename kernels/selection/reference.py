"""What the kernels are measured against: fp64 oracles, and the packed SDPA reference.

The *oracles* are slow and obvious on purpose: one row at a time, fp64, sets of keys. Nothing in
them is shared with the kernels or with the packing, so they cannot be wrong in the same way.

The *packed references* are what production runs with Triton off: a vectorised gather on the
device, then `scaled_dot_product_attention` with one batch entry per row, the heads of the group
as its queries and a boolean mask over the padding. They never pass `is_causal=True`: with fewer
queries than keys its mask is aligned top-left, and one query then attends the first key only.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InvalidInput
from .packing import check_inputs, fill_slots, gather_rows, take, wants_grad

MAX_SDPA_ROWS = 32768
"""Rows per SDPA call: CUDA backends put the batch on a grid axis that ends at 65535."""


def attend_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of one row in fp64: `q[H, D], k[L, D], v[L, Dv]` gives `[H, Dv]`.

    A row without keys gives zeros, and so does a head whose scores are all -inf: nothing weighs.
    """
    if k.shape[0] == 0:
        return torch.zeros(q.shape[0], v.shape[1], dtype=torch.float64, device=q.device)
    scores = q.double() @ k.double().T / math.sqrt(q.shape[1])  # [H, L]
    weighty = (scores != -math.inf).any(dim=-1, keepdim=True)
    return torch.where(weighty, scores, 0).softmax(dim=-1) * weighty @ v.double()


def selected_keys(ranges: list[list[int]], S_kv: int) -> list[int]:
    """The union of one row's ranges, as sorted keys, by Python sets."""
    keys: set[int] = set()
    for start, end in ranges:
        keys.update(range(max(start, 0), min(end, S_kv)))
    return sorted(keys)


def selection_attention_oracle(Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor) -> Tensor:
    """Attention over the union of the selected keys, in fp64, one row at a time.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty.

    Returns:
        `[B, S, G, h, Dv]` fp64; zeros for a row that selects nothing.
    """
    check_inputs(Q, K, V, ranges)
    B, S, G, h, _ = Q.shape
    out = torch.zeros(B, S, G, h, V.shape[-1], dtype=torch.float64, device=Q.device)
    spans = ranges.tolist()
    for b in range(B):
        for s in range(S):
            for g in range(G):
                keys = selected_keys(spans[b][s][g], K.shape[2])
                out[b, s, g] = attend_row(Q[b, s, g], K[b, g, keys], V[b, g, keys])
    return out


def dense_attention_oracle(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Rows with their own keys: `Q[N, H, D], K[N, L, D], V[N, L, Dv]` gives `[N, H, Dv]` fp64."""
    out = torch.zeros(Q.shape[0], Q.shape[1], V.shape[2], dtype=torch.float64, device=Q.device)
    for row in range(Q.shape[0]):
        out[row] = attend_row(Q[row], K[row], V[row])
    return out


def varlen_attention_oracle(Q: Tensor, K_all: Tensor, V_all: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Rows end to end: row `i` owns keys `cu_seqlens[i]` to `cu_seqlens[i + 1]`.

    Args:
        Q: `[N, H, D]`.
        K_all: `[sum L, D]`.
        V_all: `[sum L, Dv]`.
        cu_seqlens: `[N + 1]`.

    Returns:
        `[N, H, Dv]` fp64.
    """
    out = torch.zeros(Q.shape[0], Q.shape[1], V_all.shape[1], dtype=torch.float64, device=Q.device)
    bounds = cu_seqlens.tolist()
    for row in range(Q.shape[0]):
        keys = slice(bounds[row], bounds[row + 1])
        out[row] = attend_row(Q[row], K_all[keys], V_all[keys])
    return out


def dense_attention_packed(
    Q: Tensor, K: Tensor, V: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Rows with their own keys, by SDPA.

    The heads of a row are the *queries* of one SDPA head, so grouped heads need no copy of K/V.

    Args:
        Q: `[N, H, D]`.
        K: `[N, L, D]`.
        V: `[N, L, Dv]`.
        lengths: `[N]`, how many leading keys of each row count; None means all, and then no mask
            is passed, which leaves SDPA every backend to choose from.

    Returns:
        `[N, H, Dv]`, dtype of Q; zeros where the length is 0.
    """
    if K.shape[1] == 0 or Q.shape[0] == 0:
        return _zeros(Q, K, V)
    mask = None
    if lengths is not None:
        # an all-empty row keeps its first key: a fully masked softmax is NaN, and so is its grad
        at = torch.arange(K.shape[1], device=K.device)
        mask = (at < lengths.clamp(min=1)[:, None])[:, None, None, :]  # [N, 1, 1, L]
        mask = mask.expand(-1, 1, Q.shape[1], -1)
        if wants_grad(Q, K, V):
            # that key may hold NaN, and 0 * NaN in the backward would reach the gradients
            some = (lengths > 0)[:, None, None]
            K, V = torch.where(some, K, 0), torch.where(some, V, 0)
    parts = []
    for first in range(0, Q.shape[0], MAX_SDPA_ROWS):
        rows = slice(first, first + MAX_SDPA_ROWS)
        parts.append(
            F.scaled_dot_product_attention(
                Q[rows, None],
                K[rows, None],
                V[rows, None],
                attn_mask=None if mask is None else mask[rows],
            )[:, 0]
        )
    out = (parts[0] if len(parts) == 1 else torch.cat(parts)).to(Q.dtype)  # autocast changes it
    if lengths is not None:
        out = torch.where((lengths > 0)[:, None, None], out, 0)
    return out


def _zeros(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Zeros of the output's shape and Q's dtype, through which gradients of zero flow."""
    return Q.new_zeros(*Q.shape[:-1], V.shape[-1]) + (Q[:0].sum() + K[:0].sum() + V[:0].sum())


def pad_varlen(
    K_all: Tensor, V_all: Tensor, cu_seqlens: Tensor, max_len: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Varlen rows as padded ones: `K[N, max_len, D], V[N, max_len, Dv], lengths[N]`.

    Padding repeats a key of the row (or any key, for an empty row), so nothing foreign is read.
    """
    first = cu_seqlens[:-1].long()
    lengths = cu_seqlens[1:].long() - first
    at = torch.arange(max_len, device=K_all.device)
    keys = first[:, None] + torch.where(at < lengths[:, None], at, 0)
    keys = keys.clamp_(max=K_all.shape[0] - 1)
    return take(K_all, keys), take(V_all, keys), lengths


def varlen_attention_packed(
    Q: Tensor, K_all: Tensor, V_all: Tensor, cu_seqlens: Tensor, max_len: int
) -> Tensor:
    """Rows end to end, by padding to `max_len` and SDPA; `[N, H, Dv]`, dtype of Q.

    Args:
        Q: `[N, H, D]`.
        K_all: `[sum L, D]`.
        V_all: `[sum L, Dv]`.
        cu_seqlens: `[N + 1]`.
        max_len: longest row, from the host: reading it from `cu_seqlens` would sync the device. A
            longer row gets NaN, never a silently truncated answer.
    """
    if K_all.shape[0] == 0:
        return _zeros(Q, K_all, V_all)
    K, V, lengths = pad_varlen(K_all, V_all, cu_seqlens, max_len)
    out = dense_attention_packed(Q, K, V, lengths)
    return torch.where((lengths > max_len)[:, None, None], math.nan, out)


def grouped_selection_attention_packed(
    Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor, *, max_len: int | None = None
) -> Tensor:
    """Selection attention by gather and SDPA: the path that runs with Triton off.

    Every row `(b, s, g)` gets its selected keys side by side, in ascending order, padded to the
    capacity `L`, as one entry of an SDPA batch: `Q[N, 1, h, Dk] x K[N, 1, L, Dk]`, `N = B*S*G`,
    with a mask `[N, 1, h, L]`. Nothing is read back from the device.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty.
        max_len: an upper bound on the keys that any row selects, e.g. blocks x block size. Pass
            it: None pads every row to `S_kv`, the only bound known without a sync. A row that
            selects more gets NaN, never a silently truncated answer.

    Returns:
        `[B, S, G, h, Dv]`, dtype of Q; zeros for a row that selects nothing.

    Raises:
        InvalidInput: the tensors contradict each other, or `max_len < 1`.
    """
    check_inputs(Q, K, V, ranges)
    B, S, G, h, Dk = Q.shape
    S_kv, Dv = V.shape[2:]
    if 0 in (B, S, G, h, S_kv, Dv, ranges.shape[3]):
        return _zeros(Q, K, V)
    slots = fill_slots(ranges, S_kv, max_len)
    out = dense_attention_packed(
        Q.reshape(-1, h, Dk),
        gather_rows(K, slots.keys).flatten(0, 2),
        gather_rows(V, slots.keys).flatten(0, 2),
        slots.lengths.reshape(-1),
    ).view(B, S, G, h, Dv)
    if max_len is None:
        return out
    return torch.where((slots.lengths > slots.keys.shape[-1])[..., None, None], math.nan, out)


def lengths_of(cu_seqlens: Tensor) -> list[int]:
    """Row lengths on the host. Syncs; for set-up and checks, not for a hot path."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or any(b < a for a, b in itertools.pairwise(bounds)):
        raise InvalidInput(f"cu_seqlens must start at 0 and never decrease, got {bounds[:8]}")
    return [b - a for a, b in itertools.pairwise(bounds)]

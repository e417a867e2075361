"""From `ranges` to disjoint ranges, to gathered rows: vectorised, on the device, never a sync.

Shapes: `B` batch, `S` queries, `G` KV groups, `n` ranges a row, `N = B * S * G` rows,
`L` the capacity: an upper bound on the keys that a row selects, known without reading `ranges`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InvalidInput

PIECE = torch.complex128
"""The widest dtype that torch indexes: 16 bytes, what a GPU loads at most at a time."""


def check_inputs(Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor) -> None:
    """Raise `InvalidInput` unless the four tensors fit each other.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`, a signed integer dtype.
    """
    if Q.dim() != 5 or K.dim() != 4 or V.dim() != 4 or ranges.dim() != 5:
        raise InvalidInput(
            "expected Q [B,S,G,h,Dk], K [B,G,S_kv,Dk], V [B,G,S_kv,Dv], ranges [B,S,G,n,2]; got "
            f"{list(Q.shape)}, {list(K.shape)}, {list(V.shape)}, {list(ranges.shape)}"
        )
    B, S, G, _, Dk = Q.shape
    if Dk == 0:
        raise InvalidInput(f"Q {list(Q.shape)} has a head dimension of 0")
    if K.shape[:2] != (B, G) or K.shape[3] != Dk:
        raise InvalidInput(f"K {list(K.shape)} does not fit Q {list(Q.shape)}")
    if V.shape[:3] != K.shape[:3]:
        raise InvalidInput(f"V {list(V.shape)} does not fit K {list(K.shape)}")
    if ranges.shape[:3] != (B, S, G) or ranges.shape[4] != 2:
        raise InvalidInput(f"ranges {list(ranges.shape)} does not fit Q {list(Q.shape)}")
    if ranges.dtype not in (torch.int16, torch.int32, torch.int64):
        raise InvalidInput(f"ranges must be int16, int32 or int64, got {ranges.dtype}")
    if not Q.dtype == K.dtype == V.dtype:
        raise InvalidInput(f"Q, K, V differ in dtype: {Q.dtype}, {K.dtype}, {V.dtype}")
    if not Q.device == K.device == V.device == ranges.device:
        raise InvalidInput(
            f"tensors are on different devices: {Q.device}, {K.device}, {V.device}, {ranges.device}"
        )


def wants_grad(*inputs: Tensor) -> bool:
    """Whether autograd would record an operation on these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def normalise_ranges(ranges: Tensor, S_kv: int) -> Tensor:
    """Equal sets of keys as disjoint ranges, sorted by start.

    Clamps to `[0, S_kv]`, empties what ends before it starts, and cuts from each range what an
    earlier one covers: a key selected twice counts once (ADR 0002).

    Args:
        ranges: `[..., n, 2]`.
        S_kv: number of keys.

    Returns:
        `[..., n, 2]` int64, contiguous; an empty range has `start == end`.
    """
    clamped = ranges.long().clamp(0, S_kv)
    start, order = clamped[..., 0].sort(dim=-1)
    end = clamped[..., 1].gather(-1, order)
    end = torch.maximum(end, start)
    if ranges.shape[-2] > 1:
        covered_to = end.cummax(dim=-1).values[..., :-1]
        covered_to = torch.cat([torch.zeros_like(start[..., :1]), covered_to], dim=-1)
        start = torch.maximum(start, covered_to)
        end = torch.maximum(end, start)
    return torch.stack([start, end], dim=-1)


@dataclass(frozen=True)
class Slots:
    """Which key fills each of the `L` slots of a row."""

    keys: Tensor
    """`[B, S, G, L]` int64. Beyond its length a row repeats its first selected key, so that what
    lies outside the ranges (NaN included) is never read; an all-empty row repeats key 0."""
    lengths: Tensor
    """`[B, S, G]` int64: how many keys the row selects, at most `L` of which have a slot."""

    @property
    def valid(self) -> Tensor:
        """`[B, S, G, L]` bool: slots that hold a selected key."""
        at = torch.arange(self.keys.shape[-1], device=self.keys.device)
        return at < self.lengths[..., None]


def fill_slots(ranges: Tensor, S_kv: int, max_len: int | None) -> Slots:
    """Assign the keys of each row, in ascending order, to its first slots.

    Args:
        ranges: `[B, S, G, n, 2]`.
        S_kv: number of keys, at least 1.
        max_len: capacity; None takes `S_kv`, the only bound known without reading `ranges`.
    """
    spans = normalise_ranges(ranges, S_kv)
    ends = (spans[..., 1] - spans[..., 0]).cumsum(dim=-1)
    lengths = ends[..., -1].contiguous()
    capacity = slot_capacity(S_kv, max_len)
    slots = torch.arange(capacity, device=ranges.device)
    slots = torch.where(slots < lengths[..., None], slots, 0)
    span = torch.searchsorted(ends, slots, right=True).clamp_(max=spans.shape[-2] - 1)
    before = (ends - (spans[..., 1] - spans[..., 0])).gather(-1, span)
    keys = slots - before + spans[..., 0].gather(-1, span)
    # an all-empty row would point past the end where its ranges were clamped to S_kv
    return Slots(torch.where(lengths[..., None] > 0, keys, 0), lengths)


def slot_capacity(S_kv: int, max_len: int | None) -> int:
    """Upper bound on the selected length of any row; reads no tensor.

    Raises:
        InvalidInput: `max_len` is no integer, or less than 1.
    """
    # a tensor would be read, which stalls the device and spoils a capture
    if max_len is not None and (not isinstance(max_len, int) or max_len < 1):
        raise InvalidInput(f"max_len must be an integer, at least 1; got {max_len!r:.60}")
    return S_kv if max_len is None else min(S_kv, max_len)


def gather_rows(X: Tensor, keys: Tensor) -> Tensor:
    """Rows of their own: `X[B, G, S_kv, D]` at `keys[B, S, G, L]` gives `[B, S, G, L, D]`."""
    B, G = X.shape[:2]
    batch = torch.arange(B, device=X.device).view(B, 1, 1, 1)
    group = torch.arange(G, device=X.device).view(1, 1, G, 1)
    return take(X, batch, group, keys)


def take(X: Tensor, *at: Tensor) -> Tensor:
    """`X[at]`, where `at` indexes all dimensions but the last, in pieces of 16 bytes if they fit.

    A CUDA gather moves one element a thread: of a 16-bit dtype two bytes, for which each computes
    its address anew. The pieces only carry the bytes, so that every bit survives, of NaN too.
    Autograd cannot see through them, and torch's compiler has gathers of its own.
    """
    if wants_grad(X) or torch.compiler.is_compiling() or not _in_pieces(X):
        return X[at]
    return X.view(PIECE)[at].view(X.dtype)


def _in_pieces(X: Tensor) -> bool:
    """Whether every row of the last dimension is a whole number of aligned pieces."""
    per_piece, odd = divmod(PIECE.itemsize, X.element_size())
    return (
        odd == 0
        and per_piece > 1
        and X.stride(-1) == 1
        and X.data_ptr() % PIECE.itemsize == 0
        and all(n % per_piece == 0 for n in (X.shape[-1], X.storage_offset(), *X.stride()[:-1]))
    )


@dataclass(frozen=True)
class VarlenRows:
    """Rows end to end.

    `K_all` and `V_all` are as long as the capacity of all rows: what lies at or beyond
    `cu_seqlens[-1]` is filler, because the exact size is known only to the device.
    """

    K_all: Tensor
    V_all: Tensor
    cu_seqlens: Tensor


def pack_varlen(K: Tensor, V: Tensor, slots: Slots) -> VarlenRows:
    """Gather each row's keys and values end to end, in row order `(b, s, g)`.

    Args:
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        slots: of the same `B`, `G`.
    """
    B, _, G, L = slots.keys.shape
    S_kv = K.shape[2]
    lengths = slots.lengths.clamp(max=L).reshape(-1)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    head = torch.arange(B, device=K.device).view(B, 1, 1, 1) * G
    head = head + torch.arange(G, device=K.device).view(1, 1, G, 1)
    sources = (head * S_kv + slots.keys).reshape(-1)
    # filler slots all go to one spare place at the end, so that no valid one is overwritten
    spare = sources.numel()
    places = (cu_seqlens[:-1, None] + torch.arange(L, device=K.device)).reshape(-1)
    places = torch.where(slots.valid.reshape(-1), places, spare)
    packed = torch.zeros(spare + 1, dtype=torch.int64, device=K.device)
    packed.scatter_(0, places, sources)
    packed = packed[:spare]
    # three indices, not one into a flattened cache: flattening one that is expanded would copy it
    at = (packed // (G * S_kv), packed // S_kv % G, packed % S_kv)
    return VarlenRows(take(K, *at), take(V, *at), cu_seqlens)

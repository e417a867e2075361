"""Which blocks of a cache the ranges of each row touch, for flex_attention.

Plain torch, which its compiler fuses to a few small kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Keys that are read or skipped together. With 128, rows of 64 keys took up to 1.4 times as long on
an H200: a run of 64 keys touches two blocks of either size."""


def block_lists(ranges: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which blocks of keys each row touches: three small kernels, in the row's ranges and blocks.

    Args:
        ranges: `[Z, H, n, 2]`.
        K: `[..., S_kv, Dk]`, for its length.

    Returns:
        The ranges, `[Z, H, n, 2]` int32; the number of blocks, `[Z, H, 1]` int32; the blocks,
        `[Z, H, 1, S_kv // BLOCK + 2]` int32, ascending, 0 beyond their number; the number of keys
        that the row selects, `[Z, H]` int32.
    """
    S_kv = K.shape[2]
    bounds = ranges.long().clamp(0, S_kv).int()
    # counted in blocks, and once more in keys: [2, Z, H, n]
    unit = BLOCK - (BLOCK - 1) * torch.arange(2, device=K.device, dtype=torch.int32)
    unit = unit[:, None, None, None]
    start, end = bounds.unbind(-1)
    last = torch.where(end > start, end + unit - 1, start) // unit
    begin, size, before, total = _disjoint(start // unit, last)
    # at least two: a dimension of 1 would be compiled in
    slots = torch.arange(S_kv // BLOCK + 2, device=K.device, dtype=torch.int32)[:, None]
    offset = slots - before[0, ..., None, :]  # [Z, H, slots, n]
    within = (offset >= 0) & (offset < size[0, ..., None, :])
    blocks = torch.where(within, begin[0, ..., None, :] + offset, 0).sum(-1, dtype=torch.int32)
    if ranges.dtype == torch.int32:  # as good to the mask, and not written once more
        bounds = ranges
    return bounds, total[0, ..., :1], blocks[..., None, :], total[1, ..., 0]


def _disjoint(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`normalise_ranges` of `[..., n]`, but in the order they come in.

    Each is compared with each, so that torch's compiler can fuse all; it could not fuse a sort.

    Returns:
        `[..., n]` each: where a range begins behind what those that start earlier cover, its size
        then, the sum of their sizes, and the sum of all, which is the same for each.
    """
    at = torch.arange(start.shape[-1], device=start.device)
    mine, others = start[..., :, None], start[..., None, :]
    earlier = (others < mine) | ((others == mine) & (at < at[:, None]))  # [..., n, n]
    covered_to = torch.where(earlier, end[..., None, :], 0).amax(-1)
    begin = torch.maximum(start, covered_to)
    size = (end - begin).clamp(min=0)
    sizes = size[..., None, :].expand(earlier.shape)
    before = torch.where(earlier, sizes, 0).sum(-1, dtype=torch.int32)
    return begin, size, before, sizes.sum(-1, dtype=torch.int32)

"""The Triton kernels: attention of a few query heads over one row's keys, in one pass.

The three forms share `attend_tile`: online softmax with fp32 accumulators held in registers, each
K and V byte read once. They differ only in where the key at a position of the row lies: in a row of
its own (dense), end to end with other rows (varlen), or in place, in ranges of a shared cache. In
the last, a position is mapped to its key by prefix sums of the ranges, so that tiles stay full
across ranges however short these are.

A program serves `heads` heads of one row. All heads that share the K/V in one tile is the group
form: each byte is read once. `heads == 1` is the per-head form, which reads them once per head.
Tiles have at least 16 rows because that is the least `tl.dot` takes.

With `SPLIT` a row's positions are shared among `splits` programs, each of which leaves its part in
a workspace; `combine_rows` joins the parts. Few rows then still fill the device. With `OVERLAP`
(programmatic dependent launch) `combine_rows` starts at once and waits for the parts on the device,
which hides what its launch takes.

Scores are in units of log2: `scale` is `log2(e) / sqrt(D)`, and weights are `2 ** score`.

Masks are booleans of the tile's own shape: masks broadcast from pointers crashed the compilers of
Triton 3.0 and 3.1. Offsets are int64: row * stride passes 2**31 at 64k keys.

Runs on Triton 2.3.1 to 3.9, so: `allow_tf32` instead of `input_precision`, `tl.math.exp2` (there
is no other in 2.3.1), no block pointers (gone in 3.9), no tensor descriptors (from 3.4).
"""

# ruff: noqa: ANN001, ANN201, ANN202
# ANN: Triton gives every parameter its type at launch.

import triton
import triton.language as tl

from .tiles import attend_tile, let_next_start, load_heads, share_of, store_rows, wait_for_last


@triton.jit
def dense_rows_fwd(
    Q,  # [N, H, D]
    K,  # [N, L, D]
    V,  # [N, L, DV]
    LENGTHS,  # [N] or None
    OUT,  # [N, H, DV] contiguous
    TOP,  # [N, splits, H] fp32 or None, as TOTAL and ACC
    TOTAL,
    ACC,  # [N, splits, H, DV]
    stride_qn,
    stride_qh,
    stride_qd,
    stride_kn,
    stride_kl,
    stride_kd,
    stride_vn,
    stride_vl,
    stride_vd,
    H,
    L,
    heads,
    blocks,  # of heads, ceil(H / heads)
    splits,
    scale,
    HAS_LENGTHS: tl.constexpr,
    SPLIT: tl.constexpr,
    OVERLAP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """`heads` heads of one row, keys in a row of their own.

    Grid: `(N * blocks * splits,)`.
    """
    if OVERLAP:
        let_next_start()
    split = tl.program_id(0) % splits
    row = (tl.program_id(0) // splits // blocks).to(tl.int64)
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) // splits % blocks) * heads + offs_h
    head_mask = (offs_h < heads) & (head < H)
    q = load_heads(Q + row * stride_qn, stride_qh, stride_qd, head, head_mask, D, BLOCK_D)
    length = L
    if HAS_LENGTHS:
        # clamped before it is narrowed: 2**32 keys are too many, not none
        length = tl.minimum(tl.load(LENGTHS + row).to(tl.int64), L)
        length = tl.maximum(length, 0).to(tl.int32)
    first, end = share_of(length, split, splits, BLOCK_L)
    K += row * stride_kn
    V += row * stride_vn
    offs_l = tl.arange(0, BLOCK_L)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    for at in range(first, end, BLOCK_L):
        position = at + offs_l
        top, total, acc = attend_tile(
            q, K, V, position.to(tl.int64), position < end,
            stride_kl, stride_kd, stride_vl, stride_vd,
            scale, top, total, acc,
            D, DV, BLOCK_D, BLOCK_DV,
        )  # fmt: skip
    store_rows(
        OUT, TOP, TOTAL, ACC, row, head, head_mask, split, splits, H, top, total, acc,
        DV, BLOCK_DV, SPLIT,
    )  # fmt: skip


@triton.jit
def varlen_rows_fwd(
    Q,  # [N, H, D]
    K,  # [keys, D]
    V,  # [keys, DV]
    CU_SEQLENS,  # [N + 1]
    OUT,  # [N, H, DV] contiguous
    TOP,  # [N, splits, H] fp32 or None, as TOTAL and ACC
    TOTAL,
    ACC,  # [N, splits, H, DV]
    stride_qn,
    stride_qh,
    stride_qd,
    stride_kl,
    stride_kd,
    stride_vl,
    stride_vd,
    H,
    keys,
    heads,
    blocks,  # of heads, ceil(H / heads)
    splits,
    scale,
    SPLIT: tl.constexpr,
    OVERLAP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """`heads` heads of one row, keys end to end. Grid: `(N * blocks * splits,)`."""
    if OVERLAP:
        let_next_start()
    split = tl.program_id(0) % splits
    row = (tl.program_id(0) // splits // blocks).to(tl.int64)
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) // splits % blocks) * heads + offs_h
    head_mask = (offs_h < heads) & (head < H)
    q = load_heads(Q + row * stride_qn, stride_qh, stride_qd, head, head_mask, D, BLOCK_D)
    # clamped: a wrong cu_seqlens gives a wrong row, never a read outside K and V
    row_first = tl.maximum(tl.load(CU_SEQLENS + row).to(tl.int64), 0)
    row_end = tl.minimum(tl.load(CU_SEQLENS + row + 1).to(tl.int64), keys)
    length = tl.maximum(row_end - row_first, 0).to(tl.int32)
    first, end = share_of(length, split, splits, BLOCK_L)
    offs_l = tl.arange(0, BLOCK_L)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    for at in range(first, end, BLOCK_L):
        position = at + offs_l
        top, total, acc = attend_tile(
            q, K, V, row_first + position, position < end,
            stride_kl, stride_kd, stride_vl, stride_vd,
            scale, top, total, acc,
            D, DV, BLOCK_D, BLOCK_DV,
        )  # fmt: skip
    store_rows(
        OUT, TOP, TOTAL, ACC, row, head, head_mask, split, splits, H, top, total, acc,
        DV, BLOCK_DV, SPLIT,
    )  # fmt: skip


@triton.jit
def _load_ranges(
    RANGES,  # pointer to range 0 of the row; [n, 2] contiguous
    offs_n,
    n,
    S_kv,
):
    """Starts and ends within `[0, S_kv]`, `start <= end`; what is beyond `n` is empty."""
    mask = offs_n < n
    start = tl.load(RANGES + offs_n * 2, mask=mask, other=0)
    end = tl.load(RANGES + offs_n * 2 + 1, mask=mask, other=0)
    # clamped before they are narrowed: 2**32 is beyond the last key, not the first
    start = tl.minimum(tl.maximum(start, 0), S_kv).to(tl.int32)
    end = tl.minimum(tl.maximum(end, 0), S_kv).to(tl.int32)
    return start, tl.maximum(start, end)


@triton.jit
def ranges_fwd(
    Q,  # [B, S, G, H, D]
    K,  # [B, G, S_kv, D]
    V,  # [B, G, S_kv, DV]
    RANGES,  # [B, S, G, n, 2] contiguous integers, as the caller gave them
    OUT,  # [B, S, G, H, DV] contiguous
    TOP,  # [B * S * G, splits, H] fp32 or None, as TOTAL and ACC
    TOTAL,
    ACC,  # [B * S * G, splits, H, DV]
    stride_qb,
    stride_qs,
    stride_qg,
    stride_qh,
    stride_qd,
    stride_kb,
    stride_kg,
    stride_kl,
    stride_kd,
    stride_vb,
    stride_vg,
    stride_vl,
    stride_vd,
    S,
    G,
    H,
    S_kv,
    n,
    heads,
    blocks,  # of heads, ceil(H / heads)
    splits,
    scale,
    SPLIT: tl.constexpr,
    OVERLAP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK_N: tl.constexpr,
):
    """`heads` heads of one row `(b, s, g)`, keys read in place.

    A key that several ranges select counts once (ADR 0002): of each range only what those that
    start earlier leave is taken, found here in registers, so that nothing runs before this kernel.

    Grid: `(B * S * G * blocks * splits,)`.
    """
    if OVERLAP:
        let_next_start()
    split = tl.program_id(0) % splits
    row32 = tl.program_id(0) // splits // blocks
    row = row32.to(tl.int64)
    g = (row32 % G).to(tl.int64)
    s = (row32 // G % S).to(tl.int64)
    b = (row32 // G // S).to(tl.int64)
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) // splits % blocks) * heads + offs_h
    head_mask = (offs_h < heads) & (head < H)
    offs_n = tl.arange(0, BLOCK_N)
    start, end_n = _load_ranges(RANGES + row * n * 2, offs_n, n, S_kv)
    Q += b * stride_qb + s * stride_qs + g * stride_qg
    q = load_heads(Q, stride_qh, stride_qd, head, head_mask, D, BLOCK_D)
    # ptxas would ask for the heads when it is done with the ranges, and wait once more
    tl.debug_barrier()
    if BLOCK_N == 1:
        taken = end_n - start
        before = tl.zeros([BLOCK_N], tl.int32)
    else:
        covered = tl.zeros([BLOCK_N], tl.int32)
        # few at a time: all pairs of 128 would fill the registers. Unrolled: with a loop of the
        # machine's before it, Triton 3.9 does not pipeline the one below
        for chunk in tl.static_range(0, BLOCK_N, CHUNK_N):
            offs_m = chunk + tl.arange(0, CHUNK_N)
            start_m, end_m = _load_ranges(RANGES + row * n * 2, offs_m, n, S_kv)
            same = (start_m[None, :] == start[:, None]) & (offs_m[None, :] < offs_n[:, None])
            earlier = (start_m[None, :] < start[:, None]) | same
            covered = tl.maximum(covered, tl.max(tl.where(earlier, end_m[None, :], 0), 1))
        start = tl.maximum(start, covered)
        taken = tl.maximum(end_n - start, 0)
        # with an axis to spare: Triton 2.3.1 aborts on a scan of the layout that one axis gets here
        before = tl.sum(tl.cumsum(taken[None, :], 1), 0) - taken
    shift = start - before  # from a position within the range to its key
    width = taken.to(tl.uint32)
    first, end = share_of(tl.sum(taken, 0), split, splits, BLOCK_L)
    K += b * stride_kb + g * stride_kg
    V += b * stride_vb + g * stride_vg
    offs_l = tl.arange(0, BLOCK_L)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    for at in range(first, end, BLOCK_L):
        position = at + offs_l
        # unsigned, so that one comparison tells: positions before the range are far beyond it
        within = (position[:, None] - before[None, :]).to(tl.uint32) < width[None, :]
        key = position + tl.sum(tl.where(within, shift[None, :], 0), 1)
        top, total, acc = attend_tile(
            q, K, V, key.to(tl.int64), position < end,
            stride_kl, stride_kd, stride_vl, stride_vd,
            scale, top, total, acc,
            D, DV, BLOCK_D, BLOCK_DV,
        )  # fmt: skip
    store_rows(
        OUT, TOP, TOTAL, ACC, row, head, head_mask, split, splits, H, top, total, acc,
        DV, BLOCK_DV, SPLIT,
    )  # fmt: skip


@triton.jit
def combine_rows(
    OUT,  # [rows, H, DV] contiguous
    TOP,  # [rows, splits, H] fp32
    TOTAL,  # [rows, splits, H] fp32
    ACC,  # [rows, splits, H, DV] fp32
    H,
    splits,
    OVERLAP: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Join the parts of one head of one row. Grid: `(rows * H,)`."""
    row = (tl.program_id(0) // H).to(tl.int64)
    head = tl.program_id(0) % H
    offs_s = tl.arange(0, BLOCK_S)
    offs_dv = tl.arange(0, BLOCK_DV)
    valid = offs_s < splits
    at = (row * splits + offs_s) * H + head
    if OVERLAP:
        wait_for_last()
    top = tl.load(TOP + at, mask=valid, other=float("-inf"))
    total = tl.load(TOTAL + at, mask=valid, other=0.0)
    acc = tl.load(
        ACC + at[:, None] * DV + offs_dv[None, :],
        mask=valid[:, None] & (offs_dv < DV)[None, :],
        other=0.0,
    )
    best = tl.max(top, 0)
    # as in attend_tile: parts without keys, or with scores of -inf only, weigh nothing
    weights = tl.math.exp2(top - tl.where(best == float("-inf"), 0.0, best))
    total = tl.sum(total * weights, 0)
    out = tl.sum(acc * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(OUT + (row * H + head) * DV + offs_dv, out.to(OUT.dtype.element_ty), mask=offs_dv < DV)

"""The Triton kernels: attention of a few query heads over one row's keys, in one pass.

All three kernels share one loop, `_attend_span`: online softmax with fp32 accumulators held in
registers, K and V each read once. They differ only in where a row's keys lie: in a row of their
own (dense), end to end with other rows (varlen), or in place, in ranges of a shared cache.

A program serves `HEADS` heads of one row. `HEADS == H` is the group form: one tile holds all heads
that share the K/V, so each byte of K/V is read once. `HEADS == 1` is the per-head form, which
reads them once per head. Tiles have at least 16 rows because that is the least `tl.dot` takes.

Masks are booleans of the tile's own shape: masks broadcast from pointers crashed the compilers of
Triton 3.0 and 3.1. Positions are int64: row * stride passes 2**31 at 64k keys.

Runs on Triton 2.3.1 to 3.9, so: `allow_tf32` instead of `input_precision`, no block pointers
(gone in 3.9), no tensor descriptors (from 3.4).
"""

# ruff: noqa: ANN001, ANN201, ANN202, PIE808
# ANN: Triton gives every parameter its type at launch. PIE808: 2.3.1 wants both ends of a range.

import triton
import triton.language as tl


@triton.jit
def _attend_span(
    q,  # [BLOCK_H, BLOCK_D]
    K,  # pointer to key 0 of the row's group
    V,
    first,  # int64: first key of the span
    length,  # keys in the span, may be 0
    stride_kl,
    stride_kd,
    stride_vl,
    stride_vd,
    scale,
    top,  # [BLOCK_H] fp32: largest score so far
    total,  # [BLOCK_H] fp32: sum of exp(score - top)
    acc,  # [BLOCK_H, BLOCK_DV] fp32: weighted values, not yet divided by total
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    offs_l = tl.arange(0, BLOCK_L)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    at = first
    # int64 on every axis: a layout with the head dimension outermost strides past 2**31 too
    tile_k = offs_l.to(tl.int64)[:, None] * stride_kl + offs_d.to(tl.int64)[None, :] * stride_kd
    tile_v = offs_l.to(tl.int64)[:, None] * stride_vl + offs_dv.to(tl.int64)[None, :] * stride_vd
    for done in range(0, length, BLOCK_L):
        valid = offs_l < length - done
        # zeros, not whatever lies beyond the span: 0 * NaN in the second dot would be NaN
        k = tl.load(
            K + at * stride_kl + tile_k, mask=valid[:, None] & (offs_d < D)[None, :], other=0.0
        )
        v = tl.load(
            V + at * stride_vl + tile_v, mask=valid[:, None] & (offs_dv < DV)[None, :], other=0.0
        )
        scores = tl.dot(q, tl.trans(k), allow_tf32=False) * scale
        scores = tl.where(valid[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # scores may all be -inf so far (keys of -inf, or an overflow): -inf - -inf would be NaN
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        shrink = tl.exp(top - base)
        weights = tl.exp(scores - base[:, None])
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, allow_tf32=False)
        top = new_top
        at += BLOCK_L
    return top, total, acc


@triton.jit
def _store_rows(
    OUT,  # pointer to head 0 of the row; [H, DV] contiguous
    total,
    acc,
    head,
    head_mask,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    offs_dv = tl.arange(0, BLOCK_DV)
    # a row without keys, or with scores of -inf only, has total == 0 and acc == 0: it stores zeros
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        OUT + head[:, None] * DV + offs_dv[None, :],
        out.to(OUT.dtype.element_ty),
        mask=head_mask[:, None] & (offs_dv < DV)[None, :],
    )


@triton.jit
def dense_rows_fwd(
    Q,  # [N, H, D]
    K,  # [N, L, D]
    V,  # [N, L, DV]
    LENGTHS,  # [N] or None
    OUT,  # [N, H, DV] contiguous
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
    scale,
    HAS_LENGTHS: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """One row, `HEADS` heads, keys in a row of their own. Grid: `(N * ceil(H / HEADS),)`."""
    blocks = tl.cdiv(H, HEADS)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) % blocks) * HEADS + offs_h
    head_mask = (offs_h < HEADS) & (head < H)
    offs_d = tl.arange(0, BLOCK_D)
    q = tl.load(
        Q
        + row * stride_qn
        + head.to(tl.int64)[:, None] * stride_qh
        + offs_d.to(tl.int64)[None, :] * stride_qd,
        mask=head_mask[:, None] & (offs_d < D)[None, :],
        other=0.0,
    )
    length = L
    if HAS_LENGTHS:
        # clamped before it is narrowed: 2**32 keys are too many, not none
        length = tl.minimum(tl.load(LENGTHS + row).to(tl.int64), L)
        length = tl.maximum(length, 0).to(tl.int32)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    top, total, acc = _attend_span(
        q,
        K + row * stride_kn,
        V + row * stride_vn,
        row * 0,  # int64, as the span's first key must be
        length,
        stride_kl,
        stride_kd,
        stride_vl,
        stride_vd,
        scale,
        top,
        total,
        acc,
        D,
        DV,
        BLOCK_L,
        BLOCK_D,
        BLOCK_DV,
    )
    _store_rows(OUT + row * H * DV, total, acc, head, head_mask, DV, BLOCK_DV)


@triton.jit
def varlen_rows_fwd(
    Q,  # [N, H, D]
    K,  # [keys, D]
    V,  # [keys, DV]
    CU_SEQLENS,  # [N + 1]
    OUT,  # [N, H, DV] contiguous
    stride_qn,
    stride_qh,
    stride_qd,
    stride_kl,
    stride_kd,
    stride_vl,
    stride_vd,
    H,
    keys,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """One row, `HEADS` heads, keys end to end. Grid: `(N * ceil(H / HEADS),)`."""
    blocks = tl.cdiv(H, HEADS)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) % blocks) * HEADS + offs_h
    head_mask = (offs_h < HEADS) & (head < H)
    offs_d = tl.arange(0, BLOCK_D)
    q = tl.load(
        Q
        + row * stride_qn
        + head.to(tl.int64)[:, None] * stride_qh
        + offs_d.to(tl.int64)[None, :] * stride_qd,
        mask=head_mask[:, None] & (offs_d < D)[None, :],
        other=0.0,
    )
    # clamped: a wrong cu_seqlens gives a wrong row, never a read outside K and V
    first = tl.maximum(tl.load(CU_SEQLENS + row).to(tl.int64), 0)
    end = tl.minimum(tl.load(CU_SEQLENS + row + 1).to(tl.int64), keys)
    length = tl.maximum(end - first, 0).to(tl.int32)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    top, total, acc = _attend_span(
        q,
        K,
        V,
        first,
        length,
        stride_kl,
        stride_kd,
        stride_vl,
        stride_vd,
        scale,
        top,
        total,
        acc,
        D,
        DV,
        BLOCK_L,
        BLOCK_D,
        BLOCK_DV,
    )
    _store_rows(OUT + row * H * DV, total, acc, head, head_mask, DV, BLOCK_DV)


@triton.jit
def ranges_fwd(
    Q,  # [B, S, G, H, D]
    K,  # [B, G, S_kv, D]
    V,  # [B, G, S_kv, DV]
    RANGES,  # [B * S * G, n, 2] contiguous; disjoint, within [0, S_kv], start <= end
    OUT,  # [B, S, G, H, DV] contiguous
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
    n,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """One row `(b, s, g)`, `HEADS` heads, keys read in place, range by range.

    Grid: `(B * S * G * ceil(H / HEADS),)`.
    """
    blocks = tl.cdiv(H, HEADS)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    g = row % G
    s = (row // G) % S
    b = row // G // S
    offs_h = tl.arange(0, BLOCK_H)
    head = (tl.program_id(0) % blocks) * HEADS + offs_h
    head_mask = (offs_h < HEADS) & (head < H)
    offs_d = tl.arange(0, BLOCK_D)
    q = tl.load(
        Q
        + b * stride_qb
        + s * stride_qs
        + g * stride_qg
        + head.to(tl.int64)[:, None] * stride_qh
        + offs_d.to(tl.int64)[None, :] * stride_qd,
        mask=head_mask[:, None] & (offs_d < D)[None, :],
        other=0.0,
    )
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_DV], tl.float32)
    for r in range(0, n):
        first = tl.load(RANGES + (row * n + r) * 2).to(tl.int64)
        end = tl.load(RANGES + (row * n + r) * 2 + 1).to(tl.int64)
        top, total, acc = _attend_span(
            q,
            K + b * stride_kb + g * stride_kg,
            V + b * stride_vb + g * stride_vg,
            first,
            (end - first).to(tl.int32),
            stride_kl,
            stride_kd,
            stride_vl,
            stride_vd,
            scale,
            top,
            total,
            acc,
            D,
            DV,
            BLOCK_L,
            BLOCK_D,
            BLOCK_DV,
        )
    _store_rows(OUT + row * H * DV, total, acc, head, head_mask, DV, BLOCK_DV)

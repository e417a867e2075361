"""What the forms in `kernel` share: a tile, a row's part, heads in and out, and what comes next."""

# ruff: noqa: ANN001, ANN201
# ANN: Triton gives every parameter its type at launch.

import triton
import triton.language as tl


@triton.jit
def attend_tile(
    q,  # [BLOCK_H, BLOCK_D]
    K,  # pointer to key 0
    V,
    key,  # [BLOCK_L] int64
    valid,  # [BLOCK_L] bool
    stride_kl,
    stride_kd,
    stride_vl,
    stride_vd,
    scale,
    top,  # [BLOCK_H] fp32: largest score so far
    total,  # [BLOCK_H] fp32: sum of 2 ** (score - top)
    acc,  # [BLOCK_H, BLOCK_DV] fp32: weighted values, not yet divided by total
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """One step of online softmax: a tile of keys and values, each of their bytes read once."""
    # int64 on every axis: a layout with the head dimension outermost strides past 2**31 too
    offs_d = tl.arange(0, BLOCK_D).to(tl.int64)
    offs_dv = tl.arange(0, BLOCK_DV).to(tl.int64)
    # zeros, not whatever lies beyond the row: 0 * NaN in the second dot would be NaN
    k = tl.load(
        K + key[:, None] * stride_kl + offs_d[None, :] * stride_kd,
        mask=valid[:, None] & (offs_d < D)[None, :],
        other=0.0,
    )
    v = tl.load(
        V + key[:, None] * stride_vl + offs_dv[None, :] * stride_vd,
        mask=valid[:, None] & (offs_dv < DV)[None, :],
        other=0.0,
    )
    scores = tl.dot(q, tl.trans(k), allow_tf32=False)
    scores = tl.where(valid[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    # scores may all be -inf so far (keys of -inf, or an overflow): -inf - -inf would be NaN
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    shrink = tl.math.exp2(top - base)
    weights = tl.math.exp2(scores * scale - base[:, None])
    total = total * shrink + tl.sum(weights, 1)
    acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, allow_tf32=False)
    return new_top, total, acc


# assembly: what Triton has for these two, `tl.extra.cuda.gdc_*`, older versions look up and miss
@triton.jit
def let_next_start():
    """Let the kernel behind this one start when every program of this one has come here."""
    tl.inline_asm_elementwise(
        "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def wait_for_last():
    """Wait until the kernel before this one is done and what it wrote can be read."""
    tl.inline_asm_elementwise(
        "griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def share_of(length, split, splits, BLOCK_L: tl.constexpr):
    """Positions of a row that are this program's: whole tiles, as evenly as they go."""
    share = tl.cdiv(tl.cdiv(length, BLOCK_L), splits) * BLOCK_L
    first = tl.minimum(split * share, length)
    return first, tl.minimum(first + share, length)


@triton.jit
def load_heads(
    Q,  # pointer to head 0 of the row
    stride_h,
    stride_d,
    head,
    head_mask,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`[BLOCK_H, BLOCK_D]`: the heads of a program; zeros beyond them, and beyond D."""
    offs_d = tl.arange(0, BLOCK_D).to(tl.int64)
    return tl.load(
        Q + head.to(tl.int64)[:, None] * stride_h + offs_d[None, :] * stride_d,
        mask=head_mask[:, None] & (offs_d < D)[None, :],
        other=0.0,
    )


@triton.jit
def store_rows(
    OUT,  # [rows, H, DV] contiguous
    TOP,  # [rows, splits, H] fp32, as TOTAL; None unless SPLIT
    TOTAL,
    ACC,  # [rows, splits, H, DV] fp32
    row,
    head,
    head_mask,
    split,
    splits,
    H,
    top,
    total,
    acc,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Write a program's output, or with `SPLIT` its part of one."""
    offs_dv = tl.arange(0, BLOCK_DV)
    mask = head_mask[:, None] & (offs_dv < DV)[None, :]
    if SPLIT:
        at = (row * splits + split) * H + head
        tl.store(TOP + at, top, mask=head_mask)
        tl.store(TOTAL + at, total, mask=head_mask)
        tl.store(ACC + at[:, None] * DV + offs_dv[None, :], acc, mask=mask)
    else:
        # a row without keys, or with scores of -inf only, has total == 0 and acc == 0: zeros
        out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        at = row * H + head
        tl.store(OUT + at[:, None] * DV + offs_dv[None, :], out.to(OUT.dtype.element_ty), mask=mask)

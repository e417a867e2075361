"""Dense rows, one span each: the kernels against the fp64 oracle and against packed SDPA."""

from __future__ import annotations

import pytest
import torch
from selection_cases import DTYPES, FORMS, passes, randn, record_parity, selection, triton_flags

from kernels.selection import op
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.reference import (
    dense_attention_oracle,
    dense_attention_packed,
    grouped_selection_attention_packed,
    selection_attention_oracle,
)

LAUNCHERS = {"group": op.sel_attn_fwd_dense_group, "head": op.sel_attn_fwd_dense}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("L", [64, 65, 128, 256, 512, 1024])
def test_triton_sel_parity_dense(L, dtype, form, record_property):
    Q, K, V = (
        randn(3, 4, 64, dtype=dtype),
        randn(3, L, 64, dtype=dtype),
        randn(3, L, 64, dtype=dtype),
    )
    with op.record_launches() as kernels:
        out = LAUNCHERS[form](Q, K, V)
    assert kernels in passes("dense_rows", form)
    record_parity(
        record_property,
        out,
        dense_attention_oracle(Q, K, V),
        dense_attention_packed(Q, K, V),
        f"triton.dense.{form}",
    )


@pytest.mark.parametrize("shape", [(16, 192, 128), (8, 128, 128), (1, 100, 36)], ids=str)
def test_triton_sel_parity_dense_paper_shapes(shape, record_property):
    H, D, Dv = shape
    Q, K, V = randn(2, H, D), randn(2, 200, D), randn(2, 200, Dv)
    with op.record_launches() as kernels:
        out = op.sel_attn_fwd_dense_group(Q, K, V)
    assert kernels in passes("dense_rows", "group")
    record_parity(
        record_property,
        out,
        dense_attention_oracle(Q, K, V),
        dense_attention_packed(Q, K, V),
        "triton.dense.group",
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("force_path", ["auto", "dense"])
def test_triton_sel_parity_dispatch_single_span(force_path, form, record_property):
    starts = torch.randint(0, 100, (1, 3, 2, 1))
    case = selection(torch.stack([starts, starts + 150], dim=-1), S_kv=260, h=4, D=64, Dv=32)
    flags = triton_flags(force_path=force_path, group=form == "group")
    out = selection_attention(*case, flags=flags, max_len=150)
    record = last_dispatch()
    name, kernel = {"auto": ("ranges", "ranges"), "dense": ("dense", "dense_rows")}[force_path]
    assert record.path == f"triton.{name}.{form}"
    assert list(record.kernels) in passes(kernel, form)
    record_parity(
        record_property,
        out,
        selection_attention_oracle(*case),
        grouped_selection_attention_packed(*case),
        record.path,
    )

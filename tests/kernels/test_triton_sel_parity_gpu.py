"""Varlen rows and ranges read in place, many spans: against the fp64 oracle and packed SDPA.

Opt-in by `NSA_TEST_TRITON_SEL=1`. The name is the one that users' scripts select by; without a
CUDA device the same tests run in Triton's interpreter, and say so in their `device` property.
"""

from __future__ import annotations

import os

import pytest
import torch
from selection_cases import (
    DEVICE,
    FORMS,
    passes,
    randn,
    record_parity,
    selection,
    spread_ranges,
    triton_flags,
)

from kernels.selection import op
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.reference import (
    grouped_selection_attention_packed,
    selection_attention_oracle,
    varlen_attention_oracle,
    varlen_attention_packed,
)

pytestmark = pytest.mark.skipif(
    os.environ.get("NSA_TEST_TRITON_SEL") != "1", reason="opt in with NSA_TEST_TRITON_SEL=1"
)

LAUNCHERS = {"group": op.sel_attn_fwd_varlen_group, "head": op.sel_attn_fwd_varlen}
LENGTHS = {
    "equal": [128, 128, 128],
    "straddling": [1, 63, 64, 65, 127, 129],
    "with_empty": [0, 70, 0, 300, 0],
    "long": [1024, 513],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LENGTHS)
def test_triton_sel_parity_gpu_varlen(name, form, record_property):
    lengths = LENGTHS[name]
    cu = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    Q, K, V = randn(len(lengths), 4, 64), randn(sum(lengths), 64), randn(sum(lengths), 48)
    with op.record_launches() as kernels:
        out = LAUNCHERS[form](Q, K, V, cu)
    assert kernels in passes("varlen_rows", form)
    record_parity(
        record_property,
        out,
        varlen_attention_oracle(Q, K, V, cu),
        varlen_attention_packed(Q, K, V, cu, max(lengths)),
        f"triton.varlen.{form}",
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("force_path", ["auto", "dense", "varlen"])
@pytest.mark.parametrize("width", [16, 20])
def test_triton_sel_parity_gpu_eight_spans(width, force_path, form, record_property):
    case = selection(spread_ranges(1, 2, 2, 8, width, 400), S_kv=400, h=4, D=64, Dv=32)
    flags = triton_flags(force_path=force_path, group=form == "group")
    out = selection_attention(*case, flags=flags, max_len=8 * width)
    record = last_dispatch()
    name = "ranges" if force_path == "auto" else force_path
    kernel = name if force_path == "auto" else f"{name}_rows"
    assert record.path == f"triton.{name}.{form}"
    assert list(record.kernels) in passes(kernel, form)
    record_parity(
        record_property,
        out,
        selection_attention_oracle(*case),
        grouped_selection_attention_packed(*case),
        record.path,
    )


def test_triton_sel_parity_gpu_paper_setting(record_property):
    case = selection(spread_ranges(1, 1, 4, 16, 64, 2048), S_kv=2048, h=16, D=192, Dv=128)
    out = selection_attention(*case, flags=triton_flags(), max_len=1024)
    record = last_dispatch()
    assert record.path.startswith("triton.")
    record_parity(
        record_property,
        out,
        selection_attention_oracle(*case),
        grouped_selection_attention_packed(*case, max_len=1024),
        record.path,
    )

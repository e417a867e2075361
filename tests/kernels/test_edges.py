"""Shapes and values that break kernels: tile edges, empty rows, odd sizes, poison."""

from __future__ import annotations

import pytest
import torch
from selection_cases import DEVICE, FORMS, assert_matches, randn, selection, triton_flags

from kernels.selection import limits, op
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.errors import (
    InvalidInput,
    Misaligned,
    UnsupportedDevice,
    UnsupportedDtype,
    UnsupportedShape,
)
from kernels.selection.flags import Flags
from kernels.selection.reference import (
    dense_attention_oracle,
    grouped_selection_attention_packed,
    selection_attention_oracle,
    varlen_attention_oracle,
)

pytestmark = pytest.mark.usefixtures("nan_empty")

STRADDLING = [1, 15, 16, 17, 63, 64, 65, 127, 129]
PATHS = [f"triton.{name}.{form}" for name in ("ranges", "dense", "varlen") for form in FORMS]


def run(path, case, **options):
    """Run the operator along one path, and prove that it was that one."""
    if path == "packed_sdpa":
        return grouped_selection_attention_packed(*case, **options)
    _, name, form = path.split(".")
    force_path = "auto" if name == "ranges" else name
    flags = triton_flags(force_path=force_path, group=form == "group")
    out = selection_attention(*case, flags=flags, **options)
    assert last_dispatch().path == path
    return out


@pytest.mark.parametrize("L", STRADDLING)
def test_lengths_that_straddle_tiles(L):
    Q, K, V = randn(2, 2, 16), randn(2, L, 16), randn(2, L, 16)
    assert_matches(op.sel_attn_fwd_dense_group(Q, K, V), dense_attention_oracle(Q, K, V))


def test_straddling_lengths_side_by_side():
    cu = torch.tensor([0, 0, *STRADDLING, 0], device=DEVICE).cumsum(0)
    N, total = len(cu) - 1, int(cu[-1])
    Q, K, V = randn(N, 3, 16), randn(total, 16), randn(total, 16)
    assert_matches(op.sel_attn_fwd_varlen_group(Q, K, V, cu), varlen_attention_oracle(Q, K, V, cu))


RANGES = {
    "straddling": [[[5, 5 + L] for L in (1, 16, 17)], [[0, 63], [64, 128], [130, 195]]],
    "unsorted": [[[90, 100], [3, 9], [40, 70]], [[64, 65], [0, 1], [199, 200]]],
    "adjacent": [[[0, 10], [10, 64], [64, 80]], [[120, 130], [100, 120], [130, 131]]],
    "overlapping": [[[0, 70], [60, 130], [65, 66]], [[5, 50], [5, 50], [0, 200]]],
    "clamped": [[[-9, 4], [190, 999], [-5, -1]], [[-1000, 1000], [500, 600], [0, 0]]],
    "one row empty": [[[0, 0], [7, 3], [200, 300]], [[0, 20], [20, 20], [30, 29]]],
    "all empty": [[[0, 0], [7, 3], [200, 300]], [[5, 5], [-4, 0], [250, 220]]],
}


@pytest.mark.parametrize("path", [*PATHS, "packed_sdpa"])
@pytest.mark.parametrize("name", RANGES)
def test_ranges(name, path):
    case = selection([[[row] for row in RANGES[name]]], S_kv=200)
    out = run(path, case)
    assert_matches(out, selection_attention_oracle(*case))
    if name == "all empty":
        assert (out == 0).all()


@pytest.mark.parametrize(
    ("n", "dtype"), [(3, torch.int16), (17, torch.int32), (128, torch.int64)], ids=str
)
def test_any_number_of_overlapping_ranges(n, dtype):
    starts = torch.randint(-20, 320, (1, 1, 2, n))
    ranges = torch.stack([starts, starts + torch.randint(-3, 12, starts.shape)], dim=-1).to(dtype)
    case = selection(ranges, S_kv=300)
    assert_matches(run("triton.ranges.group", case), selection_attention_oracle(*case))


def test_more_ranges_than_fit_in_registers():
    case = selection(torch.tensor([[i, i + 2] for i in range(129)])[None, None, None], S_kv=140)
    with pytest.raises(UnsupportedShape, match="up to 128 a row, got 129"):
        op.selection_attention_triton(*case, flags=triton_flags())
    oracle = selection_attention_oracle(*case)
    assert_matches(selection_attention(*case, flags=triton_flags()), oracle)
    assert last_dispatch().path == "packed_sdpa"
    assert_matches(run("triton.varlen.group", case), oracle)


@pytest.mark.parametrize("path", [*PATHS, "packed_sdpa"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 6e4])
def test_what_lies_outside_the_ranges_never_reaches_the_result(poison, path):
    ranges = [[[[[3, 20], [70, 75]]], [[[100, 100], [90, 80]]], [[[127, 128], [60, 64]]]]]
    case = selection(ranges, S_kv=129)
    expected = selection_attention_oracle(*case)
    unselected = torch.ones(129, dtype=torch.bool, device=DEVICE)
    for start, end in ((3, 20), (70, 75), (127, 128), (60, 64)):
        unselected[start:end] = False
    case.K[:, :, unselected] = poison
    case.V[:, :, unselected] = poison
    out = run(path, case, max_len=32)
    assert_matches(out[:, ::2], expected[:, ::2])
    assert (out[:, 1] == 0).all()


def test_poison_between_varlen_rows_and_beyond_dense_lengths():
    Q, K, V = randn(2, 2, 16), randn(2, 80, 16), randn(2, 80, 16)
    lengths = torch.tensor([70, 0], device=DEVICE)
    K[0, 70:], V[0, 70:], K[1], V[1] = (float("nan"),) * 4
    out = op.sel_attn_fwd_dense_group(Q, K, V, lengths=lengths)
    assert_matches(out[:1], dense_attention_oracle(Q[:1], K[:1, :70], V[:1, :70]))
    assert (out[1] == 0).all()
    cu = torch.tensor([0, 70, 70], device=DEVICE)
    out = op.sel_attn_fwd_varlen_group(Q, K.flatten(0, 1), V.flatten(0, 1), cu)
    assert_matches(out[:1], dense_attention_oracle(Q[:1], K[:1, :70], V[:1, :70]))
    assert (out[1] == 0).all()


@pytest.mark.parametrize(
    ("H", "form"),
    [(1, "group"), (3, "group"), (16, "group"), (64, "group"), (1, "head"), (5, "head")],
)
def test_head_counts(H, form):
    case = selection([[[[[0, 40], [41, 50]]]]], S_kv=50, h=H)
    assert_matches(run(f"triton.ranges.{form}", case), selection_attention_oracle(*case))


@pytest.mark.parametrize(("D", "Dv"), [(1, 1), (8, 40), (24, 16), (100, 36), (192, 128), (16, 130)])
@pytest.mark.parametrize("name", ["ranges", "dense", "varlen"])
def test_head_dimensions(name, D, Dv):
    case = selection([[[[[0, 40], [41, 70]]]]], S_kv=70, D=D, Dv=Dv, dtype=torch.float32)
    assert_matches(run(f"triton.{name}.group", case), selection_attention_oracle(*case))


@pytest.mark.parametrize("path", [*PATHS, "packed_sdpa"])
def test_strided_inputs_are_read_where_they_lie(path):
    case = selection([[[[[0, 30], [40, 70]]] * 2, [[[5, 6], [1, 2]]] * 2]], S_kv=70, h=3, D=20)
    K = case.K.transpose(1, 2).contiguous().transpose(1, 2)  # [B, S_kv, G, D] in memory
    V = torch.cat([case.V, case.V], dim=-1)[..., ::2]
    Q = case.Q.transpose(-1, -2).contiguous().transpose(-1, -2)
    ranges = torch.stack([case.ranges[..., 0], case.ranges[..., 1]], dim=0).movedim(0, -1)
    strided = type(case)(Q, K, V, ranges)
    assert not any(t.is_contiguous() for t in strided)
    assert_matches(run(path, strided), selection_attention_oracle(*strided))


@pytest.mark.parametrize("force_path", ["auto", "dense", "varlen"])
@pytest.mark.parametrize(("n", "S_kv"), [(0, 7), (5, 0)], ids=["no ranges", "no keys"])
def test_nothing_to_select_from(n, S_kv, force_path):
    case = selection(torch.zeros(1, 2, 1, n, 2, dtype=torch.int64), S_kv=S_kv)
    flags = triton_flags(force_path=force_path)
    with op.record_launches() as kernels:
        assert (op.selection_attention_triton(*case, flags=flags) == 0).all()
        assert (selection_attention(*case, flags=flags) == 0).all()
    # a call that starts no kernel must not be on record as one that Triton served
    assert kernels == []
    assert last_dispatch().path == "packed_sdpa"
    assert last_dispatch().reason.startswith("there is nothing to compute")


def test_large_scores_do_not_overflow():
    case = selection([[[[[0, 70]]]]], S_kv=70, dtype=torch.float32)
    case.Q.mul_(1e3)
    case.K.mul_(1e3)
    assert_matches(run("triton.ranges.group", case), selection_attention_oracle(*case))


def test_row_longer_than_max_len_is_nan_not_truncated():
    case = selection([[[[[0, 30]]], [[[0, 20]]]]], S_kv=70)
    for name in ("dense", "varlen"):
        out = run(f"triton.{name}.group", case, max_len=20)
        assert out[:, 0].isnan().all()
        assert_matches(out[:, 1:], selection_attention_oracle(*case)[:, 1:])


class TestLaunchersRefuse:
    def test_too_many_heads_for_a_group_tile(self):
        Q, K, V = randn(1, 65, 16), randn(1, 4, 16), randn(1, 4, 16)
        with pytest.raises(UnsupportedShape, match="64 heads"):
            op.sel_attn_fwd_dense_group(Q, K, V)
        assert_matches(op.sel_attn_fwd_dense(Q, K, V), dense_attention_oracle(Q, K, V))

    def test_head_dimensions_that_do_not_fit(self):
        with pytest.raises(UnsupportedShape, match="1 to 256"):
            op.sel_attn_fwd_dense(randn(1, 1, 257), randn(1, 4, 257), randn(1, 4, 16))

    def test_more_keys_than_positions_can_count(self):
        K = torch.zeros(1, 1, 16, dtype=torch.float16, device=DEVICE).expand(1, 2**30 + 1, 16)
        with pytest.raises(UnsupportedShape, match="1073741824 keys"):
            op.sel_attn_fwd_dense(randn(1, 1, 16), K, K)

    def test_fp64(self):
        tensors = (t.double() for t in (randn(1, 1, 16), randn(1, 4, 16), randn(1, 4, 16)))
        with pytest.raises(UnsupportedDtype, match="float64"):
            op.sel_attn_fwd_dense(*tensors)

    @pytest.mark.skipif(DEVICE.type == "cuda", reason="bf16 is fine on a GPU")
    def test_bf16_in_the_interpreter(self):
        tensors = (t.bfloat16() for t in (randn(1, 1, 16), randn(1, 4, 16), randn(1, 4, 16)))
        with pytest.raises(UnsupportedDtype, match="interpreter"):
            op.sel_attn_fwd_dense(*tensors)

    def test_cpu_tensors_without_the_interpreter(self, monkeypatch):
        monkeypatch.setattr(limits, "INTERPRETED", False)
        with pytest.raises(UnsupportedDevice, match="cpu"):
            op.sel_attn_fwd_dense(*(torch.zeros(1, 4, 16) for _ in range(3)))

    def test_misaligned_rows_when_asked_to(self):
        Q, K, V = randn(1, 1, 20), randn(1, 4, 20), randn(1, 4, 16)  # rows of 40 bytes
        flags = Flags(require_align=True)
        with pytest.raises(Misaligned, match="16 bytes"):
            op.sel_attn_fwd_dense(Q, K, V, flags=flags)
        with pytest.raises(Misaligned, match="along the head dimension"):
            op.sel_attn_fwd_dense(randn(1, 1, 32)[..., ::2], K[..., :16], V, flags=flags)

    def test_tensors_that_contradict_each_other(self):
        Q, K, V = randn(2, 1, 16), randn(2, 4, 16), randn(2, 4, 16)
        with pytest.raises(InvalidInput, match="do not fit"):
            op.sel_attn_fwd_dense(Q, K[:, :3], V)
        with pytest.raises(InvalidInput, match="differ in dtype"):
            op.sel_attn_fwd_dense(Q, K, V.float())
        cu = torch.zeros(2, dtype=torch.int32, device=DEVICE)
        with pytest.raises(InvalidInput, match=r"cu_seqlens must be \[3\]"):
            op.sel_attn_fwd_varlen(Q, K[0], V[0], cu)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, within the interpreter
@pytest.mark.parametrize("group", [True, False], ids=["group", "head"])
def test_a_leading_tile_of_minus_infinity_is_not_nan(group):
    Q = torch.rand(2, 4, 16, device=DEVICE) + 0.1
    K, V = (torch.rand(2, 130, 16, device=DEVICE) for _ in range(2))
    K[:, :64] = -torch.inf  # all scores of the first tile are -inf
    launch = op.sel_attn_fwd_dense_group if group else op.sel_attn_fwd_dense
    out = launch(Q, K, V)
    expected = launch(Q, K[:, 64:].contiguous(), V[:, 64:].contiguous())
    assert torch.isfinite(out).all()
    assert torch.allclose(out, expected, atol=1e-6)

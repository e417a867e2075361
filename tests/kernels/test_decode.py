"""Rows cut along their keys: a split kernel, then a combine."""

from __future__ import annotations

import pytest
import torch
from selection_cases import DEVICE, assert_matches, randn, selection, triton_flags
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kernels.selection import launch, op
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.reference import (
    dense_attention_oracle,
    selection_attention_oracle,
    varlen_attention_oracle,
)
from kernels.selection.tuning import MAX_SPLITS, split_count

pytestmark = pytest.mark.usefixtures("nan_empty")

STRADDLING = [0, 1, 63, 64, 65, 127, 129]


def split_flags(splits, **changes):
    return triton_flags(splits=splits, **changes)


@pytest.mark.parametrize("splits", [2, 4])
def test_rows_of_every_length_are_shared_out(splits):
    cu = torch.tensor([0, *STRADDLING], device=DEVICE).cumsum(0)
    total = int(cu[-1])
    Q, K, V = randn(len(STRADDLING), 3, 20), randn(total, 20), randn(total, 24)
    with op.record_launches() as kernels:
        out = op.sel_attn_fwd_varlen_group(Q, K, V, cu, flags=split_flags(splits))
    assert kernels == ["varlen_rows_split.group", "varlen_rows_combine.group"]
    assert_matches(out, varlen_attention_oracle(Q, K, V, cu))
    assert (out[0] == 0).all()


@pytest.mark.parametrize("form", ["group", "head"])
def test_more_programs_than_tiles(form):
    Q, K, V = randn(2, 3, 16), randn(2, 129, 16), randn(2, 129, 16)
    lengths = torch.tensor([129, 64], device=DEVICE)
    launcher = op.sel_attn_fwd_dense_group if form == "group" else op.sel_attn_fwd_dense
    with op.record_launches() as kernels:
        out = launcher(Q, K, V, lengths=lengths, flags=split_flags(4))
    assert kernels == [f"dense_rows_split.{form}", f"dense_rows_combine.{form}"]
    assert_matches(out[:1], dense_attention_oracle(Q[:1], K[:1], V[:1]))
    assert_matches(out[1:], dense_attention_oracle(Q[1:], K[1:, :64], V[1:, :64]))


def test_decode_over_several_groups_with_poison_between_the_ranges():
    ranges = [[[[[3, 130], [120, 140], [500, 563]], [[0, 0], [9, 4], [400, 401]]]]]
    case = selection(ranges, S_kv=600, h=5, D=24, Dv=40)
    oracle = selection_attention_oracle(*case)
    for group, row in enumerate(ranges[0][0]):
        unselected = torch.ones(600, dtype=torch.bool, device=DEVICE)
        for start, end in row:
            unselected[start:end] = False
        case.K[:, group, unselected] = torch.nan
        case.V[:, group, unselected] = torch.nan
    out = selection_attention(*case, flags=split_flags(4), max_len=210)
    assert last_dispatch().path == "triton.ranges.group"
    assert last_dispatch().kernels == ("ranges_split.group", "ranges_combine.group")
    assert_matches(out, oracle)


def test_calls_behind_each_other_join_their_own_parts():
    # the workspace of one is the memory of the next: parts read too early are those of another row
    K, V = randn(1, 256, 16), randn(1, 256, 16)
    rows = [randn(1, 2, 16) for _ in range(200 if DEVICE.type == "cuda" else 3)]
    outs = [op.sel_attn_fwd_dense_group(Q, K, V, flags=split_flags(4)) for Q in rows]
    for Q, out in zip(rows, outs, strict=True):
        assert_matches(out, dense_attention_oracle(Q, K, V))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, within the interpreter
def test_parts_whose_scores_are_all_minus_infinity_weigh_nothing():
    Q, K, V = torch.rand(1, 2, 16) + 0.1, torch.rand(1, 256, 16), torch.rand(1, 256, 16)
    K[:, :128] = -torch.inf
    Q, K, V = Q.to(DEVICE), K.to(DEVICE), V.to(DEVICE)
    out = op.sel_attn_fwd_dense_group(Q, K, V, flags=split_flags(4))
    assert_matches(out, dense_attention_oracle(Q, K[:, 128:], V[:, 128:]))
    K.fill_(-torch.inf)
    assert (op.sel_attn_fwd_dense_group(Q, K, V, flags=split_flags(4)) == 0).all()


def test_how_many_programs_share_a_row():
    assert split_count(4, 1024, 132) == 16  # decode: as many as there are 64 keys for
    assert split_count(4, 65536, 132) == 64
    assert split_count(32, 65536, 132) == 8
    for full in (67, 132, 1024):
        assert split_count(full, 65536, 132) == 1
    assert split_count(1, 127, 132) == 1
    assert split_count(0, 1024, 132) == 1
    for programs in range(1, 140):
        splits = split_count(programs, 10**6, 132)
        assert splits & (splits - 1) == 0
        assert 1 <= splits <= MAX_SPLITS
        assert programs * splits <= 2 * 132


CALLS = {
    "dense": lambda Q, K, V, index: op.sel_attn_fwd_dense_group(Q, K, V, lengths=index[1:]),
    "varlen": lambda Q, K, V, index: op.sel_attn_fwd_varlen_group(Q, K[0], V[0], index),
    "ranges": lambda Q, K, V, index: op.selection_attention_triton(
        Q[None, :, None], K[None, :1], V[None, :1], index[:2].expand(1, 3, 1, 4, 2), max_len=8
    ),
}


class TestNothingWaitsForTheDevice:
    """What a CUDA graph can capture must not read a tensor on the host."""

    @pytest.mark.parametrize("splits", [1, 4])
    @pytest.mark.parametrize("form", CALLS)
    def test_launchers_read_no_tensor(self, form, splits, monkeypatch):
        started = []
        monkeypatch.setattr(launch, "_start", lambda f, name, *args, **kw: started.append(name))
        monkeypatch.setenv("NSA_SEL_TRITON_SPLITS", str(splits))
        with FakeTensorMode():  # holds shapes and no data: whoever reads some fails
            Q, K, V = (torch.empty(3, n, 16, device=DEVICE) for n in (2, 70, 70))
            CALLS[form](Q, K, V, torch.zeros(4, dtype=torch.int64, device=DEVICE))
        assert len(started) == (1 if splits == 1 else 2)

    def test_a_launcher_that_read_one_would_be_caught(self):
        with FakeTensorMode(), pytest.raises(DataDependentOutputException):
            torch.zeros(4, dtype=torch.int64).max().item()

    @pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
    @pytest.mark.parametrize("splits", [1, 4])
    def test_a_captured_call_follows_its_inputs(self, splits):
        case = selection([[[[[0, 64], [100, 163]]]]], S_kv=600, h=8, D=64, Dv=64)
        flags = split_flags(splits)
        op.selection_attention_triton(*case, flags=flags)  # compiled before the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = op.selection_attention_triton(*case, flags=flags)
        for ranges in ([[0, 1], [300, 599]], [[5, 5], [9, 3]]):
            case.ranges.copy_(torch.tensor([[[ranges]]]))
            graph.replay()
            assert_matches(out, selection_attention_oracle(*case))

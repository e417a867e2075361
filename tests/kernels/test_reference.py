"""The oracle by hand-computed cases; the packed references against it; the probe against both."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from selection_cases import DEVICE, assert_matches, randn, selection, spread_ranges

from kernels.selection.checks import ignored_keys
from kernels.selection.errors import InvalidInput
from kernels.selection.packing import PIECE, normalise_ranges, take
from kernels.selection.reference import (
    dense_attention_oracle,
    dense_attention_packed,
    grouped_selection_attention_packed,
    lengths_of,
    selection_attention_oracle,
    varlen_attention_oracle,
    varlen_attention_packed,
)

SELECTIONS = [selection_attention_oracle, grouped_selection_attention_packed]


def tensor(data, dtype=torch.float32):
    return torch.tensor(data, dtype=dtype, device=DEVICE)


def one_head(keys, values, ranges, query=(1.0,)):
    """Q, K, V, ranges of one row with one head."""
    return (
        tensor(query).view(1, 1, 1, 1, -1),
        tensor(keys).view(1, 1, len(keys), -1),
        tensor(values).view(1, 1, len(values), -1),
        tensor(ranges, torch.int64).view(1, 1, 1, len(ranges), 2),
    )


def close(out, expected):
    torch.testing.assert_close(out.flatten().double().cpu(), torch.tensor(expected).double())


@pytest.mark.parametrize("attend", SELECTIONS)
class TestByHand:
    def test_two_keys(self, attend):
        # weights 1 : 3, so (4 + 3 * 8) / 4
        close(attend(*one_head([0.0, math.log(3)], [4.0, 8.0], [[0, 2]])), [7.0])

    def test_scores_are_divided_by_the_root_of_the_head_dimension(self, attend):
        key = [2 * math.log(3) / 4] * 4  # dot with four ones: 2 ln 3; over sqrt(4): ln 3
        out = attend(*one_head([[0.0] * 4, key], [4.0, 8.0], [[0, 2]], query=[1.0] * 4))
        close(out, [7.0])

    def test_equal_scores_average_the_selected_values_only(self, attend):
        out = attend(*one_head([0.0] * 6, [100.0, 1, 2, 100, 6, 100], [[1, 3], [4, 5]]))
        close(out, [3.0])

    def test_a_key_selected_twice_counts_once(self, attend):
        out = attend(*one_head([0.0] * 4, [1.0, 2, 6, 100], [[0, 2], [1, 3], [0, 3], [1, 2]]))
        close(out, [3.0])

    def test_ranges_are_clamped(self, attend):
        close(attend(*one_head([0.0] * 3, [1.0, 2, 6], [[-5, 1], [2, 99], [50, 60]])), [3.5])

    def test_nothing_selected_gives_zeros(self, attend):
        close(attend(*one_head([0.0] * 3, [1.0, 2, 6], [[2, 1], [3, 3], [9, 12]])), [0.0])

    def test_one_key_gives_its_value(self, attend):
        close(attend(*one_head([3.0, 9.0], [5.0, 7.0], [[1, 2]])), [7.0])

    def test_inputs_that_contradict_each_other_are_refused(self, attend):
        Q, K, V, ranges = one_head([0.0] * 3, [1.0, 2, 6], [[0, 3]])
        with pytest.raises(InvalidInput, match="does not fit"):
            attend(Q, K[:, :, :2], V, ranges)
        with pytest.raises(InvalidInput, match="ranges must be"):
            attend(Q, K, V, ranges.float())


def test_row_oracles_by_hand():
    Q = tensor([[[1.0]], [[1.0]]])
    K = tensor([0.0, math.log(3), 0.0, 0.0]).view(2, 2, 1)
    V = tensor([4.0, 8.0, 1.0, 3.0]).view(2, 2, 1)
    close(dense_attention_oracle(Q, K, V), [7.0, 2.0])
    cu = tensor([0, 3, 4], torch.int32)
    flat = varlen_attention_oracle(Q, K.view(4, 1), V.view(4, 1), cu)
    close(flat, [(4 + 24 + 1) / 5, 3.0])


def plain_python(Q, K, V, ranges):
    """Softmax over keys marked one by one, in Python floats: shares no code with the package."""
    S_kv, scale = K.shape[2], 1 / math.sqrt(Q.shape[-1])
    out = torch.zeros(*Q.shape[:4], V.shape[-1], dtype=torch.float64)
    for b, s, g, h in torch.cartesian_prod(*(torch.arange(n) for n in Q.shape[:4])).tolist():
        spans = ranges[b, s, g].tolist()
        chosen = [k for k in range(S_kv) if any(start <= k < end for start, end in spans)]
        q = Q[b, s, g, h].tolist()
        scores = [
            scale * sum(x * y for x, y in zip(q, K[b, g, k].tolist(), strict=True)) for k in chosen
        ]
        total = sum(math.exp(x) for x in scores)
        for k, score in zip(chosen, scores, strict=True):
            out[b, s, g, h] += math.exp(score) / total * V[b, g, k].double().cpu()
    return out.to(Q.device)


@pytest.mark.parametrize("attend", SELECTIONS)
def test_random_overlapping_ranges_match_plain_python(attend):
    case = selection(
        torch.randint(-4, 24, (2, 3, 2, 5, 2)), S_kv=20, D=5, Dv=3, dtype=torch.float32
    )
    torch.testing.assert_close(attend(*case).double(), plain_python(*case), atol=1e-5, rtol=1e-5)


def test_normalised_ranges_are_disjoint_sorted_and_equal_as_sets():
    ranges = torch.randint(-10, 60, (200, 6, 2))
    spans = normalise_ranges(ranges, 50)
    for before, after in zip(ranges.tolist(), spans.tolist(), strict=True):
        wanted = {k for start, end in before for k in range(max(start, 0), min(end, 50))}
        covered = [k for start, end in after for k in range(start, end)]
        assert len(covered) == len(set(covered))
        assert set(covered) == wanted
        assert covered == sorted(covered)
        assert all(0 <= start <= end <= 50 for start, end in after)


SOURCES = {
    "whole": lambda X: X,
    "expanded": lambda X: X[:1].expand(4, -1, -1),
    "part of a cache": lambda X: X[:, 3:40],
    "every other row": lambda X: X[:, ::2],
    "heads inside": lambda X: X.mT.contiguous().mT[..., :16],
    "columns": lambda X: X[..., 8:24],
    "columns off a piece": lambda X: X[..., 1:17],
    "odd width": lambda X: X[..., :23],
    "no rows": lambda X: X[:, :0],
    "no width": lambda X: X[..., :0],
}


@pytest.mark.parametrize("bits", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_taken_bit_by_bit(name, bits):
    """All bit patterns, NaN with any payload among them, from sources that lie anyhow."""
    dtype = {torch.int16: torch.float16, torch.int32: torch.float32, torch.int64: torch.float64}
    limits = torch.iinfo(bits)
    raw = torch.randint(limits.min, limits.max, (4, 64, 32), dtype=bits, device=DEVICE)
    X = SOURCES[name](raw)
    at = (
        torch.randint(4, (5, 1), device=DEVICE),
        torch.randint(X.shape[1] or 1, (5, min(7, X.shape[1])), device=DEVICE),
    )
    found = take(X.view(dtype[bits]), *at)
    assert found.dtype == dtype[bits]
    assert torch.equal(found.view(bits), X[at])


def test_rows_are_taken_in_pieces_where_that_is_possible():
    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.Tensor.__getitem__:
                dtypes.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    at = (torch.tensor([1, 0], device=DEVICE),)
    X = randn(3, 16)
    differentiable = X.clone().requires_grad_()
    for source, dtype in (
        (X, PIECE),
        (X[:, 1:9], X.dtype),  # begins within a piece
        (X[:, :12], X.dtype),  # ends within one
        (X.T, X.dtype),
        (X.double().to(PIECE), PIECE),
        (differentiable, X.dtype),
    ):
        dtypes = []
        with Seen():
            take(source, *at)
        assert dtypes == [dtype]
    take(differentiable, *at).sum().backward()
    assert differentiable.grad[:, 0].tolist() == [1, 1, 0]


def test_packed_reference_reads_nothing_back_from_the_device():
    # meta tensors hold no data: any sync, and any shape that depends on data, raises
    Q, K, V, ranges = (
        torch.empty(2, 3, 2, 4, 16, device="meta"),
        torch.empty(2, 2, 100, 16, device="meta"),
        torch.empty(2, 2, 100, 8, device="meta"),
        torch.empty(2, 3, 2, 5, 2, device="meta", dtype=torch.int64),
    )
    out = grouped_selection_attention_packed(Q, K, V, ranges, max_len=64)
    assert out.shape == (2, 3, 2, 4, 8)


def test_packed_reference_in_many_sdpa_calls(monkeypatch):
    monkeypatch.setattr("kernels.selection.reference.MAX_SDPA_ROWS", 5)
    case = selection(spread_ranges(2, 3, 2, 2, 7, 40), S_kv=40, dtype=torch.float32)
    assert_matches(grouped_selection_attention_packed(*case), selection_attention_oracle(*case))


def test_max_len_changes_nothing_where_it_holds_and_gives_nan_where_it_does_not():
    ranges = torch.tensor([[[[[0, 8], [10, 14]]], [[[0, 9], [10, 15]]]]])  # 12 and 14 keys
    case = selection(ranges, S_kv=30, dtype=torch.float32)
    whole = grouped_selection_attention_packed(*case)
    tight = grouped_selection_attention_packed(*case, max_len=12)
    torch.testing.assert_close(tight[:, 0], whole[:, 0])
    assert tight[:, 1].isnan().all()
    with pytest.raises(InvalidInput, match="max_len"):
        grouped_selection_attention_packed(*case, max_len=0)


def test_packed_row_forms_match_their_oracles():
    lengths = [0, 5, 33, 1, 0]
    cu = torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
    Q, K, V = randn(5, 3, 20), randn(39, 20), randn(39, 12)
    assert lengths_of(cu) == lengths
    assert_matches(varlen_attention_packed(Q, K, V, cu, 40), varlen_attention_oracle(Q, K, V, cu))
    K, V = randn(5, 33, 20), randn(5, 33, 12)
    assert_matches(dense_attention_packed(Q, K, V), dense_attention_oracle(Q, K, V))


def test_packed_reference_differentiates_where_a_row_is_empty():
    case = selection([[[[[0, 4]]], [[[3, 3]]]]], S_kv=6, dtype=torch.float32)
    Q = case.Q.requires_grad_()
    grouped_selection_attention_packed(Q, case.K, case.V, case.ranges).sum().backward()
    assert torch.isfinite(Q.grad).all()
    assert (Q.grad[:, 1] == 0).all()


def places(N, L):
    first = torch.arange(N, device=DEVICE) * L
    return {"first": first, "middle": first + L // 2, "last": first + L - 1}


def first_key_attention(Q, K, V):
    """The wrong reference: with one query, `is_causal` attends the first key only."""
    return F.scaled_dot_product_attention(
        Q.flatten(0, 1)[:, None, None],
        K.repeat_interleave(Q.shape[1], 0)[:, None],
        V.repeat_interleave(Q.shape[1], 0)[:, None],
        is_causal=True,
    ).view(*Q.shape[:2], -1)


WRONG = {
    "first key only": first_key_attention,
    "first 64 keys only": lambda Q, K, V: dense_attention_oracle(Q, K[:, :64], V[:, :64]),
    "all but the last": lambda Q, K, V: dense_attention_oracle(Q, K[:, :-1], V[:, :-1]),
    "mean of the values": lambda Q, K, V: V.mean(1, keepdim=True).expand(-1, Q.shape[1], -1),
    "constant": lambda Q, K, V: torch.ones_like(Q),
}


@pytest.mark.parametrize("L", [1, 3, 65, 1024])
@pytest.mark.parametrize("attend", [dense_attention_oracle, dense_attention_packed])
def test_probe_accepts_attention_over_all_keys(attend, L):
    Q, K, V = randn(4, 2, 32), randn(4, L, 32), randn(4, L, 32)

    def flat(k, v):
        return attend(Q, k.view_as(K), v.view_as(V))

    assert ignored_keys(flat, Q, K.flatten(0, 1), V.flatten(0, 1), places(4, L)) == ()


@pytest.mark.parametrize("name", WRONG)
def test_probe_names_what_a_wrong_reference_ignores(name):
    Q, K, V = randn(4, 2, 32), randn(4, 100, 32), randn(4, 100, 32)

    def flat(k, v):
        return WRONG[name](Q, k.view_as(K), v.view_as(V))

    ignored = ignored_keys(flat, Q, K.flatten(0, 1), V.flatten(0, 1), places(4, 100))
    assert "last key" in ignored
    if name == "first key only":
        assert {"middle value", "last value"} <= set(ignored)

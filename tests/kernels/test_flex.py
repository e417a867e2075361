"""Selection attention by flex_attention: its mask, its block lists, and both compiled.

Without `torch.compile` flex_attention evaluates the mask for every key and looks at no block list,
so the lists have a test of their own, and a few compiled calls show that both fit together.
"""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from selection_cases import DEVICE, Selection, assert_matches, randn, row, selection, spread_ranges

from kernels.selection import flex
from kernels.selection.checks import ignored_keys
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.errors import InvalidInput, UnsupportedShape
from kernels.selection.flags import Flags
from kernels.selection.flex import selection_attention_flex
from kernels.selection.reference import (
    grouped_selection_attention_packed,
    selected_keys,
    selection_attention_oracle,
)

pytestmark = pytest.mark.usefixtures("fresh_flex")
on_a_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")

ROWS = {  # ranges[B, S, G, n, 2]
    "one span": [[[[[5, 260]]]]],
    "empty rows": [[[[[3, 3], [9, 2]]], [[[0, 0], [300, 300]]], [[[40, 41], [7, 7]]]]],
    "overlapping": [[[[[0, 100], [50, 150], [140, 141]], [[10, 290], [20, 30], [20, 30]]]]],
    "unordered": [[[[[280, 300], [0, 2], [128, 130]]]], [[[[256, 257], [1, 1], [5, 9]]]]],
    "clamped": [[[[[-50, 3], [290, 4000], [-9, -1]]], [[[-100, 5000], [400, 500], [300, 9]]]]],
    "around blocks": [
        [
            [[[63, 64]]],
            [[[63, 65]]],
            [[[127, 128]]],
            [[[127, 129]]],
            [[[128, 129]]],
            [[[0, 128]]],
            [[[0, 129]]],
            [[[256, 300]]],
        ]
    ],
    "a block several times": [[[[[0, 1], [2, 3], [4, 5], [126, 130], [131, 132]]]]],
    "backwards": [[[[[200, 100], [299, -1], [130, 131]]]]],
}


class TestBlockLists:
    @pytest.mark.parametrize("name", ROWS)
    @pytest.mark.parametrize("S_kv", [2, 63, 64, 65, 127, 128, 129, 256, 300])
    def test_they_hold_what_the_ranges_touch(self, name, S_kv):
        check_lists(torch.tensor(ROWS[name]).flatten(0, 1), S_kv)

    @pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
    def test_any_ranges(self, dtype):
        # S_kv beyond int16, and bounds on both sides of it
        check_lists(torch.randint(-500, 32767, (40, 3, 7, 2), dtype=dtype), 33000)
        check_lists(torch.randint(-50, 700, (60, 2, 5, 2), dtype=dtype), 600)


def check_lists(ranges, S_kv):
    bounds, counts, blocks, lengths = flex.block_lists(ranges, torch.zeros(1, 1, S_kv, 1))
    assert {X.dtype for X in (bounds, counts, blocks, lengths)} == {torch.int32}
    assert torch.equal(bounds.long().clamp(0, S_kv), ranges.long().clamp(0, S_kv))
    for z, h in torch.cartesian_prod(*(torch.arange(size) for size in ranges.shape[:2])).tolist():
        keys = selected_keys(ranges[z, h].tolist(), S_kv)
        expected = sorted({key // flex.BLOCK for key in keys})
        assert counts[z, h].tolist() == [len(expected)]
        assert blocks[z, h, 0, : len(expected)].tolist() == expected
        assert (blocks[z, h] * flex.BLOCK < S_kv).all()  # the rest may be read, too
        assert lengths[z, h] == len(keys)


class TestUncompiled:
    @pytest.mark.parametrize("name", ROWS)
    def test_ranges(self, name, uncompiled):
        case = selection(ROWS[name], S_kv=300, h=3, D=16, Dv=24, dtype=torch.float32)
        out = selection_attention_flex(*case)
        assert_matches(out, selection_attention_oracle(*case))
        assert out.is_contiguous()

    @pytest.mark.parametrize(("B", "S", "G", "h"), [(3, 1, 2, 4), (1, 5, 3, 2), (2, 3, 2, 5)])
    def test_batches_queries_groups_and_heads(self, B, S, G, h, uncompiled):
        ranges = spread_ranges(B, S, G, 4, 9, 200)
        case = selection(ranges, S_kv=200, h=h, dtype=torch.float32)
        assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype, uncompiled):
        case = selection(spread_ranges(2, 1, 1, 3, 30, 200), S_kv=200, dtype=dtype)
        out = selection_attention_flex(*case)
        assert out.dtype == dtype
        assert_matches(out, selection_attention_oracle(*case))

    def test_what_keys_that_are_not_selected_hold_is_of_no_matter(self, uncompiled):
        case = row([[3, 20], [140, 150]])
        expected = selection_attention_oracle(*case)
        for poison in (float("nan"), float("inf"), -float("inf")):
            case.K[:, :, :3] = case.K[:, :, 20:140] = case.K[:, :, 150:] = poison
            assert_matches(selection_attention_flex(*case), expected)

    def test_every_selected_key_counts(self, uncompiled):
        """The probe of the benchmark: first, middle and last key of a row."""
        case = row([[120, 135], [290, 299]])

        def attend(K, V):
            return selection_attention_flex(case.Q, K[None, None], V[None, None], case.ranges)[0, 0]

        places = {"first": 120, "middle": 134, "last": 298}
        places = {name: torch.tensor([key]) for name, key in places.items()}
        assert ignored_keys(attend, case.Q[0, 0], case.K[0, 0], case.V[0, 0], places) == ()

    def test_max_len(self, uncompiled):
        case = selection(
            [[[[[0, 30], [20, 40]]], [[[0, 30], [5, 9]]], [[[1, 1], [2, 2]]]]], S_kv=70
        )
        out = selection_attention_flex(*case, max_len=30)
        packed = grouped_selection_attention_packed(*case, max_len=30)
        assert out[:, 0].isnan().all()
        assert torch.equal(out.isnan(), packed.isnan())
        assert_matches(out[:, 1:], packed[:, 1:])
        assert (out[:, 2] == 0).all()
        with pytest.raises(InvalidInput, match="max_len must be an integer, at least 1"):
            selection_attention_flex(*case, max_len=0)

    def test_caches_are_read_where_they_lie(self, uncompiled):
        case = selection(spread_ranges(2, 3, 2, 2, 20, 200), S_kv=200, dtype=torch.float32)
        expected = selection_attention_oracle(*case)
        preallocated = torch.full((2, 2, 500, 16), float("nan"))
        preallocated[:, :, :200] = case.K
        out = selection_attention_flex(case.Q, preallocated[:, :, :200], case.V, case.ranges)
        assert_matches(out, expected)
        # of one query, or one sequence, the heads may lie inside
        K = case.K.transpose(1, 2).contiguous().transpose(1, 2)
        with pytest.raises(UnsupportedShape, match="cannot be seen as one without a copy"):
            selection_attention_flex(case.Q, K, case.V, case.ranges)
        for part in (slice(0, 1), slice(None)), (slice(None), slice(1, 2)):
            out = selection_attention_flex(
                case.Q[part], K[part[0]], case.V[part[0]], case.ranges[part]
            )
            assert_matches(out, expected[part])

    def test_many_rows_in_several_calls(self, uncompiled, monkeypatch):
        monkeypatch.setattr(flex, "MAX_ROWS", 9)
        case = selection(spread_ranges(2, 11, 2, 2, 9, 60), S_kv=60, dtype=torch.float32)
        assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))
        assert [queries for queries, *_ in uncompiled] == [2, 2, 2, 2, 2, 1]
        uncompiled.clear()
        case = selection(spread_ranges(9, 1, 2, 2, 9, 60), S_kv=60, dtype=torch.float32)
        assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))
        assert [sequences for sequences, *_ in uncompiled] == [4, 4, 1]


at_length = pytest.mark.skipif(
    DEVICE.type != "cuda" and not os.environ.get("TEST_FULL"),
    reason="a minute of the C++ compiler, asked for by TEST_FULL=1",
)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, when it is first used
@pytest.mark.skipif(
    DEVICE.type != "cuda" and not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch has no C++ compiler to build it with",
)
class TestCompiled:
    """On a CPU by C++, on a GPU by Triton: here the block lists decide what is read."""

    @pytest.fixture(autouse=True)
    def built_here(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    @at_length
    def test_a_cache_that_grows(self):
        graphs = []
        for S_kv in (260, 300, 129, 128, 1000):
            case = selection(spread_ranges(2, 1, 2, 3, 20, S_kv), S_kv=S_kv, h=3)
            case.V[:, :, S_kv // 2 :] *= 3
            out = selection_attention_flex(*case, max_len=60)
            assert_matches(out, selection_attention_oracle(*case))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert graphs[1:] == [graphs[1]] * 4
        assert len(flex._built) == 2

    @at_length
    def test_ranges(self):
        every = [
            spans for name in ROWS for batch in ROWS[name] for query in batch for spans in query
        ]
        widest = max(len(spans) for spans in every)
        ranges = [[spans + [[0, 0]] * (widest - len(spans))] for spans in every]
        case = selection([ranges], S_kv=300, h=3, D=16, Dv=24)
        untouched = case.V.clone()
        out = selection_attention_flex(*case, max_len=250)
        expected = selection_attention_oracle(*case)
        lengths = torch.tensor([len(selected_keys(spans[0], 300)) for spans in ranges])
        assert_matches(out[:, lengths <= 250], expected[:, lengths <= 250])
        assert out[:, lengths > 250].isnan().all()
        assert (out[:, lengths == 0] == 0).all()
        assert torch.equal(case.V, untouched)

    def test_blocks_that_no_range_touches_are_not_read(self):
        case = row([[130, 200], [150, 256]], S_kv=600)
        expected = selection_attention_oracle(*case)
        case.K[:, :, :128] = case.V[:, :, :128] = float("nan")
        case.K[:, :, 256:] = case.V[:, :, 256:] = float("nan")
        case.K[:, :, 128:130] = float("nan")
        assert_matches(selection_attention_flex(*case), expected)


@on_a_gpu
@pytest.mark.filterwarnings("ignore")
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize(
        ("h", "D", "Dv"), [(4, 64, 64), (8, 128, 128), (16, 192, 128), (5, 48, 80)]
    )
    @pytest.mark.parametrize("B", [3, 160])  # too few rows for most devices, and enough
    def test_shapes(self, B, h, D, Dv, dtype):
        case = selection(
            spread_ranges(B, 1, 2, 8, 40, 1000), S_kv=1000, h=h, D=D, Dv=Dv, dtype=dtype
        )
        out = selection_attention(*case, flags=Flags(), max_len=320)
        assert last_dispatch().path == "flex_attention", last_dispatch().reason
        assert_matches(out, selection_attention_oracle(*case))

    def test_many_queries(self):
        case = selection(spread_ranges(2, 70, 2, 4, 40, 600), S_kv=600, h=4, D=64, Dv=64)
        assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))

    @pytest.mark.parametrize("lengths", [(512,), (512, 513)], ids=["compiled in", "any"])
    def test_in_a_graph(self, lengths):
        for S_kv in lengths:
            case = selection(spread_ranges(64, 1, 1, 8, 20, S_kv), S_kv=S_kv, h=4, D=64, Dv=64)
            selection_attention_flex(*case, max_len=160)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = selection_attention_flex(*case, max_len=160)
        again = selection(spread_ranges(64, 1, 1, 8, 20, S_kv), S_kv=S_kv, h=4, D=64, Dv=64)
        for mine, other in zip(case, again, strict=True):
            mine.copy_(other)
        graph.replay()
        assert_matches(out, selection_attention_oracle(*case))

    def test_a_shape_that_is_new_to_a_graph_is_packed(self):
        case = selection(spread_ranges(64, 1, 1, 8, 20, 512), S_kv=512, h=4, D=64, Dv=64)
        selection_attention(*case, flags=Flags(fallback="packed"), max_len=160)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = selection_attention(*case, flags=Flags(), max_len=160)
        assert last_dispatch().path == "packed_sdpa"
        assert "call it once before" in last_dispatch().reason
        graph.replay()
        assert_matches(out, selection_attention_oracle(*case))

    def test_nothing_waits_for_the_device(self):
        case = selection(spread_ranges(64, 1, 1, 8, 20, 512), S_kv=512, h=4, D=64, Dv=64)
        selection_attention_flex(*case)
        torch.cuda.set_sync_debug_mode("error")
        try:
            selection_attention_flex(*case)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_shared_caches_are_not_copied(self):
        cache = randn(1, 4096, 64)
        shared = cache.expand(256, -1, -1)[None]
        case = Selection(
            randn(1, 1, 256, 4, 64),
            shared,
            shared,
            spread_ranges(1, 1, 256, 4, 16, 4096).to(DEVICE),
        )
        selection_attention_flex(*case)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = selection_attention_flex(*case)
        assert torch.cuda.max_memory_allocated() - before < 16 * 2**20  # a copy has 134 MB
        assert_matches(out, selection_attention_oracle(*case))

"""Selection attention by flex_attention: what is compiled and when, refused, and dispatched to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from selection_cases import DEVICE, assert_matches, row, selection, spread_ranges

from kernels.selection import dispatch, flex
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.errors import (
    KernelBuildError,
    Misaligned,
    Unsupported,
    UnsupportedDevice,
    UnsupportedDtype,
    UnsupportedGrad,
    UnsupportedShape,
)
from kernels.selection.flags import Flags
from kernels.selection.flex import selection_attention_flex
from kernels.selection.reference import selection_attention_oracle

pytestmark = pytest.mark.usefixtures("fresh_flex")


class TestWhatIsBuilt:
    def test_a_decode_is_two_shapes_however_long_it_grows(self, uncompiled):
        for S_kv in (300, 301, 302, 700, 300):
            case = row([[0, 20], [140, 150]], S_kv=S_kv)
            assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))
        assert [(length, marked) for _, length, marked in uncompiled] == [
            (300, False), (301, True), (302, True), (700, True), (300, False)
        ]  # fmt: skip
        assert len(flex._built) == 2

    def test_the_marks_of_a_call_are_not_left_on_the_callers_tensors(self, uncompiled):
        for S_kv in (300, 301):
            case = row([[0, 20]], S_kv=S_kv)
            selection_attention_flex(*case)
        assert uncompiled[-1][2]
        assert not [name for name in vars(case.K) if "dynamo" in name]

    def test_queries_are_padded_to_a_power_of_two(self, uncompiled):
        for S in (2, 3, 4, 5, 7, 8):
            case = selection(spread_ranges(1, S, 2, 2, 9, 60), S_kv=60, dtype=torch.float32)
            assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))
        assert [queries for queries, *_ in uncompiled] == [2, 4, 4, 8, 8, 8]
        assert len(flex._built) == 3

    @pytest.mark.parametrize(
        "changes",
        [{"h": 3}, {"D": 32}, {"Dv": 32}, {"dtype": torch.float16}, {"ranges": [[0, 20], [4, 5]]}],
        ids=str,
    )
    def test_what_else_differs_is_a_shape_of_its_own(self, changes, uncompiled):
        for options in ({"ranges": [[0, 20]]}, {"ranges": [[0, 20]]} | changes):
            selection_attention_flex(*row(options.pop("ranges"), **options))
        assert len(flex._built) == 2
        assert not any(marked for *_, marked in uncompiled)

    def test_a_cache_that_is_part_of_a_larger_one_is_a_shape_of_its_own(self, uncompiled):
        case = row([[0, 20]])
        larger = torch.zeros(1, 1, 400, 16)
        selection_attention_flex(*case)
        selection_attention_flex(case.Q, larger[:, :, :300], case.V, case.ranges)
        assert len(flex._built) == 2

    def test_no_more_than_a_number_of_shapes(self, uncompiled, monkeypatch):
        monkeypatch.setattr(flex, "MAX_SHAPES", 2)
        cases = [row([[0, 20]], h=h) for h in (1, 2, 3)]
        for case in cases[:2]:
            selection_attention_flex(*case)
        with pytest.raises(Unsupported, match="2 shapes have been built"):
            selection_attention_flex(*cases[2])
        selection_attention_flex(*cases[0])

    def test_one_that_does_not_build_is_not_tried_again(self, monkeypatch):
        tried = []

        def broken(*operands):
            tried.append(operands)
            raise torch._dynamo.exc.BackendCompilerFailed(
                "inductor", RuntimeError("no C compiler"), None
            )

        monkeypatch.setattr(flex, "_functions", lambda: (broken, broken))
        flags = Flags(fallback="flex")
        for S_kv, max_len in ((300, None), (300, 64), (300, None)):
            case = row([[0, 20]], S_kv=S_kv)
            out = selection_attention(*case, flags=flags, max_len=max_len)
            assert_matches(out, selection_attention_oracle(*case))
            assert last_dispatch().path == "packed_sdpa"
            why = (
                "NSA_USE_TRITON_SEL is off; not flex_attention: KernelBuildError: it did not build"
            )
            assert last_dispatch().reason.startswith(why)
            assert "no C compiler" in last_dispatch().reason
        assert len(tried) == 1
        with pytest.raises(KernelBuildError, match="no C compiler"):
            selection_attention_flex(*case)
        selection_attention(*row([[0, 20]], D=32), flags=flags)
        assert len(tried) == 2

    @pytest.mark.parametrize(
        "error", [RuntimeError("an illegal memory access"), torch.OutOfMemoryError("full")], ids=str
    )
    def test_a_device_in_trouble_is_not_hidden(self, error, monkeypatch):
        def broken(*operands):
            raise error

        monkeypatch.setattr(flex, "_functions", lambda: (broken, broken))
        with pytest.raises(type(error), match=str(error)):
            selection_attention(*row([[0, 20]]), flags=Flags(fallback="flex"))
        assert last_dispatch() is None
        assert flex._failed == {}

    def test_nothing_is_built_while_a_graph_is_captured(self, uncompiled, monkeypatch):
        case = row([[0, 20]])
        monkeypatch.setattr(flex, "_capturing", lambda device: True)
        with pytest.raises(Unsupported, match="call it once before"):
            selection_attention_flex(*case)
        monkeypatch.setattr(flex, "_capturing", lambda device: False)
        selection_attention_flex(*case)
        monkeypatch.setattr(flex, "_capturing", lambda device: True)
        assert_matches(selection_attention_flex(*case), selection_attention_oracle(*case))


class TestRefuses:
    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"dtype": torch.float64}, UnsupportedDtype, "computes fp16, bf16 and fp32"),
            ({"D": 8}, UnsupportedShape, "head dimensions must be 16 to 256, got 8 and 16"),
            ({"Dv": 264}, UnsupportedShape, "got 16 and 264"),
            ({"h": 128}, UnsupportedShape, "may have 127 heads, got 128"),
            ({"ranges": [[0, 1]] * 65}, UnsupportedShape, "may have 64 ranges, got 65"),
            ({"S_kv": 1}, UnsupportedShape, "next to nothing"),
        ],
    )
    def test_a_shape(self, changes, error, message):
        changes = {"ranges": [[0, 20]]} | changes
        with pytest.raises(error, match=message):
            selection_attention_flex(*row(changes.pop("ranges"), **changes))

    def test_gradients(self):
        case = row([[0, 20]])
        with pytest.raises(UnsupportedGrad):
            selection_attention_flex(case.Q.requires_grad_(), *list(case)[1:])

    def test_what_torch_would_copy(self):
        case = row([[0, 20]])
        K = torch.zeros(1 + case.K.numel(), device=DEVICE)[1:].view_as(case.K)
        with pytest.raises(Misaligned, match="K does not begin on 16 bytes"):
            selection_attention_flex(case.Q, K, case.V, case.ranges)

    def test_other_devices(self):
        with pytest.raises(UnsupportedDevice, match="meta"):
            selection_attention_flex(*(tensor.to("meta") for tensor in row([[0, 20]])))

    def test_a_torch_without_it(self, monkeypatch):
        monkeypatch.setattr(flex.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UnsupportedDevice, match=r"does not have it|not installed"):
            selection_attention_flex(*row([[0, 20]]))

    def test_a_torch_whose_lists_are_of_one_length(self, monkeypatch):
        from torch.nn.attention.flex_attention import BlockMask

        monkeypatch.setattr(BlockMask, "from_kv_blocks", lambda counts, blocks: None)
        with pytest.raises(UnsupportedDevice, match="no block lists of any length"):
            flex.masked_attention()


class TestDispatch:
    @pytest.mark.parametrize("fallback", ["auto", "flex", "packed"])
    def test_the_flag_and_the_device_choose(self, fallback, monkeypatch):
        monkeypatch.setattr(dispatch, "selection_attention_flex", lambda *_, **__: "by flex")
        case = row([[0, 20]])
        out = selection_attention(*case, flags=Flags(fallback=fallback))
        record = last_dispatch()
        assert (record.kernels, record.capacity) == ((), 300)
        if fallback == "flex" or (fallback == "auto" and DEVICE.type == "cuda"):
            assert out == "by flex"
            assert record.path == "flex_attention"
            assert record.reason == "NSA_USE_TRITON_SEL is off"
        else:
            assert_matches(out, selection_attention_oracle(*case))
            why = {"auto": "cpu tensors (NSA_SEL_FALLBACK=flex overrides)"}
            why = why.get(fallback, "NSA_SEL_FALLBACK is packed")
            assert record.path == "packed_sdpa"
            assert record.reason == f"NSA_USE_TRITON_SEL is off; not flex_attention: {why}"

    def test_a_cuda_device_has_it_by_default(self):
        assert dispatch._why_not_flex(torch.device("cuda"), Flags()) is None

    def test_what_it_cannot_serve_is_packed_and_says_why(self):
        case = row([[0, 20]], D=8)
        case.Q.requires_grad_()
        for grad, why in ((True, "UnsupportedGrad: inputs"), (False, "UnsupportedShape: head dim")):
            with torch.set_grad_enabled(grad):
                out = selection_attention(*case, flags=Flags(fallback="flex"))
            assert_matches(out, selection_attention_oracle(*case))
            assert last_dispatch().path == "packed_sdpa"
            assert f"; not flex_attention: {why}" in last_dispatch().reason

    def test_it_is_a_fallback_of_triton(self, uncompiled):
        case = row([[0, 20]])
        flags = replace(Flags(), use_triton=True, min_l=301, fallback="flex")
        assert_matches(selection_attention(*case, flags=flags), selection_attention_oracle(*case))
        assert last_dispatch().path == "flex_attention"
        assert last_dispatch().reason.startswith("selected length up to 300 < threshold 301")

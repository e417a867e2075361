"""Every flag, every reason to fall back, and proof of what ran."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from selection_cases import DEVICE, assert_matches, selection, triton_flags

from kernels.selection import dispatch, launch, op
from kernels.selection.diagnostics import bucket_of
from kernels.selection.dispatch import last_dispatch, selection_attention
from kernels.selection.errors import FlagError, InvalidInput, KernelBuildError
from kernels.selection.flags import FALLBACKS, Flags, configured_min_l
from kernels.selection.reference import (
    grouped_selection_attention_packed,
    selection_attention_oracle,
)

SWITCHES = {
    "NSA_USE_TRITON_SEL": "use_triton",
    "NSA_SEL_TRITON_GROUP": "group",
    "NSA_SEL_TRITON_DB": "double_buffer",
    "NSA_TRITON_SEL_FORCE": "force_device",
    "NSA_SEL_TRITON_ALLOW_GRAD": "allow_grad",
    "NSA_SEL_TRITON_REQUIRE_ALIGN": "require_align",
    "NSA_DEBUG_TIMING": "debug_timing",
    "NSA_DEBUG_COMPARE": "debug_compare",
    "NSA_DEBUG_SHAPES": "debug_shapes",
}
ENV = {
    "NSA_USE_TRITON_SEL": "1",
    "NSA_SEL_TRITON_MIN_L": "8",
    "NSA_TRITON_SEL_FORCE": "1",
    "NSA_SEL_FALLBACK": "packed",
}
OTHERS = (
    *(f"NSA_SEL_TRITON_{what}" for what in ("MIN_L", "FORCE_PATH", "WARPS", "STAGES", "SPLITS")),
    "NSA_SEL_FALLBACK",
)


@pytest.fixture
def case():
    return selection([[[[[0, 8], [10, 12]]], [[[3, 5], [4, 4]]]]], S_kv=16)


@pytest.fixture
def environ(monkeypatch):
    """Set exactly these NSA_* variables; all others are unset."""

    def set_only(**variables):
        for name in (*SWITCHES, *OTHERS):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_only


class TestFlags:
    def test_defaults_keep_triton_off(self):
        assert Flags.from_env({}) == Flags()
        assert not Flags().use_triton
        assert Flags().group

    @pytest.mark.parametrize("name", SWITCHES)
    def test_switches(self, name):
        attribute = SWITCHES[name]
        for text, value in (("1", True), ("on", True), ("0", False), ("False", False), ("", False)):
            flags = Flags.from_env({name: text})
            assert getattr(flags, attribute) is value
            assert replace(flags, **{attribute: getattr(Flags(), attribute)}) == Flags()
        with pytest.raises(FlagError, match=f"{name}='maybe'"):
            Flags.from_env({name: "maybe"})

    @pytest.mark.parametrize(
        "name", [f"NSA_SEL_TRITON_{what}" for what in ("WARPS", "STAGES", "SPLITS")]
    )
    def test_launch_parameters(self, name):
        assert Flags.from_env({name: ""}) == Flags()
        assert Flags.from_env({name: "2"}) != Flags()
        with pytest.raises(FlagError, match=f"{name}='7'"):
            Flags.from_env({name: "7"})

    def test_threshold(self):
        assert Flags.from_env({"NSA_SEL_TRITON_MIN_L": "64"}).min_l == 64
        for text in ("", "-1", "1e3", "64.0", "many", "٣"):
            with pytest.raises(FlagError, match="NSA_SEL_TRITON_MIN_L"):
                Flags.from_env({"NSA_SEL_TRITON_MIN_L": text})

    def test_force_path(self):
        assert Flags.from_env({"NSA_SEL_TRITON_FORCE_PATH": "varlen"}).force_path == "varlen"
        with pytest.raises(FlagError, match="one of auto, dense, varlen"):
            Flags.from_env({"NSA_SEL_TRITON_FORCE_PATH": "fast"})

    def test_fallback(self):
        assert Flags.from_env({"NSA_SEL_FALLBACK": "flex"}).fallback == "flex"
        with pytest.raises(FlagError, match="NSA_SEL_FALLBACK='': expected one of auto, flex"):
            Flags.from_env({"NSA_SEL_FALLBACK": ""})

    def test_the_threshold_is_the_one_that_was_landed(self, tmp_path):
        config = tmp_path / "base.yaml"
        text = (dispatch_folder().parent / "configs" / "base.yaml").read_text()
        landed, count = re.subn(r"(sel_triton_min_L:) *\d+", r"\1 128", text)
        assert count == 1
        config.write_text(landed)
        assert configured_min_l(config) == 128
        assert Flags().min_l == configured_min_l()
        assert Flags.from_env({"NSA_SEL_TRITON_MIN_L": "64"}).min_l == 64

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("other: 1\n", "has no runtime.sel_triton_min_L"),
            ("sel_triton_min_L: 128\n", "has no runtime.sel_triton_min_L"),
            ("runtime:\n  sel_triton_min_L: many\n", "'many', expected a number"),
        ],
    )
    def test_a_config_without_a_threshold_is_named(self, tmp_path, text, message):
        config = tmp_path / "base.yaml"
        config.write_text(text)
        with pytest.raises(FlagError, match=message):
            configured_min_l(config)
        with pytest.raises(FlagError, match="cannot be read"):
            configured_min_l(tmp_path / "none.yaml")

    def test_every_flag_is_documented(self):
        text = (dispatch_folder() / "README.md").read_text()
        for name in (*SWITCHES, *OTHERS):
            assert f"| `{name}` |" in text
        assert "NSA_DIAGNOSTICS" in text


def dispatch_folder():
    return Path(dispatch.__file__).parent


class TestWhichPathRuns:
    @pytest.mark.parametrize(
        ("variables", "path", "kernel"),
        [
            ({}, "triton.ranges.group", "ranges_fwd.group"),
            ({"NSA_SEL_TRITON_GROUP": "0"}, "triton.ranges.head", "ranges_fwd.head"),
            ({"NSA_SEL_TRITON_FORCE_PATH": "dense"}, "triton.dense.group", "dense_rows_fwd.group"),
            (
                {"NSA_SEL_TRITON_FORCE_PATH": "varlen"},
                "triton.varlen.group",
                "varlen_rows_fwd.group",
            ),
        ],
    )
    def test_environment_chooses(self, case, environ, variables, path, kernel):
        environ(**ENV, **variables)
        assert_matches(selection_attention(*case), selection_attention_oracle(*case))
        assert last_dispatch().path == path
        assert last_dispatch().kernels == (kernel,)
        assert last_dispatch().reason == "selected length up to 16 >= threshold 8"

    @pytest.mark.parametrize(
        ("variables", "reason"),
        [
            ({"NSA_USE_TRITON_SEL": "0"}, "NSA_USE_TRITON_SEL is off"),
            ({"NSA_SEL_TRITON_MIN_L": "17"}, "selected length up to 16 < threshold 17"),
            pytest.param(
                {"NSA_TRITON_SEL_FORCE": "0"},
                "off by policy: cpu tensors run only in Triton's interpreter",
                marks=pytest.mark.skipif(DEVICE.type == "cuda", reason="policy of the CPU"),
            ),
        ],
    )
    def test_environment_keeps_triton_off(self, case, environ, variables, reason):
        environ(**(ENV | variables))
        assert_matches(selection_attention(*case), selection_attention_oracle(*case))
        assert_fell_back(reason)

    def test_max_len_is_what_the_threshold_sees(self, case):
        flags = triton_flags(min_l=16)
        selection_attention(*case, flags=flags, max_len=10)
        assert_fell_back("selected length up to 10 < threshold 16")
        assert last_dispatch().capacity == 10

    def test_device_that_policy_has_off(self, case, monkeypatch):
        monkeypatch.setattr(dispatch, "_off_by_policy", lambda device: "not measured")
        selection_attention(*case, flags=triton_flags(force_device=False))
        assert_fell_back("off by policy: not measured")
        selection_attention(*case, flags=triton_flags())
        assert last_dispatch().path == "triton.ranges.group"

    def test_capability_in_the_policy_table(self, monkeypatch):
        monkeypatch.setattr(op, "INTERPRETED", True)
        assert "TRITON_INTERPRET" in dispatch._off_by_policy(torch.device("cuda"))
        monkeypatch.setattr(op, "INTERPRETED", False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        assert "8.9" in dispatch._off_by_policy(torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert dispatch._off_by_policy(torch.device("cuda")) is None

    def test_triton_not_installed(self, case, monkeypatch):
        monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
        selection_attention(*case, flags=triton_flags())
        assert_fell_back("Triton is not installed")

    def test_unsupported_shape(self):
        case = selection([[[[[0, 4]]]]], S_kv=4, h=65)
        out = selection_attention(*case, flags=triton_flags())
        assert_matches(out, selection_attention_oracle(*case))
        assert_fell_back("UnsupportedShape: a group tile holds at most 64 heads, got 65")

    def test_unsupported_dtype(self):
        case = selection([[[[[0, 4]]]]], S_kv=4, dtype=torch.float64)
        selection_attention(*case, flags=triton_flags())
        assert_fell_back("UnsupportedDtype: the kernels compute fp16, bf16 and fp32")

    def test_alignment(self):
        case = selection([[[[[0, 4]]]]], S_kv=4, D=20)
        selection_attention(*case, flags=triton_flags(require_align=True))
        assert_fell_back("Misaligned: rows of Q")
        selection_attention(*case, flags=triton_flags())
        assert last_dispatch().path == "triton.ranges.group"

    def test_kernel_that_does_not_build(self, case, monkeypatch):
        def fail(*args, **kwargs):
            raise RuntimeError("PassManager::run failed")

        monkeypatch.setattr(launch.kernel, "ranges_fwd", BrokenKernel(fail))
        with pytest.raises(KernelBuildError, match="PassManager"):
            op.selection_attention_triton(*case, flags=triton_flags())
        out = selection_attention(*case, flags=triton_flags())
        assert_matches(out, selection_attention_oracle(*case))
        assert_fell_back("KernelBuildError: ranges_fwd.group: PassManager::run failed")

    def test_other_errors_are_not_hidden(self, case, monkeypatch):
        def fail(*args, **kwargs):
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(launch.kernel, "ranges_fwd", BrokenKernel(fail))
        with pytest.raises(RuntimeError, match="illegal memory access"):
            selection_attention(*case, flags=triton_flags())

    def test_contradictory_input_raises_on_every_path(self, case):
        for flags in (*(Flags(fallback=name) for name in FALLBACKS), triton_flags()):
            with pytest.raises(InvalidInput):
                selection_attention(case.Q, case.K[:, :, :3], case.V, case.ranges, flags=flags)

    def test_record_belongs_to_the_thread(self, case):
        selection_attention(*case, flags=Flags(fallback="packed"))
        seen = []
        thread = threading.Thread(target=lambda: seen.append(last_dispatch()))
        thread.start()
        thread.join()
        assert seen == [None]
        assert last_dispatch().path == "packed_sdpa"


class BrokenKernel:
    __name__ = "broken"

    def __init__(self, fail):
        self.fail = fail

    def __getitem__(self, grid):
        return self.fail


def assert_fell_back(reason):
    record = last_dispatch()
    assert record.path == "packed_sdpa"
    assert record.kernels == ()
    assert record.reason.startswith(reason)


class TestGradients:
    def test_fall_back_unless_allowed(self, case):
        Q = case.Q.requires_grad_()
        selection_attention(Q, case.K, case.V, case.ranges, flags=triton_flags())
        assert_fell_back("inputs require grad")
        with torch.no_grad():
            selection_attention(Q, case.K, case.V, case.ranges, flags=triton_flags())
        assert last_dispatch().path == "triton.ranges.group"

    @pytest.mark.parametrize("wanted", ["QKV", "Q", "KV"])
    def test_triton_forward_with_gradients_of_the_reference(self, wanted):
        case = selection([[[[[0, 8], [6, 12]]], [[[3, 3], [4, 4]]]]], S_kv=16, dtype=torch.float32)
        grads = {}
        for flags in (triton_flags(allow_grad=True), None):
            inputs = {n: getattr(case, n).clone().requires_grad_(n in wanted) for n in "QKV"}
            if flags:
                out = selection_attention(*inputs.values(), case.ranges, flags=flags)
                assert last_dispatch().path == "triton.ranges.group"
                assert last_dispatch().kernels == ("ranges_fwd.group",)
            else:
                out = selection_attention_oracle(*inputs.values(), case.ranges)
            out.square().sum().backward()
            grads[flags is None] = [inputs[n].grad for n in wanted]
            assert all(inputs[n].grad is None for n in set("QKV") - set(wanted))
        torch.testing.assert_close(grads[False], grads[True], atol=1e-5, rtol=1e-4)


class TestLaunchFlags:
    def test_flag_reaches_the_launch(self, case, environ, monkeypatch):
        environ()
        seen = []

        class Spy:
            __name__ = "spy"

            def __getitem__(self, grid):
                return lambda *args, **kwargs: seen.append(
                    (kwargs["num_stages"], kwargs["num_warps"])
                )

        monkeypatch.setattr(launch.kernel, "ranges_fwd", Spy())
        monkeypatch.setenv("NSA_SEL_TRITON_SPLITS", "1")
        for value in ("0", "1"):
            monkeypatch.setenv("NSA_SEL_TRITON_DB", value)
            op.selection_attention_triton(*case)
        monkeypatch.setenv("NSA_SEL_TRITON_WARPS", "8")
        monkeypatch.setenv("NSA_SEL_TRITON_STAGES", "3")
        op.selection_attention_triton(*case)
        (stages, warps), doubled, forced = seen
        assert doubled == (2, warps)
        assert forced == (3, 8)
        if op.INTERPRETED:
            assert (stages, warps) == (1, 4)


class TestDiagnostics:
    def test_one_line_a_call(self, case, environ, monkeypatch, tmp_path):
        path = tmp_path / "lines.jsonl"
        environ(
            **ENV,
            NSA_DEBUG_TIMING="1",
            NSA_DEBUG_COMPARE="1",
            NSA_DEBUG_SHAPES="1",
            NSA_DIAGNOSTICS=str(path),
        )
        selection_attention(*case)
        monkeypatch.setenv("NSA_USE_TRITON_SEL", "0")
        selection_attention(*case)
        first, second = (json.loads(line) for line in path.read_text().splitlines())
        assert first["path"] == "triton.ranges.group"
        assert first["kernels"] == ["ranges_fwd.group"]
        assert (first["L"], first["bucket"]) == (10, 16)
        assert first["ms"] > 0
        assert 0 <= first["mae"] <= 1e-3
        assert first["max_err"] >= first["mae"]
        assert first["shapes"]["K"] == [1, 1, 16, 16]
        assert second["path"] == "packed_sdpa"
        assert second["reason"].startswith("NSA_USE_TRITON_SEL is off; not flex_attention: ")
        assert second["mae"] == 0

    @pytest.mark.parametrize(
        ("flag", "key"),
        [("debug_timing", "ms"), ("debug_compare", "mae"), ("debug_shapes", "shapes")],
    )
    def test_each_flag_adds_its_own_part(self, case, tmp_path, flag, key):
        flags = replace(
            Flags(fallback="packed"), diagnostics=tmp_path / "lines.jsonl", **{flag: True}
        )
        selection_attention(*case, flags=flags)
        record = json.loads(flags.diagnostics.read_text())
        assert {"ms", "mae", "shapes"} & set(record) == {key}

    def test_nothing_is_written_without_a_flag(self, case, tmp_path, monkeypatch, environ):
        environ(NSA_SEL_FALLBACK="packed")
        monkeypatch.chdir(tmp_path)
        selection_attention(*case)
        assert list(tmp_path.iterdir()) == []

    def test_buckets(self):
        assert [bucket_of(n) for n in (0, 1, 2, 3, 64, 65)] == [0, 1, 2, 4, 64, 128]


def test_packed_reference_is_what_runs_with_triton_off(case):
    out = selection_attention(*case, flags=Flags(fallback="packed"))
    assert torch.equal(out, grouped_selection_attention_packed(*case))


def test_public_names_resolve():
    import kernels.selection as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sel_attn_bwd'"):
        package.sel_attn_bwd  # noqa: B018
    assert "kernels.selection.op" in sys.modules

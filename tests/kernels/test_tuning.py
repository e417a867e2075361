"""The tables that ship: launch parameters by card, and cards on which Triton is off."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import pytest
import torch
from selection_cases import DEVICE, assert_matches, passes, randn, triton_flags

from kernels import tune
from kernels.selection import launch, op
from kernels.selection.dispatch import off_by_policy
from kernels.selection.errors import InvalidInput
from kernels.selection.reference import dense_attention_oracle
from kernels.selection.tuning import (
    INTERPRETER,
    KERNELS,
    MAX_GROUP_HEADS,
    SPLIT,
    Entry,
    LaunchParams,
    Request,
    launch_params,
    read_table,
    write_table,
)

SHARED_KIB = {"8.0": 163, "8.6": 99, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
SIDES = (16, 32, 64, 128, 256)


def entry(**changes):
    params = LaunchParams(16, 16, 1, 3)
    made = Entry("9.0", "any", 16, 128, 128, 16, 512, None, params, "derived: for a test")
    return replace(made, **changes)


def request(**changes):
    return replace(Request("dense", 16, 64, 64, 8, 128, 1024, (9, 0)), **changes)


class TestTable:
    def test_every_launch_finds_parameters_that_fit_the_card(self):
        lengths, heads, rows = (1, 513), (1, 17, MAX_GROUP_HEADS), (1, 1024)
        for arch, limit in SHARED_KIB.items():
            major, minor = map(int, arch.split("."))
            forms = (*KERNELS, SPLIT)
            keys = itertools.product(forms, (16, 32), SIDES, SIDES, heads, lengths, rows)
            for kernel, bits, D, Dv, H, L, N in keys:
                found = launch_params(Request(kernel, bits, D, Dv, H, L, N, (major, minor)))
                tiles = found.num_stages * found.block_l * (D + Dv) * bits // 8
                assert tiles <= limit * 1024, (arch, kernel, bits, D, Dv, H, L, N)

    def test_every_entry_is_reached(self):
        table = read_table()
        for position, one in enumerate(table):
            length, rows = (10**9 if bound is None else bound for bound in (one.L, one.N))
            before = [e for e in table[:position] if e.arch == one.arch]
            reached = False
            for kernel in (*KERNELS, SPLIT) if one.kernel == "any" else (one.kernel,):
                sides = (one.bits, one.D, one.Dv, one.H, length, rows)
                asked = Request(kernel, *sides, one.capability)
                try:
                    launch_params(asked, (*before, replace(one, D=0)))
                except ValueError:
                    reached = True
            assert reached, one

    def test_the_first_entry_that_fits_decides(self):
        narrow, wide = entry(L=64), entry(params=LaunchParams(16, 64, 2, 2), L=None)
        assert launch_params(request(L=64), (narrow, wide)) == narrow.params
        assert launch_params(request(L=65), (narrow, wide)) == wide.params
        few = entry(N=512, params=LaunchParams(16, 128, 4, 2), L=None)
        assert launch_params(request(N=512), (few, wide)) == few.params
        assert launch_params(request(N=513), (few, wide)) == wide.params
        ranges = entry(kernel="ranges", params=LaunchParams(8, 32, 4, 2))
        assert launch_params(request(), (ranges, wide)) == wide.params
        assert launch_params(request(kernel="ranges"), (ranges, wide)) == ranges.params
        for changes in ({"D": 256}, {"Dv": 256}, {"H": 17}, {"bits": 32}):
            with pytest.raises(ValueError, match="no launch parameters"):
                launch_params(request(**changes), (narrow, wide))

    def test_a_card_that_the_table_does_not_know(self):
        old = entry(arch="8.0", params=LaunchParams(16, 32, 1, 1))
        new = entry(arch="9.0", params=LaunchParams(16, 64, 1, 1))
        chosen = {
            capability: launch_params(request(capability=capability), (new, old)).block_l
            for capability in ((7, 5), (8, 7), (9, 0), (12, 1))
        }
        assert chosen == {(7, 5): 32, (8, 7): 32, (9, 0): 64, (12, 1): 64}

    @pytest.mark.parametrize(
        "changes",
        [
            {"block_l": 8},
            {"block_l": 48},
            {"num_warps": 3},
            {"num_stages": 0},
            {"heads": 0},
            {"kernel": "sparse"},
            {"bits": 8},
            {"source": "someone said so"},
            {"colour": "red"},
        ],
        ids=str,
    )
    def test_an_entry_that_no_launch_can_have_is_refused(self, changes, tmp_path):
        path = tmp_path / "table.json"
        path.write_text(json.dumps({"entries": [entry().to_json() | changes]}))
        with pytest.raises(ValueError, match="tuning table"):
            read_table(path)

    def test_written_tables_read_back(self, tmp_path):
        path = tmp_path / "table.json"
        write_table(read_table(), path)
        assert read_table(path) == read_table()


class TestLaunch:
    def plan(self, Q, *, group=True, length=64, **flags):
        return launch.plan_launch(
            "dense", Q, Q.shape[-1], length, group=group, flags=triton_flags(**flags)
        )

    def test_flags_come_before_the_table(self):
        Q = randn(4, 8, 64)
        card = torch.cuda.get_device_capability() if DEVICE.type == "cuda" else INTERPRETER
        table = launch_params(Request("dense", 16, 64, 64, 8, 64, 4, card))
        assert self.plan(Q).params == table
        assert self.plan(Q, double_buffer=True).params == replace(table, num_stages=2)
        assert self.plan(Q, double_buffer=True, num_stages=4).params.num_stages == 4
        assert self.plan(Q, num_warps=8).params == replace(table, num_warps=8)
        assert self.plan(Q, splits=8).splits == 8
        assert self.plan(Q, splits=8).grid == (32,)
        assert self.plan(Q, group=False).grid == (32,)

    def test_a_card_splits_few_rows_and_reads_the_table_for_their_parts(self, monkeypatch):
        asked = []
        monkeypatch.setattr(launch, "_processors", lambda Q: 132)
        monkeypatch.setattr(
            launch,
            "launch_params",
            lambda r: asked.append((r.kernel, r.L)) or LaunchParams(16, 16, 1, 3),
        )
        assert self.plan(randn(4, 16, 128), length=1024).splits == 16
        assert asked == [("dense", 1024), ("split", 64)]

    def test_rows_that_are_known_to_be_equal_have_the_tiles_of_dense_ones(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            launch, "launch_params", lambda r: asked.append(r.kernel) or LaunchParams(16, 16, 1, 3)
        )
        monkeypatch.setattr(launch, "_start", lambda *args, **kw: None)
        Q, K = randn(3, 2, 16), randn(60, 16)
        cu = torch.arange(4, device=DEVICE) * 20
        for launcher in (op.sel_attn_fwd_varlen, op.sel_attn_fwd_varlen_group):
            launcher(Q, K, K, cu)
            launcher(Q, K, K, cu, max_len=21)
            launcher(Q, K, K, cu, max_len=20)
            launcher(Q[:1], K, K, cu[:2])  # one row alone
        assert asked == ["varlen", "varlen", "dense", "dense"] * 2

    @pytest.mark.parametrize("max_len", [0, -1, 2.5, torch.tensor([3, 4]), "3"])
    def test_a_length_that_is_none_is_refused_alike(self, max_len):
        Q, K = randn(3, 2, 16), randn(60, 16)
        cu = torch.arange(4, device=DEVICE) * 20
        ranges = torch.tensor([[0, 20]], device=DEVICE).expand(3, 1, 1, 1, 2)
        for call in (
            lambda: op.sel_attn_fwd_varlen_group(Q, K, K, cu, max_len=max_len),
            lambda: op.sel_attn_fwd_ranges(
                Q[:, None, None],
                K.expand(3, 1, 60, 16),
                K.expand(3, 1, 60, 16),
                ranges,
                group=True,
                max_len=max_len,
            ),
        ):
            with pytest.raises(InvalidInput, match="max_len must be an integer, at least 1"):
                call()

    @pytest.mark.parametrize(("D", "rows"), [(96, 256), (100, sys.maxsize)])
    def test_tiles_for_few_rows_are_for_keys_read_by_16_bytes(self, D, rows, monkeypatch):
        asked = []
        monkeypatch.setattr(
            launch, "launch_params", lambda r: asked.append(r.N) or LaunchParams(16, 16, 1, 3)
        )
        self.plan(randn(256, 4, D))
        assert asked == [rows]

    def test_more_heads_than_a_program_serves(self):
        Q, K, V = (randn(*size, dtype=torch.float32) for size in ((2, 37, 16), *[(2, 70, 16)] * 2))
        assert self.plan(Q).heads == 16
        assert self.plan(Q).grid == (6,)
        with op.record_launches() as kernels:
            out = op.sel_attn_fwd_dense_group(Q, K, V)
        assert kernels in passes("dense_rows", "group")
        assert_matches(out, dense_attention_oracle(Q, K, V))

    @pytest.mark.parametrize("block_l", [16, 32, 128])
    def test_tiles_of_other_sizes_give_the_same_result(self, block_l):
        Q, K, V = randn(2, 3, 32), randn(2, 65, 32), randn(2, 65, 32)
        params = LaunchParams(2, block_l, 1, 1)  # and two heads a program, of three
        out = op.sel_attn_fwd_dense_group(Q, K, V, params=params)
        assert_matches(out, dense_attention_oracle(Q, K, V))


class TestTune:
    def test_refuses_without_a_gpu(self, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        before = read_table()
        assert tune.main([]) == 2
        assert "no CUDA device" in capsys.readouterr().err
        assert read_table() == before

    def test_refuses_the_interpreter(self, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tune, "INTERPRETED", True)
        assert tune.main([]) == 2
        assert "TRITON_INTERPRET" in capsys.readouterr().err

    def test_what_was_measured_goes_first_and_replaces_what_was_measured_before(self):
        derived = (entry(), entry(arch="8.9"))
        old = entry(kernel="dense", L=64, source="measured: yesterday")
        other = entry(kernel="dense", L=64, arch="8.9", source="measured: on another card")
        new = replace(old, params=LaunchParams(16, 32, 1, 2), source="measured: today")
        longer, fewer = replace(new, L=None), replace(new, N=512)
        merged = tune.merge((other, old, *derived), (longer, new, fewer))
        assert merged == (other, fewer, new, longer, *derived)

    def test_candidates_differ_and_fit_in_shared_memory(self):
        found = tune.candidates(request(D=256, Dv=256), shared_bytes=99 * 1024)
        assert len(set(found)) == len(found) > 5
        for one in found:
            assert one.num_stages * one.block_l * 512 * 2 <= 99 * 1024
        assert len(tune.candidates(request(), shared_bytes=227 * 1024)) > len(found)

    def test_a_candidate_within_the_noise_does_not_displace_the_table(self):
        now, other = LaunchParams(16, 16, 1, 3), LaunchParams(16, 32, 2, 2)
        assert tune.best({now: 10.05, other: 10.0}, now) == now
        assert tune.best({now: 10.5, other: 10.0}, now) == other
        assert tune.best({other: 10.0}, now) == other  # the table's own failed


class TestPolicy:
    def test_ada_is_off_until_it_is_measured(self):
        assert "8.9" in off_by_policy()
        assert "9.0" not in off_by_policy()

    def test_a_record_without_provenance_is_refused(self, tmp_path):
        path = tmp_path / "devices.json"
        path.write_text('{"devices": [{"capabilities": ["9.0"], "triton": "off", "why": "x"}]}')
        with pytest.raises(ValueError, match="source"):
            off_by_policy(path)

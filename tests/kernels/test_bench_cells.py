"""One cell of the benchmark: what its row says, and from which inputs it comes."""

from __future__ import annotations

import pytest
import torch
from cell_cases import cell, inputs
from selection_cases import DEVICE

from kernels.bench import cells, references, trial, workloads
from kernels.selection import op
from kernels.selection.checks import UnwrittenIsNan
from kernels.selection.flags import Flags

pytestmark = pytest.mark.usefixtures("no_flags")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ("dense", "equal", "rows", "triton.dense_rows_fwd.group")),
        (("--ragged",), ("varlen", "uniform", "rows", "triton.varlen_rows_fwd.group")),
        (
            ("--dist", "many", "--decode"),
            ("varlen", "equal", "decode", "triton.varlen_rows_fwd.group"),
        ),
        (
            ("--dist", "mixed", "--ragged", "--streams", "3"),
            ("varlen", "uniform", "rows", "triton.varlen_rows_fwd.group"),
        ),
    ],
    ids=lambda value: " ".join(value) if not value or value[0].startswith("--") else "",
)
def test_a_row_holds_both_levels_and_both_references(arguments, expected):
    row = cell(*arguments)
    assert row["status"] == "ok"
    names = ("mode", "ragged", "form", "kernel_launched")
    assert tuple(row[name] for name in names) == expected
    for level in ("kernel", "operator"):
        assert row[f"{level}_launched"].startswith("triton.")
        assert row[f"{level}_strongest_ms"] <= row[f"{level}_shipped_ms"]
        for basis in ("shipped", "strongest"):
            assert row[f"{level}_{basis}"]
            assert 0 < row[f"{level}_{basis}_lo"] <= row[f"{level}_{basis}_hi"]
    assert (row["level"], row["basis"]) == ("operator", "strongest")
    assert (row["tri_ms"], row["ref_ms"]) == (row["operator_tri_ms"], row["operator_strongest_ms"])
    assert (row["kernel"], row["reference"]) == (
        row["operator_launched"],
        row["operator_strongest"],
    )
    assert row["speedup"] == row["ref_ms"] / row["tri_ms"]
    assert row["tri_p10"] <= row["tri_ms"] <= row["tri_p90"]
    assert (row["ref_probe"], row["tri_probe"]) == ("ok", "ok")
    assert row["tri_streams"] == row["ref_streams"] == row["streams"]
    assert 0 < row["aa_lo"] <= row["aa_hi"]
    assert max(row["mae"], row["ref_mae"]) <= 1e-3
    assert row["began_ms"] <= row["ended_ms"]
    if DEVICE.type == "cpu":
        assert (row["timer"], row["flush_mib"], row["sm_mhz"]) == ("wall", 0, "")
        assert row["settled"] != "yes"


@pytest.mark.parametrize(("level", "basis"), [("kernel", "strongest"), ("operator", "shipped")])
def test_level_and_basis_choose_the_documents_columns(level, basis):
    row = cell("--level", level, "--basis", basis, "--dtype", "fp32", "--dist", "many")
    assert row["status"] == "ok"
    assert row["tri_ms"] == row[f"{level}_tri_ms"]
    assert row["ref_ms"] == row[f"{level}_{basis}_ms"]
    assert row["speedup_lo"] == row[f"{level}_{basis}_lo"]
    assert (row["kernel"], row["reference"]) == (row[f"{level}_launched"], row[f"{level}_{basis}"])


def test_bytes_and_flops_by_hand():
    # 3 rows of 20 keys: Q 2 x 16, out 2 x 24, keys 16 + 24, of 2 bytes each
    assert inputs().bytes == 3 * (2 * 16 + 2 * 24 + 20 * (16 + 24)) * 2
    assert inputs().flops == 3 * 2 * 2 * 20 * (16 + 24)
    # 640 rows share 64 keys, and each of these is read once
    shared = inputs("--decode", "--N", "640", length=1)
    assert shared.bytes == (640 * (2 * 16 + 2 * 24) + 64 * (16 + 24)) * 2


def test_copies_differ_and_levels_agree():
    first, second = (inputs("--dist", "mixed", "--ragged", copy=copy) for copy in (0, 1))
    assert torch.equal(first.kernel.cu_seqlens, second.kernel.cu_seqlens)
    assert not torch.equal(first.kernel.Q, second.kernel.Q)
    for part, whole in ((first.kernel, "kernel"), (first.operator, "operator")):
        joined = torch.cat([references.shipped(whole, part).run(p) for p in part.split(2)])
        assert trial.errors([joined], first.oracle())[2] is None


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("kernel", "triton"),
        ("kernel", "one_head.math"),
        ("operator", "triton"),
        ("operator", "index+one_head.math"),
        ("operator", "mask+one_head.math"),
    ],
)
def test_refilling_reaches_the_parts_of_all_streams(level, name):
    first, second = (inputs("--dist", "many", "--ragged", copy=copy) for copy in (0, 1))
    runs = {one.name: one.run for one in references.candidates(level, DEVICE)}
    runs["triton"] = cells.triton_side(level, Flags())
    parts = first.at(level).split(2)
    first.refill(second)
    assert torch.equal(first.oracle(), second.oracle())
    out = torch.cat([runs[name](part) for part in parts])
    assert trial.errors([out], second.oracle())[2] is None


def test_unwritten_is_nan_however_it_is_allocated():
    like = torch.ones(2, 3)
    with UnwrittenIsNan():
        made = [
            torch.empty(2, 3),
            torch.empty(2, 3, requires_grad=True),
            torch.empty_like(like),
            torch.empty_strided((2, 3), (3, 1), dtype=torch.float16),
            like.new_empty(2, 3),
            like.new_empty_strided((2, 3), (3, 1)),
        ]
        assert torch.empty(2, dtype=torch.int64).dtype == torch.int64
        assert not torch.ones(2).isnan().any()
    assert all(tensor.isnan().all() for tensor in made)
    assert made[1].requires_grad


@pytest.mark.parametrize(
    "arguments", [(), ("--dist", "mixed", "--ragged"), ("--decode", "--dist", "many")]
)
def test_both_oracles_agree_in_all_rows(arguments, monkeypatch):
    monkeypatch.setattr(workloads, "OBVIOUS_ROWS", 10**6)  # all of them
    monkeypatch.setattr(workloads, "BATCHED_KEYS", 64)  # several batches
    made = inputs(*arguments)
    oracle = made.oracle()
    made.operator.selected[0] = made.operator.selected[1]
    with pytest.raises(ArithmeticError, match="the two oracles are "):
        made.oracle()
    assert oracle.dtype == torch.float64


def test_timing_goes_on_until_each_control_is_known_too(monkeypatch):
    asked = []
    time_all = cells.time_all

    def recorded(calls, ratios, **options):
        asked.append((set(calls), list(ratios)))
        return time_all(calls, ratios, **options)

    monkeypatch.setattr(cells, "time_all", recorded)
    assert cell()["status"] == "ok"
    ((calls, ratios),) = asked
    controls = {name for name in calls if name.startswith(cells.CONTROL)}
    assert controls
    assert {(name.removeprefix(cells.CONTROL), name) for name in controls} <= set(ratios)


@pytest.mark.parametrize("group", ["0", "1"])
def test_triton_is_told_how_long_packed_rows_are_as_the_references_are(group, monkeypatch):
    told = []
    monkeypatch.setenv("NSA_SEL_TRITON_GROUP", group)
    for name in ("sel_attn_fwd_varlen", "sel_attn_fwd_varlen_group"):
        launch = getattr(op, name)
        monkeypatch.setattr(
            op, name, lambda *args, launch=launch, **kw: told.append(kw) or launch(*args, **kw)
        )
    assert cell("--dist", "many")["status"] == "ok"
    assert told
    assert {kw["max_len"] for kw in told} == {20}

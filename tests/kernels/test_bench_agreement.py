"""The report on the harness itself: what it claims, and that it claims nothing without a GPU."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.bench import agreement

ROW = dict.fromkeys(agreement.SIDES, 0.1) | {"aa_lo": 0.995, "aa_hi": 1.005}
OTHERS = {"do_bench": dict.fromkeys(agreement.SIDES, 0.103)}


def failing(first=ROW, second=ROW, others=OTHERS):
    return [claim.what for claim in agreement.claims("x", first, second, others) if not claim.holds]


def test_all_claims_hold():
    assert failing() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"first": ROW | {"aa_hi": 1.02}}, "x, A/A aa_hi"),
        ({"first": ROW | {"aa_lo": math.nan}}, "x, A/A aa_lo"),
        ({"second": ROW | {"kernel_tri_ms": 0.104}}, "x, kernel_tri_ms repeated"),
        (
            {"others": {"do_bench": OTHERS["do_bench"] | {"operator_tri_ms": 0.09}}},
            "x, operator_tri_ms by do_bench",
        ),
    ],
)
def test_a_claim_that_does_not_hold(change, what):
    assert failing(**change) == [what]


def test_below_20_us_others_are_not_compared():
    small = ROW | dict.fromkeys(agreement.SIDES, 0.02)
    assert failing(small, small, {"do_bench": dict.fromkeys(agreement.SIDES, 1.0)}) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_claimed(tmp_path, capsys):
    assert agreement.main(["--out", str(tmp_path / "report.md")]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tmp_path):
    agreement.main(["--out", str(tmp_path / "report.md"), "--L_list", "64"])
    assert "few, L=64, A/A aa_lo" in (tmp_path / "report.md").read_text()

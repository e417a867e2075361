"""Two places judge a row: the benchmark's own chooser of a threshold, and the gates. One is enough.

The chooser runs where the benchmark ran, with the standard library alone. What it refuses the gates
must not let pass: whoever asked both would get two answers about one file.
"""

from __future__ import annotations

import pytest
from bench_samples import BENCH
from evidence_samples import csv_of, row
from gate_checks import judged

from kernels.bench.contract import columns
from kernels.bench.distrust import distrust
from orchestrator.models.verdict import Verdict

ODD = ("", "0", "-1", "1", "nan", "inf", "1e-12", "1e12", "0.5", "no", "triton.dense", "x" * 50)
FACTORS = (0.5, 0.9, 0.99, 1.01, 1.1, 2, 30)


def variants(name: str):
    good = str(row("dense", 128)[name])
    yield from ODD
    try:
        yield from (repr(float(good) * factor) for factor in FACTORS)
    except ValueError:
        return


@pytest.mark.parametrize("name", columns("dense"))
def test_what_the_chooser_refuses_does_not_pass_the_gates(name: str) -> None:
    refused = 0
    for value in variants(name):
        # changed after the fact: no other column follows
        changed = {k: str(v) for k, v in row("dense", 128).items()} | {name: value}
        reasons = distrust(changed, "dense")
        if not reasons:
            continue
        refused += 1
        found = judged(BENCH, csv_of("dense", row("dense", 64), changed))
        assert found.verdict is not Verdict.PASS, (value, reasons)
    assert refused or name in UNJUDGED


UNJUDGED = {
    "tri_p10", "tri_p90", "ref_p10", "ref_p90", "tri_cv", "ref_cv", "bytes", "flops", "launch_us",
    "sm_mhz", "sm_max_mhz", "mem_mhz", "temperature_c", "began_ms", "ended_ms", "seed", "warmup",
    "dist", "ragged", "form", "settled", "torch", "triton",
}  # fmt: skip
"""Columns of which a single row's chooser says nothing."""


def test_a_good_row_is_trusted_by_both() -> None:
    good = {k: str(v) for k, v in row("dense", 128).items()}
    assert distrust(good, "dense") == []
    assert judged(BENCH, csv_of("dense", row("dense", 64), good)).verdict is Verdict.PASS

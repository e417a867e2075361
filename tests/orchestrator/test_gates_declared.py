"""The bench gate on what the playbook declares: which cells there are, and of which shape."""

from __future__ import annotations

import pytest
from bench_samples import BENCH, GOOD, bench
from evidence_samples import csv_of, row
from gate_checks import judged, refused
from pydantic import ValidationError

from orchestrator.gates.bench import bench_gate
from orchestrator.models.playbook import BenchGate, ParityGate
from orchestrator.models.verdict import Reason, Verdict

INVALID, NOT_VERIFIED = Verdict.INVALID, Verdict.NOT_VERIFIED


@pytest.mark.parametrize(
    ("data", "verdict", "reason", "word"),
    [
        (csv_of("dense", GOOD[0]), NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=128"),
        (csv_of("dense"), NOT_VERIFIED, Reason.INCOMPLETE, "missing: L=64, L=128"),
        (csv_of("dense", *GOOD)[:-7], NOT_VERIFIED, Reason.INCOMPLETE, "no end mark"),
        (csv_of("dense", *GOOD, GOOD[0]), INVALID, Reason.MALFORMED, "measured twice: L=64"),
        (csv_of("dense", *GOOD) * 2, INVALID, Reason.MALFORMED, "appended"),
        (
            csv_of("dense", *GOOD).replace(b"#end,2", b"#end,9"),
            INVALID,
            Reason.MALFORMED,
            "the end mark counts 9",
        ),
        (csv_of("varlen", row("varlen", 64)), INVALID, Reason.MALFORMED, "is a varlen row"),
    ],
)
def test_a_file_that_is_not_the_declared_one(data, verdict, reason, word):
    refused(BENCH, data, verdict, reason, word)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("N", 4), ("H", 4), ("D", 64), ("Dv", 64), ("streams", 2), ("dist", "mixed"),
        ("dtype", "bf16"),
    ],
)  # fmt: skip
def test_what_was_measured_is_what_the_playbook_declares(name, wanted):
    gate = BENCH.model_copy(update={name: wanted})
    words = f"{name} is {GOOD[0][name]}, the playbook declares {wanted}"
    refused(gate, csv_of("dense", *GOOD), INVALID, Reason.MALFORMED, words)
    declared = BENCH.model_copy(update={name: GOOD[0][name]})
    assert judged(declared, csv_of("dense", *GOOD)).verdict is Verdict.PASS


def test_spans_are_declared_for_varlen():
    gate = BENCH.model_copy(update={"mode": "varlen", "nspans": 4})
    data = csv_of("varlen", row("varlen", 64), row("varlen", 128))
    refused(gate, data, INVALID, Reason.MALFORMED, "nspans is 8, the playbook declares 4")


def test_few_is_one_span():
    gate = BENCH.model_copy(update={"mode": "varlen"})
    rows = [row("varlen", n, dist="few", nspans=8) for n in (64, 128)]
    refused(gate, csv_of("varlen", *rows), INVALID, Reason.MALFORMED, "one span a row, and nspans")
    rows = [row("varlen", n, dist="few", nspans=1, ragged="uniform") for n in (64, 128)]
    assert "span" not in judged(gate, csv_of("varlen", *rows)).message


def test_a_row_has_no_more_spans_than_keys():
    gate = BENCH.model_copy(update={"mode": "varlen"})
    rows = [row("varlen", n, nspans=100) for n in (64, 128)]
    refused(gate, csv_of("varlen", *rows), INVALID, Reason.MALFORMED, "100 spans of 64 keys")


def test_dense_rows_are_not_ragged():
    refused(
        BENCH, bench(ragged="uniform"), INVALID, Reason.MALFORMED, "dense row of ragged=uniform"
    )


@pytest.mark.parametrize("lengths", [[64], [1023, 1024], [65, 128]])
def test_one_length_or_its_neighbours_show_nothing(lengths):
    gate = BENCH.model_copy(update={"lengths": lengths})
    data = csv_of("dense", *(row("dense", length) for length in lengths))
    words = f"L={lengths[-1]} alone shows nothing about the longer ones"
    refused(gate, data, NOT_VERIFIED, Reason.NO_EVIDENCE, words)


def test_missing_cells_are_measured_too():
    result = bench_gate(BENCH, csv_of("dense", GOOD[0]))
    (missing,) = result.measured["missing"]
    assert missing.endswith("operator L=128")


@pytest.mark.parametrize(
    "changes", [{"lengths": [64, 64]}, {"max_mae": 1e-2}, {"lengths": []}, {"dist": "some"}]
)
def test_a_gate_that_would_prove_too_little_is_refused(changes):
    with pytest.raises(ValidationError):
        BenchGate.model_validate({**BENCH.model_dump(), **changes})
    with pytest.raises(ValidationError):
        ParityGate(gate="parity", file="p.xml", max_mae=1e-2)

"""The file of a bench gate as it passes, and with one row changed."""

from __future__ import annotations

from evidence_samples import csv_of, row

from orchestrator.models.playbook import BenchGate

BENCH = BenchGate(gate="bench", file="sel_dense.csv", mode="dense", lengths=[64, 128])
GOOD = row("dense", 64), row("dense", 128)


def bench(**changes: object) -> bytes:
    return csv_of("dense", GOOD[0], row("dense", 128, **changes))

"""Runs that differ in one thing, and `orchestrate compare` on them."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from evidence_samples import RTX_4090, row
from machine_samples import MACHINE, retimed
from report_runs import complete

from orchestrator.cli.app import cli
from orchestrator.store import runs


def times(length: int, speedup: float, device: str = RTX_4090) -> dict[str, object]:
    """The kernel faster or slower; the reference as it was."""
    ours = 0.15 * length / 64 / speedup
    return {
        "tri_ms": ours, "tri_p10": 0.98 * ours, "tri_p90": 1.03 * ours, "operator_tri_ms": ours,
        "speedup": speedup, "speedup_lo": speedup - 0.05, "speedup_hi": speedup + 0.05,
        "device": device,
    }  # fmt: skip


def run(folder: Path, speedup: float = 1.5, device: str = RTX_4090, **changes: object) -> Path:
    def cell(mode: str, length: int) -> dict[str, object]:
        return row(mode, length, **{**times(length, speedup, device), **changes})

    return measured(folder, cell, device)


def measured(
    folder: Path, make=row, device: str = RTX_4090, canary: tuple[str, str] = ("", "")
) -> Path:
    """A run with canaries, in which one text is replaced by another."""
    made = complete(folder, make, device)
    for mode in ("dense", "varlen"):
        step = f"bench-{mode}"
        file = made.paths.attempt(2, step, 1).artifacts / f"sel_{mode}.canary.csv"
        probes = (MACHINE / "steady.canary.csv").read_text().replace(RTX_4090, device)
        began, ended = made.rows[mode][0].began_ms, made.rows[mode][-1].ended_ms
        probes = probes.replace("1763900000000", f"{began - 500}")
        probes = probes.replace("1763900002000", f"{ended + 500}")
        file.write_text(retimed(probes.replace(*canary)))
        made.step(2, step, job=runs.read_result(made.paths, 2, step).job)
    return made.paths.root


def compare(a: Path, b: Path, *options: str) -> Result:
    words = ["compare", str(a), str(b), *options]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def compared(a: Path, b: Path, code: int = 0) -> dict:
    result = compare(a, b, "--json")
    assert result.return_value == code

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(result.output, parse_constant=refuse)

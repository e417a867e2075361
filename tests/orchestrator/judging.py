"""`orchestrate judge` as a command, and sets of files for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner, Result
from evidence_samples import csv_of, row
from machine_samples import BEGAN, MACHINE

from orchestrator.cli.app import cli

FIXTURES = Path(__file__).parent / "fixtures"
FOREIGN = FIXTURES / "foreign"
LENGTHS = {"dense": (64, 128, 256, 512, 1024), "varlen": (128, 256, 512, 1024)}


def judge(*arguments: object) -> Result:
    """`return_value` is the exit code; what is refused is raised."""
    words = ["judge", *map(str, arguments)]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def judged(*arguments: object) -> dict:
    result = judge(*arguments, "--json")
    found = json.loads(result.output)
    assert result.return_value == found["exit_code"]
    return found


def verdicts(found: dict) -> dict[str, str]:
    """Of a single CSV, by kind of gate."""
    return {
        gate["gate"].partition(" ")[2 * (gate["gate"] == "completeness matrix")]: gate["verdict"]
        for gate in found["gates"]
    }


def cell(mode: str, length: int, **changes: object) -> dict[str, object]:
    before = len(LENGTHS["dense"]) if mode == "varlen" else 0
    began = BEGAN + 100 + 360 * (before + LENGTHS[mode].index(length))
    when = {"began_ms": began, "ended_ms": began + 350}
    return row(mode, length, **{**when, **changes})


def write_set(folder: Path, telemetry: str = "quiet.csv", canary: str = "steady", **edit) -> list:
    """Two CSVs, their canaries and telemetry; `edit` maps `mode_L` to changed columns or None."""
    (folder / "telemetry.csv").write_bytes((MACHINE / telemetry).read_bytes())
    files = []
    for mode, lengths in LENGTHS.items():
        rows = []
        for length in lengths:
            changes = edit.get(f"{mode}_{length}", edit.get("every", {}))
            if changes is not None:
                rows.append(cell(mode, length, **changes))
        files.append(folder / f"sel_{mode}.csv")
        files[-1].write_bytes(csv_of(mode, *rows))
        probes = (MACHINE / f"{canary}.canary.csv").read_bytes()
        (folder / f"sel_{mode}.canary.csv").write_bytes(probes)
    return files


def losing(length: int) -> dict[str, object]:
    """As fast as the reference, and no faster."""
    scale = length / 64
    own = {"speedup": 1.0, "speedup_lo": 0.95, "speedup_hi": 1.05}
    times = {"tri_ms": 0.15 * scale, "tri_p10": 0.147 * scale, "tri_p90": 0.156 * scale}
    shipped = {"operator_shipped_lo": 1.0, "operator_shipped_hi": 1.1}
    return own | times | shipped | {"operator_tri_ms": 0.15 * scale}


def documented(page: str) -> set[str]:
    """Keys of the table under which a page of docs/ has what `--json` prints."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text().partition("`--json` prints")[2]
    firsts = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {key for first in firsts for key in re.findall("`([a-z_]+)`", first)}

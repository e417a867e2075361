"""`orchestrate compare`: two runs, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.console import STYLES, Console
from orchestrator.engine.compare import RunComparison, Side, compare_runs
from orchestrator.errors import ExitCode
from orchestrator.gates.compare import Change, Compared, Quantity
from orchestrator.store import runs as store

SCHEMA = 1
"""Of `--json`: raised when a key goes or changes its meaning; new ones may come any time."""
_STYLE = {Change.BETTER: "green", Change.WORSE: "bold red"}


def compare_command(run_a: str, run_b: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print the table; NOT_VERIFIED where no cell was measured in both, INVALID where a run is."""
    found = compare_runs(store.find(runs_dir, run_a), store.find(runs_dir, run_b))
    code = ExitCode.OK if found.comparable else ExitCode.NOT_VERIFIED
    if _invalid(found):
        code = ExitCode.INVALID
    if as_json:
        click.echo(json.dumps(_summary(found, code)))
        return int(code)
    console = Console()
    for name, side in (("A", found.a), ("B", found.b)):
        _print_side(console, name, side)
    if found.absolute:
        console.say("equal machines and versions: times are compared")
    else:
        said = "; ".join(
            f"{name} {a or 'unknown'} / {b or 'unknown'}"
            for name, (a, b) in found.differences.items()
        )
        console.say(f"only speedups are compared, not times: {said}", "yellow")
    family = None
    for cell in found.cells:
        if cell.family != family:
            family = cell.family
            console.say("")
            console.say(family, "bold cyan")
            console.say(f"{'L':>8}  {'':<8}{'A':<24}{'B':<24}{'B/A':>7}")
        console.say(_line(cell), _STYLE.get(cell.change, ""))
    console.say("")
    console.say(_sentence(found), "bold")
    return int(code)


def _print_side(console: Console, name: str, side: Side) -> None:
    decision = side.judgement.decision
    device = side.fingerprint.get("device") or "no single device"
    console.say(
        f"{name}  run {side.run_id}, {device}: {side.judgement.verdict.value}"
        + (f", {decision}" if decision else ""),
        STYLES[side.judgement.verdict],
    )
    for problem in side.problems:
        console.say(problem, "yellow", indent=3)


def _line(cell: Compared) -> str:
    ratio = f"{cell.ratio:.3f}" if cell.ratio is not None else ""
    return (
        f"{cell.L:>8}  {cell.what:<8}{_show(cell.a):<24}{_show(cell.b):<24}{ratio:>7}  "
        f"{cell.change.value}"
    )


def _show(quantity: Quantity | None) -> str:
    if quantity is None:
        return "-"
    if quantity.low is None or quantity.high is None:
        return f"{quantity.value:.4g}"
    return f"{quantity.value:.4g} [{quantity.low:.4g}, {quantity.high:.4g}]"


def _sentence(found: RunComparison) -> str:
    if not found.comparable:
        return "No cell was timed on a card in both runs: nothing can be compared."
    counts = ", ".join(f"{found.counts[change]} {change.value}" for change in Change)
    over = f"over the {found.reference} reference at {found.level} level"
    text = f"Speedups {over}, from A to B: {counts}."
    if bad := _invalid(found):
        text += f" Evidence of {' and '.join(bad)} is INVALID: these numbers prove nothing."
    return text


def _invalid(found: RunComparison) -> list[str]:
    return [side.run_id for side in (found.a, found.b) if side.invalid]


def _summary(found: RunComparison, code: ExitCode) -> dict[str, Any]:
    """Documented in docs/compare.md."""

    def side(side: Side) -> dict[str, Any]:
        decision = side.judgement.decision
        return {
            "run_id": side.run_id,
            "verdict": side.judgement.verdict.value,
            "decision": decision.model_dump(mode="json") if decision else None,
            "fingerprint": dict(side.fingerprint),
            "problems": list(side.problems),
        }

    def quantity(quantity: Quantity | None) -> dict[str, float | None] | None:
        return vars(quantity) if quantity else None

    return {
        "schema": SCHEMA,
        "exit_code": int(code),
        "a": side(found.a),
        "b": side(found.b),
        "absolute": found.absolute,
        "level": found.level,
        "reference": found.reference,
        "differences": {name: list(pair) for name, pair in found.differences.items()},
        "cells": [
            {
                "family": cell.family,
                "L": cell.L,
                "what": cell.what,
                "a": quantity(cell.a),
                "b": quantity(cell.b),
                "ratio": cell.ratio,
                "change": cell.change.value,
            }
            for cell in found.cells
        ],
        "counts": {change.value: found.counts[change] for change in Change},
    }

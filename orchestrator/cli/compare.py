"""`orchestrate compare`: two runs, cell by cell."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import click

from kernels.bench.contract import NOISE
from orchestrator.cli.console import STYLES, Console
from orchestrator.cli.strict_json import strict_json
from orchestrator.engine.compare import RunComparison, Side, compare_runs
from orchestrator.errors import ExitCode, StoreError, UsageError
from orchestrator.gates.compare import Change, Compared, Known, Pooled, Quantity
from orchestrator.models.verdict import Verdict
from orchestrator.store import runs as store
from orchestrator.store.paths import RunPaths

SCHEMA = 1
"""Of `--json`: raised when a key goes or changes its meaning; new ones may come any time."""
_REMEDY = (
    "compare takes run ids, latest, or run directories (./DIR); CSVs are judged by: "
    "orchestrate judge FILE..."
)
_STYLE = {Change.BETTER: "green", Change.WORSE: "bold red"}


def compare_command(run_a: str, run_b: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print the table; NOT_VERIFIED where no cell was measured in both, INVALID where a run is.

    Raises:
        UsageError: one of them is no run, or both are the same.
    """
    a, b = _find(runs_dir, run_a), _find(runs_dir, run_b)
    if a.root.resolve() == b.root.resolve():
        raise UsageError(
            f"{run_a} and {run_b} are one run, {a.run_id}: there is nothing to compare",
            remedy="name two; list them: orchestrate runs",
        )
    found = compare_runs(a, b)
    code = ExitCode.OK if found.comparable else ExitCode.NOT_VERIFIED
    if found.a.invalid or found.b.invalid:
        code = ExitCode.INVALID
    if as_json:
        click.echo(strict_json(_summary(found, code)))
        return int(code)
    console = Console()
    alike = a.run_id == b.run_id
    for name, side in (("A", found.a), ("B", found.b)):
        _print_side(console, name, side, alike=alike)
    if found.same:
        console.say(
            "A and B have the very same rows: one takes them from the other, or is a copy of it",
            "yellow",
        )
    if found.absolute:
        console.say("one card, equally set up, equal versions: times are compared")
    else:
        console.say("only speedups are compared, not times; these differ, or are not known:")
        for name, pair in found.differences.items():
            console.say(f"{name:<17} {_pair(*pair)}", "yellow", indent=3)
    for family, cells in groupby(found.cells, key=attrgetter("family")):
        console.say("")
        console.say(family, "bold cyan")
        _print_table(console, list(cells))
    if found.pooled:
        console.say("")
        console.say("all cells, median B/A", "bold cyan")
        for pooled in found.pooled:
            console.say(_pooled(pooled), _STYLE.get(pooled.change, ""))
    console.say("")
    console.say(_sentence(found), "bold")
    return int(code)


def _find(runs_dir: Path, run: str) -> RunPaths:
    if Path(run).is_file() or run.endswith(".csv"):
        raise UsageError(f"{run} names a file, not a run", remedy=_REMEDY)
    try:
        return store.find(runs_dir, run)
    except StoreError as error:
        if error.remedy is not None:
            raise
        raise StoreError(error.message, remedy=_REMEDY) from None


def _print_side(console: Console, name: str, side: Side, *, alike: bool) -> None:
    """Runs of one id are told apart by their paths."""
    decision = side.judgement.decision
    device = side.fingerprint.get("device") or "no single device"
    invalid = side.invalid and side.judgement.verdict is not Verdict.INVALID
    console.say(
        f"{name}  run {side.path if alike else side.run_id}, {device}: "
        + side.judgement.verdict.value
        + (", with INVALID evidence" if invalid else "")
        + (f", {decision}" if decision else ""),
        STYLES[Verdict.INVALID if invalid else side.judgement.verdict],
    )
    for problem in side.problems:
        console.say(problem, "yellow", indent=3)


def _pair(a: Known, b: Known) -> str:
    def shown(value: Known) -> str:
        return f"{value:.4g}" if isinstance(value, float) else value or "unknown"

    by = f" ({b / a - 1:+.1%})" if isinstance(a, float) and isinstance(b, float) else ""
    return f"{shown(a)} / {shown(b)}{by}"


def _print_table(console: Console, cells: list[Compared]) -> None:
    shown = [(_show(cell.a), _show(cell.b)) for cell in cells]
    of_a, of_b = (max(map(len, column)) for column in zip(*shown, strict=True))
    console.say(f"{'L':>8}  {'':<8} {'A':<{of_a}}  {'B':<{of_b}}  {'B/A':>6}")
    for cell, (a, b) in zip(cells, shown, strict=True):
        ratio = "" if cell.ratio is None else f"{cell.ratio:#.4g}"
        console.say(
            f"{cell.L:>8}  {cell.what:<8} {a:<{of_a}}  {b:<{of_b}}  {ratio:>6}  "
            f"{cell.change.value}",
            _STYLE.get(cell.change, ""),
        )


def _pooled(pooled: Pooled) -> str:
    """`speedup  0.973 [0.97, 0.98], worse in 6 of 6 cells, sign test p=0.031: worse`."""
    most, way = max((pooled.worse, "worse"), (pooled.better, "better"))
    text = (
        f"{'':<8}  {pooled.what:<8} {_show(pooled.ratio)}, {way} in {most} of {pooled.cells} cells"
    )
    if pooled.ratio.low is None:
        return f"{text}: too few for a sign test"
    text += f", sign test p={pooled.p:.2g}: {pooled.change.value}"
    if pooled.change in _STYLE and abs(pooled.ratio.value - 1) < NOISE:
        text += f", by less than the {NOISE:.0%} that medians of the same work may differ by"
    return text


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
    if bad := [name for name, side in (("A", found.a), ("B", found.b)) if side.invalid]:
        text += f" Evidence of {' and '.join(bad)} is INVALID: these numbers prove nothing."
    return text


def _summary(found: RunComparison, code: ExitCode) -> dict[str, Any]:
    """Documented in docs/compare.md."""

    def side(side: Side) -> dict[str, Any]:
        decision = side.judgement.decision
        return {
            "run_id": side.run_id,
            "path": str(side.path),
            "verdict": side.judgement.verdict.value,
            "invalid": side.invalid,
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
        "same": found.same,
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
        "pooled": [
            {
                "what": pooled.what,
                "cells": pooled.cells,
                "better": pooled.better,
                "worse": pooled.worse,
                "ratio": quantity(pooled.ratio),
                "p": pooled.p,
                "change": pooled.change.value,
            }
            for pooled in found.pooled
        ],
    }

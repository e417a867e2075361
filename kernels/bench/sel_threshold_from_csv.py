"""Decides from which selected length on Triton pays, from the CSVs of the benchmark.

    python -m kernels.bench.sel_threshold_from_csv --dense sel_dense.csv --varlen sel_varlen.csv \
        --margin 1.2 --out selection_report.md

The rule is `contract.threshold`, on the speedup at operator level over the strongest reference:
what the threshold switches in production. One row that cannot be trusted, for whatever reason, and
there is no decision. Standard library only, so that a laptop without torch can decide.

Exit codes: 0 a decision, ENABLE or KEEP_OFF; 4 UNDECIDED, because some row cannot be trusted; 2
usage, or a file that cannot be read or written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernels.bench.contract import (
    CONTRACT_VERSION,
    CPU_INTERPRETER,
    DEFAULT_MARGIN,
    MAX_MAE,
    TRITON_PREFIX,
    Cell,
    ContractError,
    Threshold,
    cell_of,
    columns,
    read_table,
    shortfall,
    threshold,
)

ENABLE, KEEP_OFF, UNDECIDED = "ENABLE", "KEEP_OFF", "UNDECIDED"
EXIT_UNDECIDED = 4

BOUND = "operator_strongest_lo"
MIN_ITERS = 10
"""Fewest iterations of a trusted row: the benchmark gives no interval below."""
ROUNDING = 0.01
"""By which a speedup may miss the ratio of the times, relative: the columns are rounded."""
_TIMES = (
    "tri_ms", "ref_ms",
    "kernel_tri_ms", "kernel_shipped_ms", "kernel_strongest_ms",
    "operator_tri_ms", "operator_shipped_ms", "operator_strongest_ms",
)  # fmt: skip
_ERRORS = ("mae", "max_err", "ref_mae", "ref_max_err")


@dataclass(frozen=True)
class Decision:
    """What the CSVs say, or why they say nothing."""

    word: str
    margin: float
    threshold: Threshold | None
    problems: tuple[str, ...]
    """Why the evidence cannot be trusted; none unless UNDECIDED."""
    cells: tuple[tuple[Cell, Mapping[str, str]], ...] = field(default=())

    @property
    def setting(self) -> int | None:
        """Value for `runtime.sel_triton_min_L`; None leaves the config alone."""
        if self.word == UNDECIDED or self.threshold is None:
            return None
        return self.threshold.setting()


def decide(texts: Mapping[str, tuple[str, str]], margin: float) -> Decision:
    """Decide from CSV texts.

    Args:
        texts: mode (`dense`, `varlen`) to the file's name and text.
        margin: least lower bound of the speedup.
    """
    problems: list[str] = []
    cells: list[tuple[Cell, Mapping[str, str]]] = []
    for mode, (name, text) in texts.items():
        try:
            table = read_table(text, name)
        except ContractError as error:
            problems.append(str(error))
            continue
        absent = [column for column in columns(mode) if column not in table.columns]
        if absent:
            problems.append(f"{name}: no column {', '.join(absent)}, so nothing vouches for it")
        if table.problem:
            problems.append(f"{name}: {table.problem}")
        if not table.rows:
            problems.append(f"{name}: no rows")
        for line, row in zip(table.lines, table.rows, strict=True):
            at = f"{name}, line {line}"
            found = [] if absent else _distrust(row, mode)
            problems += [f"{at}: {problem}" for problem in found]
            if found or absent:
                continue
            try:
                cells.append((cell_of(row, at), row))
            except ContractError as error:
                problems.append(str(error))
    problems += _mixed([row for _, row in cells])
    result = None
    if cells and not problems:
        try:
            result = threshold([cell for cell, _ in cells], margin)
        except ContractError as error:
            problems.append(str(error))
    if result is None:
        return Decision(UNDECIDED, margin, None, tuple(problems), tuple(cells))
    word = KEEP_OFF if result.min_L is None else ENABLE
    return Decision(word, margin, result, (), tuple(cells))


def _distrust(row: Mapping[str, str], mode: str) -> list[str]:
    """Why this row must not take part in a decision."""
    if row["status"] != "ok":
        return [row["status"] or "no status"]
    why = []
    if row["mode"] != mode:
        why.append(f"mode {row['mode']!r} in the {mode} file")
    if row["contract"] != str(CONTRACT_VERSION):
        why.append(f"contract version {row['contract']!r}, not {CONTRACT_VERSION}")
    if row["device"] == CPU_INTERPRETER:
        why.append("timed in Triton's interpreter, no CUDA device")
    elif row["device"].strip().lower() in ("", "cpu", "unknown"):
        why.append(f"device {row['device']!r} is no CUDA device")
    why += [
        f"{column} is {row[column]!r}, no kernel of {TRITON_PREFIX}*"
        for column in ("kernel", "kernel_launched", "operator_launched")
        if not row[column].startswith(TRITON_PREFIX)
    ]
    for side, column in (("reference", "ref_probe"), ("kernel", "tri_probe")):
        if row[column] != "ok":
            why.append(f"{side} probe: {row[column] or 'not run'}")
    if not row["streams"] == row["tri_streams"] == row["ref_streams"]:
        why.append(
            f"{row['tri_streams'] or 'unknown'} streams against {row['ref_streams'] or 'unknown'}, "
            f"asked for {row['streams']}"
        )
    return why + _distrust_numbers(row)


def _distrust_numbers(row: Mapping[str, str]) -> list[str]:
    number = {name: _number(row[name]) for name in (*_TIMES, *_ERRORS, "speedup", "iters", "L")}
    why = [
        f"{name} is {row[name] or 'missing'}, not a time above zero"
        for name in _TIMES
        if not 0 < number[name] < math.inf
    ]
    expected = number["ref_ms"] / number["tri_ms"] if not why else math.nan
    if not why and not abs(number["speedup"] / expected - 1) <= ROUNDING:
        why.append(
            f"speedup {row['speedup']} is not ref_ms / tri_ms = {expected:.4g}: swapped sides?"
        )
    if not number["iters"] >= MIN_ITERS:
        why.append(f"{row['iters'] or 'unknown'} iterations, at least {MIN_ITERS} give an interval")
    for side, name in (("kernel", "mae"), ("reference", "ref_mae")):
        if not number[name] <= MAX_MAE:
            why.append(f"{side} is wrong: {name} {row[name] or 'missing'} > {MAX_MAE:g}")
    # a single key has weight 1 whatever its score: there nothing is rounded
    if number["L"] > 1 and any(number[name] == 0 for name in _ERRORS):
        zero = ", ".join(name for name in _ERRORS if number[name] == 0)
        why.append(f"errors of exactly zero ({zero}): nothing was compared")
    if not _number(row[BOUND]) > 0:
        why.append(f"{BOUND} is {row[BOUND] or 'missing'}, not a speedup")
    return why


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _mixed(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns in which rows of one decision must not differ."""
    found = {name: sorted({row[name] for row in rows}) for name in ("device", "level", "basis")}
    return [
        f"rows of more than one {name}: {', '.join(values)}"
        for name, values in found.items()
        if len(values) > 1
    ]


def markdown(decision: Decision) -> str:
    """The report: decision, what it rests on, and every cell."""
    lines = ["# Selection threshold", "", f"**{_headline(decision)}**", ""]
    if decision.problems:
        lines += ["The measurements cannot be trusted:", ""]
        lines += [f"- {_plain(problem)}" for problem in decision.problems] + [""]
    elif decision.threshold is not None:
        lines += [
            f"A length is admissible when it and every longer tested length reach a speedup of "
            f"{decision.margin:g} at operator level over the strongest reference (lower bound of "
            f"the 95 % interval) with a mean error of at most "
            f"{MAX_MAE:g}, in every family of cells.",
            "",
        ]
        if decision.threshold.obstacles:
            lines += ["What stands against a smaller threshold:", ""]
            lines += [f"- {_plain(why)}" for why in decision.threshold.obstacles] + [""]
    if decision.cells:
        lines += [
            "| family | L | Triton, ms | reference, ms | speedup | MAE | judged |",
            "|---|---:|---:|---:|---:|---:|---|",
        ]
        for cell, row in sorted(decision.cells, key=lambda item: (item[0].family, item[0].L)):
            judged = "short" if shortfall(cell, decision.margin) else "ok"
            bounds = f"{row[BOUND]} to {row['operator_strongest_hi']}"
            times = row["operator_tri_ms"], row["operator_strongest_ms"]
            fields = (cell.family, str(cell.L), *times, bounds, row["mae"], judged)
            lines.append("| " + " | ".join(_plain(text) for text in fields) + " |")
        lines.append("")
    return "\n".join(lines)


def as_json(decision: Decision) -> str:
    """The decision for programs."""
    result = decision.threshold
    return (
        json.dumps(
            {
                "decision": decision.word,
                "min_L": result.min_L if result else None,
                "sel_triton_min_L": decision.setting,
                "margin": decision.margin,
                "families": list(result.families) if result else [],
                "obstacles": list(result.obstacles) if result else [],
                "problems": list(decision.problems),
            },
            indent=2,
        )
        + "\n"
    )


def _headline(decision: Decision) -> str:
    if decision.word == UNDECIDED:
        return "UNDECIDED: leave `runtime.sel_triton_min_L` as it is"
    setting = f"`runtime.sel_triton_min_L: {decision.setting}`"
    if decision.word == ENABLE:
        return f"ENABLE from L = {decision.setting}: {setting}"
    return f"KEEP_OFF, no tested length is admissible: {setting}, or higher if it is higher now"


def _plain(text: str) -> str:
    """Text from a file, harmless inside a Markdown table: one line, no markup."""
    printable = _printable(text)
    for character in "\\`*_|<>[]":
        printable = printable.replace(character, f"\\{character}")
    return printable


def _printable(text: str) -> str:
    """Text from a file without control sequences, for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def main(argv: Sequence[str] | None = None) -> int:
    """Decide, write the report, print the headline; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="sel_threshold_from_csv", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dense", type=Path, required=True, help="CSV of --dist few")
    parser.add_argument("--varlen", type=Path, required=True, help="CSV of --dist many or mixed")
    parser.add_argument("--margin", type=_margin, default=DEFAULT_MARGIN, help="least speedup")
    parser.add_argument("--out", type=Path, required=True, help="Markdown report to write")
    parser.add_argument("--json", type=Path, help="also write the decision as JSON")
    args = parser.parse_args(argv)
    try:
        texts = {
            mode: (path.name, path.read_text(encoding="utf-8", errors="replace"))
            for mode, path in (("dense", args.dense), ("varlen", args.varlen))
        }
        decision = decide(texts, args.margin)
        args.out.write_text(markdown(decision), encoding="utf-8")
        if args.json:
            args.json.write_text(as_json(decision), encoding="utf-8")
    except OSError as error:
        print(f"sel_threshold_from_csv: {error}", file=sys.stderr)
        return 2
    print(_headline(decision).replace("`", ""))
    for problem in decision.problems:
        print(f"  {_printable(problem)}")
    return EXIT_UNDECIDED if decision.word == UNDECIDED else 0


def _margin(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())

"""Decides from which selected length on Triton pays, from the CSVs of the benchmark.

    python -m kernels.bench.sel_threshold_from_csv --dense sel_dense.csv --varlen sel_varlen.csv \
        --margin 1.2 --out selection_report.md

The rule is `contract.threshold`, on the speedup at operator level over the strongest reference:
what the threshold switches in production. One row that cannot be trusted (`distrust`), or a length
that some family lacks, and there is no decision. Standard library only, so that a laptop without
torch can decide; what takes more than these files is left to `orchestrate judge`.

Exit codes: 0 a decision, ENABLE or KEEP_OFF; 4 UNDECIDED, because the files do not carry one; 2
usage, or a file that cannot be read or written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernels.bench.bench_csv import read_table
from kernels.bench.contract import (
    DEFAULT_MARGIN,
    MAX_MAE,
    Cell,
    ContractError,
    Threshold,
    cell_of,
    columns,
    shortfall,
    threshold,
)
from kernels.bench.distrust import distrust, number

ENABLE, KEEP_OFF, UNDECIDED = "ENABLE", "KEEP_OFF", "UNDECIDED"
EXIT_UNDECIDED = 4

BOUND = "operator_strongest_lo"
NOT_JUDGED = "physics, machine and flatness are not judged here: orchestrate judge"
"""Nor whether there is such a device: that takes evidence which these files do not hold."""


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
            found = [] if absent else distrust(row, mode)
            problems += [f"{at}: {problem}" for problem in found]
            if found or absent:
                continue
            try:
                cells.append((cell_of(row, at), row))
            except ContractError as error:
                problems.append(str(error))
    problems += _mixed([row for _, row in cells])
    if not problems:
        problems += _holes([cell for cell, _ in cells])
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


def _mixed(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns in which rows of one decision must not differ."""
    names = ("device", "level", "basis", "torch", "triton")
    found = {name: sorted({row[name] for row in rows}) for name in names}
    return [
        f"rows of more than one {name}: {', '.join(values)}"
        for name, values in found.items()
        if len(values) > 1
    ]


def _holes(cells: Sequence[Cell]) -> list[str]:
    """Lengths that a family does not have, although the decision would be about them.

    A family may begin at a longer length than others: no decision reaches below.
    """
    lengths: dict[str, set[int]] = {}
    for cell in cells:
        lengths.setdefault(cell.family, set()).add(cell.L)
    tested = set().union(*lengths.values())
    problems = []
    for family, own in sorted(lengths.items()):
        holes = [f"L={length}" for length in sorted(tested - own) if length > min(own)]
        if holes:
            problems.append(f"{family}: not measured at {', '.join(holes)}, where others are")
        elif len(own) == 1:
            problems.append(f"{family}: measured at L={min(own)} alone, which shows no threshold")
    return problems


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
    lines += [f"{NOT_JUDGED.capitalize()}.", ""]
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
    paths = [path for path in (args.dense, args.varlen, args.out, args.json) if path]
    for i, output in enumerate(paths[2:], start=2):
        if any(_same(output, other) for other in paths[:i]):
            parser.error(f"{output} is named twice: a report would overwrite it")
    try:
        texts = {
            # Excel begins what it saves as UTF-8 with a byte order mark
            mode: (path.name, path.read_text(encoding="utf-8-sig", errors="replace"))
            for mode, path in (("dense", args.dense), ("varlen", args.varlen))
        }
        decision = decide(texts, args.margin)
        args.out.write_text(markdown(decision), encoding="utf-8")
        if args.json:
            args.json.write_text(as_json(decision), encoding="utf-8")
    except OSError as error:
        print(f"sel_threshold_from_csv: {error}", file=sys.stderr)
        return 2
    try:
        print(_headline(decision).replace("`", ""))
        for problem in decision.problems:
            print(f"  {_printable(problem)}")
        print(NOT_JUDGED, flush=True)
    except BrokenPipeError:
        # whoever reads has seen enough; Python must not try once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_UNDECIDED if decision.word == UNDECIDED else 0


def _same(one: Path, other: Path) -> bool:
    """Two names of one file, whether or not it exists."""
    return one.resolve() == other.resolve() or (
        one.exists() and other.exists() and one.samefile(other)
    )


def _margin(text: str) -> float:
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())

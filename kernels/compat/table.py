"""The matrix as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from .matrix import Cell, Outcome, Status
from .targets import KIB, TARGETS


def markdown(cells: Sequence[Cell], date: str, command: str, scope: str) -> str:
    """The published table.

    Args:
        cells: in any order.
        date: of the run, `YYYY-MM-DD`.
        command: that makes it again.
        scope: what the launches cover, in a sentence.
    """
    cells = sorted(cells, key=lambda cell: (_version(cell.triton), cell.target.number))
    return (
        "\n".join([*_head(cells, date, command, scope), *_failures(cells), *_launches(cells)])
        + "\n"
    )


def as_json(cells: Sequence[Cell], date: str) -> dict[str, Any]:
    """Every figure of every launch, for programs."""
    return {
        "date": date,
        "cells": [
            {
                "triton": cell.triton,
                "target": str(cell.target),
                "unknown": cell.unknown,
                "broken": cell.broken,
                "seconds": round(cell.seconds, 1),
                "launches": [vars(o) | {"status": o.status.value} for o in cell.outcomes],
            }
            for cell in cells
        ],
    }


def summary(cell: Cell) -> str:
    """One cell in a few words: launches that are right of all, then what is wrong."""
    if cell.broken:
        return "launchers fail"
    if cell.unknown:
        return "unknown target" if cell.target.required else "-"
    wrong = [f"{n} {status.value}" for status, n in cell.counts.items() if status is not Status.OK]
    return ", ".join([f"{cell.counts[Status.OK]}/{len(cell.outcomes)}", *wrong])


def _head(cells: Sequence[Cell], date: str, command: str, scope: str) -> Iterator[str]:
    targets = sorted({str(cell.target) for cell in cells}, key=list(TARGETS).index)
    compiled = sum(len(cell.outcomes) for cell in cells)
    yield "# Which Triton compiles the kernels for which card"
    yield ""
    yield f"Made on {date} by `{command}`, without a GPU: {compiled} launches. {scope}"
    yield ""
    yield (
        "Each cell: launches that compile, spill no register and fit the card's shared memory, of "
        "all that the launchers make there; below it the most registers a thread and the most "
        "shared memory a program has. `-`: this Triton does not know the target."
    )
    yield ""
    yield f"| Triton | {' | '.join(map(_card, targets))} |"
    yield "|---" * (len(targets) + 1) + "|"
    for version in dict.fromkeys(cell.triton for cell in cells):
        row = {str(cell.target): cell for cell in cells if cell.triton == version}
        yield f"| {version} | {' | '.join(_cell(row.get(target)) for target in targets)} |"
    yield ""


def _card(name: str) -> str:
    target = TARGETS[name]
    return f"{name} ({target.card}; {target.shared_limit // KIB} KiB)"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = summary(cell)
    measured = [outcome for outcome in cell.outcomes if outcome.registers]
    if measured:
        shared = max(outcome.shared_bytes for outcome in measured) / KIB
        text += f"<br>{max(o.registers for o in measured)} registers, {shared:.1f} KiB"
    return text


def _failures(cells: Sequence[Cell]) -> Iterator[str]:
    """One error with all the places that have it; one launch with all it takes too much of."""
    places: dict[str, Counter[str]] = {}
    for cell in cells:
        place = f"{cell.triton} {cell.target}"
        if not cell.outcomes:
            for failure in cell.failures:
                places.setdefault(_code(failure), Counter())[place] += 1
        for outcome in cell.outcomes:
            if outcome.status in (Status.SPILLS, Status.SHARED):
                what = f"{_code(outcome.launch)}: {outcome.status.value}"
                places.setdefault(what, Counter())[f"{place} ({outcome.error})"] += 1
            elif outcome.status is not Status.OK:
                kernel = outcome.launch.split()[0]
                what = f"{_code(kernel)} {outcome.status.value}: {_code(outcome.error)}"
                places.setdefault(what, Counter())[place] += 1
    yield "## What is wrong"
    yield ""
    for what, where in places.items():
        yield f"- {what}: " + ", ".join(
            f"{k}, {n} launches" if n > 1 else k for k, n in where.items()
        )
    if not places:
        yield "Nothing."
    yield ""


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _launches(cells: Sequence[Cell]) -> Iterator[str]:
    targets = sorted({str(cell.target) for cell in cells}, key=list(TARGETS).index)
    found: dict[str, dict[str, list[Outcome]]] = {}
    for cell in cells:
        for outcome in cell.outcomes:
            by_target = found.setdefault(outcome.launch, {})
            by_target.setdefault(str(cell.target), []).append(outcome)
    yield "## Kernels and configurations"
    yield ""
    yield (
        "Most registers a thread / KiB of shared memory a program, of all versions above. Empty: "
        "the tuning table chooses otherwise there."
    )
    yield ""
    yield f"| launch | {' | '.join(targets)} |"
    yield "|---" * (len(targets) + 1) + "|"
    for launch, by_target in sorted(found.items()):
        figures = (_figures(by_target.get(target, [])) for target in targets)
        yield f"| `{launch}` | {' | '.join(figures)} |"


def _figures(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return ""
    wrong = "" if all(outcome.status is Status.OK for outcome in outcomes) else " **!**"
    registers = max(outcome.registers for outcome in outcomes)
    return f"{registers} / {max(o.shared_bytes for o in outcomes) / KIB:.1f}{wrong}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))

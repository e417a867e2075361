"""When jobs ran, as they wrote it down, and that no two of them ran at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path


def interval(out: Path) -> tuple[float, float]:
    return float((out / "began").read_text()), float((out / "ended").read_text())


def assert_apart(intervals: list[tuple[float, float]]) -> None:
    for (_, ended), (began, _) in pairwise(sorted(intervals)):
        assert ended <= began, intervals

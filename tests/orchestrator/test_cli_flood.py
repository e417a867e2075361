"""A job that floods the terminal: printed in part, counted whole."""

from __future__ import annotations

import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import console
from orchestrator.cli.console import LINES_A_SECOND, BoundedLines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(pieces: list[tuple[float, bytes]]) -> list[str]:
    seen: list[str] = []
    clock = Clock()
    lines = BoundedLines(seen.append, clock)
    for pause, data in pieces:
        clock.now += pause
        lines.feed(data)
    lines.flush()
    return seen


def left_out(seen: list[str]) -> int:
    notes = [re.match(r"\[(\d+) lines more", line) for line in seen]
    return sum(int(note[1]) for note in notes if note)


def numbered(count: int, first: int = 0) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, first + count))


def test_a_quiet_job_is_printed_whole():
    assert (
        shown([(0, numbered(LINES_A_SECOND - 1))])
        == numbered(LINES_A_SECOND - 1).decode().split("\n")[:-1]
    )


def test_a_flood_shows_its_beginning_its_size_and_its_end():
    seen = shown([(0, numbered(50_000)), (0, numbered(50_000, 50_000)), (0, b"unfinished")])
    assert seen[0] == "line 0"
    assert seen[LINES_A_SECOND - 1] == f"line {LINES_A_SECOND - 1}"
    assert seen[-2:] == ["line 99999", "unfinished"]
    assert len(seen) < LINES_A_SECOND + 20
    assert left_out(seen) == 100_001 - (len(seen) - 1)


def test_after_a_flood_printing_goes_on_where_a_line_begins():
    seen = shown([(0, numbered(1000) + b"half "), (1, b"a line\nnext\n")])
    assert seen[-2:] == ["half a line", "next"]
    assert seen[-3].startswith("[800 lines more")


def test_at_the_limit_nothing_is_said_to_be_missing():
    seen = shown([(0, numbered(LINES_A_SECOND)), (1, b"next\n")])
    assert left_out(seen) == 0
    assert len(seen) == LINES_A_SECOND + 1


def test_the_end_of_a_flood_is_shown_though_nothing_comes_any_more(monkeypatch):
    monkeypatch.setattr(console, "QUIET_S", 0.05)
    seen: list[str] = []
    lines = console.BoundedLines(seen.append)
    lines.feed(numbered(5000) + b"the last\n")
    for _ in range(200):
        if seen[-1] == "the last":
            break
        time.sleep(0.05)
    assert seen[-1] == "the last"
    assert left_out(seen) == 5001 - (len(seen) - 1)
    shown_by_then = list(seen)
    lines.flush()
    assert seen == shown_by_then


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.4, 1.5]), st.integers(0, 3 * LINES_A_SECOND)), max_size=8
    ),
    st.integers(1, 60),
)
def test_every_line_is_printed_or_counted(bursts, cut):
    data = [(pause, numbered(count)) for pause, count in bursts]
    pieces = [
        (pause if not start else 0.0, text[start : start + 97 * cut])
        for pause, text in data
        for start in range(0, max(1, len(text)), 97 * cut)
    ]
    seen = shown(pieces)
    printed = [line for line in seen if not line.startswith("[")]
    assert len(printed) + left_out(seen) == sum(count for _, count in bursts)
    assert set(printed) <= set(numbered(3 * LINES_A_SECOND).decode().split("\n"))

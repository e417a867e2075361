"""What the agent's `run` says: lines of JSON, with raw bytes of the log between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_LONGEST = 16 << 20


class NotFrames(Exception):
    """Something else than the agent spoke, or the agent is ill; holds how that began."""


class Frames:
    """Takes the stream apart as it comes, whatever the pieces; holds no more than a line."""

    def __init__(
        self, on_answer: Callable[[dict[str, Any]], None], on_log: Callable[[bytes], None]
    ) -> None:
        self._on_answer, self._on_log = on_answer, on_log
        self._line = bytearray()
        self._due = 0  # bytes of the log before the next line

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        Raises:
            NotFrames: it is no such stream.
        """
        while data:
            if self._due:
                part, data = data[: self._due], data[self._due :]
                self._due -= len(part)
                self._on_log(part)
                continue
            line, newline, data = data.partition(b"\n")
            self._line += line
            if len(self._line) > _LONGEST:
                raise NotFrames(_beginning(self._line))
            if newline:
                self._take_line()

    def _take_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise NotFrames(_beginning(line)) from None
        if not isinstance(answer, dict):
            raise NotFrames(_beginning(line))
        due = answer.get("log")
        if due is None:
            self._on_answer(answer)
        elif isinstance(due, int) and due >= 0:
            self._due = due
        else:
            raise NotFrames(_beginning(line))


def _beginning(line: bytes | bytearray) -> str:
    return line[:200].decode("utf-8", "replace")

"""The event log: appended and on the disk before anything is acted on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import JsonValue


@dataclass(frozen=True)
class Event:
    """One line of `events.jsonl`."""

    at: str
    name: str
    data: dict[str, JsonValue]


Listener = Callable[[Event], None]


class EventLog:
    """Appends events, each fsynced, then tells the listeners.

    Listeners print; the log is what counts. So an event is on the disk before anyone sees it.
    """

    def __init__(self, path: Path, listeners: tuple[Listener, ...] = ()) -> None:
        self._path = path
        self._listeners = listeners

    def append(self, name: str, /, **data: JsonValue) -> None:
        """Append one event."""
        event = Event(now(), name, data)
        line = json.dumps({"at": event.at, "event": name, **data}, ensure_ascii=False) + "\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A writer killed half-way leaves a torn line; ours must not be glued to it.
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for listener in self._listeners:
            listener(event)


def read_events(path: Path) -> Iterator[Event]:
    """Events in order. A torn line is what a killed writer leaves; it never happened."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                fields = json.loads(line)
                event = Event(fields.pop("at"), fields.pop("event"), fields)
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
            yield event


def now() -> str:
    """UTC in ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")

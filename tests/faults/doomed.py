"""doomed LABEL before|after ARGS...: `orchestrate ARGS`, killed around the action of an event.

An event is on the disk before it is acted on. So right after the event has been written its action
lies ahead, and right before the next one is written it is done. SIGKILL, at exactly that place.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from orchestrator.cli import main
from orchestrator.store.events import EventLog
from tests.faults.rig import label


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(place: str, when: str) -> None:
    append = EventLog.append
    met = False

    def watched(log: EventLog, name: str, /, **data: Any) -> None:
        nonlocal met
        if met:
            die()
        append(log, name, **data)
        met = label({"event": name, **data}) == place
        if met and when == "before":
            die()

    EventLog.append = watched  # type: ignore[method-assign]
    try:
        main()
    finally:
        if met:
            die()


if __name__ == "__main__":
    where, side = sys.argv[1:3]
    del sys.argv[1:3]
    run(where, side)

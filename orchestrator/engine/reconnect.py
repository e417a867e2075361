"""Getting the link back: a lost connection is not a failed experiment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.errors import ConnectionLost, HostUnreachable
from orchestrator.store.events import EventLog
from orchestrator.transport.connection import Connection

_T = TypeVar("_T")
_FIRST_S, _LONGEST_S = 0.5, 15.0
_HELD_S = 10.0  # more than it takes to notice that a link is silent


def backoff(jitter: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds to wait before each try: doubling to a limit, each between half and all of it.

    The jitter keeps the runs of one person from knocking at a restarted pod all at once.
    """
    pause = _FIRST_S
    while True:
        yield pause * (0.5 + jitter() / 2)
        pause = min(2 * pause, _LONGEST_S)


@dataclass
class Reconnector:
    """Repeats what the link broke, for as long as it may.

    Only for actions that may be repeated: steps are made so (a job is never started twice, a log is
    followed from where it stops, a file that is there is not pulled again).
    """

    connection: Connection
    events: EventLog
    budget_s: float
    """How long one outage may last.

    A link that is got back, and lost again before it has held for a while, was never back.
    """
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _back_at: float | None = field(default=None, init=False)
    _began_at: float = field(default=0.0, init=False)
    _pauses: Iterator[float] = field(default_factory=backoff, init=False)

    def until_done(self, action: Callable[[], _T]) -> _T:
        """What `action` returns.

        Raises:
            ConnectionLost: the pod was out of reach for longer than the budget.
        """
        while True:
            try:
                done = action()
            except ConnectionLost as lost:  # noqa: PERF203 - the loop is the retry
                self._reconnect(lost)
            else:
                self._back_at = None
                return done

    def _reconnect(self, lost: ConnectionLost) -> None:
        now = self.clock()
        if self._back_at is None or now - self._back_at >= _HELD_S:
            self._began_at, self._pauses = now, backoff()
        began = self._began_at
        self.events.append("pod.unreachable", message=lost.message, budget_s=self.budget_s)
        for attempt, pause in enumerate(self._pauses, start=1):
            if self.clock() - began + pause > self.budget_s:
                break
            self.sleep(pause)
            self.connection.close()
            try:
                self.connection.open()
            except (HostUnreachable, ConnectionLost) as error:
                self.events.append("pod.retry", attempt=attempt, message=error.message)
                continue
            self._back_at = self.clock()
            after = round(self._back_at - now, 1)
            self.events.append("pod.reconnected", after_s=after, attempts=attempt)
            return
        raise ConnectionLost(
            f"{lost.message}; not back within {self.budget_s:g} s",
            remedy="what runs on the pod may still run; go on when it is back: orchestrate resume",
        )

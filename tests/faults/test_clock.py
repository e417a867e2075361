"""Clocks that are set while something runs: only the monotonic ones are trusted with durations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.reconnect import Reconnector
from orchestrator.errors import ConnectionLost, HostUnreachable
from orchestrator.store.events import EventLog, read_events
from tests.faults.rig import HERE, Reference, Rig

DAY_S = 86_400.0


@pytest.mark.parametrize("jump", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_pod_whose_clock_jumps(rig: Rig, reference: Reference, jump: float) -> None:
    """The job's time limit does not run out, and its duration is what it took."""
    clock = rig.folder / "clock"
    rig.run_by(HERE / "shifted.py", clock, what="*/agent | work.py")
    controller = rig.start(seconds=3, timeout=60)
    rig.wait_for_log(controller, "line 000003")
    clock.write_text(str(jump))
    rig.assert_whole(controller.end(), reference)
    result = json.loads((rig.job("dense") / "result.json").read_text())
    assert abs(result["ended_at"] - result["started_at"] - jump) < 60  # it did jump
    assert 1 < result["duration_s"] < 60


@pytest.mark.parametrize("jump", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_laptop_whose_clock_jumps(rig: Rig, reference: Reference, jump: float) -> None:
    clock = rig.folder / "clock"
    program = ("tests.faults.shifted", str(clock), "-m", "orchestrator")
    controller = rig.start("--reconnect-for", "60", program=program, fresh=True, seconds=1.5)
    rig.wait_for_log(controller, "line 000003")
    rig.link.reset()
    rig.wait_for(controller, "pod.unreachable")
    clock.write_text(str(jump))
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    days = {event["at"][:10] for event in rig.events()}
    assert len(days) == 2  # it did jump


class AwayFor:
    """A pod that is back at the n-th try."""

    def __init__(self, tries: float) -> None:
        self.tries = tries

    def close(self) -> None:
        pass

    def open(self) -> None:
        self.tries -= 1
        if self.tries > 0:
            raise HostUnreachable("still away")


def reconnector(tmp_path: Path, tries: float, **fields: Any) -> tuple[Reconnector, list[float]]:
    """With a clock that only its own waiting moves."""
    waits: list[float] = []
    pod: Any = AwayFor(tries)
    events = EventLog(tmp_path / "events.jsonl")
    fields = {"clock": lambda: sum(waits), "sleep": waits.append, **fields}
    return Reconnector(pod, events, 600.0, **fields), waits


def lost_once() -> Any:
    lost = iter([ConnectionLost("gone")])

    def action() -> str:
        for error in lost:
            raise error
        return "done"

    return action


def test_the_waits_double_to_a_limit_and_fill_the_budget(tmp_path: Path) -> None:
    link, waits = reconnector(tmp_path, float("inf"))
    with pytest.raises(ConnectionLost, match="gone; not back within 600 s"):
        link.until_done(lost_once())
    assert 585 < sum(waits) <= 600
    for tried, longest in zip(waits, itertools.chain([0.5, 1, 2, 4, 8], itertools.repeat(15))):  # noqa: B905
        assert longest / 2 <= tried <= longest
    assert len([e for e in read_events(tmp_path / "events.jsonl") if e.name == "pod.retry"]) == len(
        waits
    )


def test_a_pod_that_is_back_within_the_budget_is_gone_on_with(tmp_path: Path) -> None:
    link, waits = reconnector(tmp_path, tries=7)
    assert link.until_done(lost_once()) == "done"
    assert len(waits) == 7
    last = list(read_events(tmp_path / "events.jsonl"))[-1]
    assert (last.name, last.data["attempts"]) == ("pod.reconnected", 7)
    assert last.data["after_s"] == pytest.approx(sum(waits), abs=0.1)


def test_each_outage_has_the_whole_budget(tmp_path: Path) -> None:
    link, waits = reconnector(tmp_path, tries=20)
    link.until_done(lost_once())
    link.connection.tries = 20  # type: ignore[attr-defined]
    link.until_done(lost_once())
    assert sum(waits) > 0
    assert len(waits) == 40

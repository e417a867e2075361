"""Killed controllers: whenever it happens, the next one comes to the same end."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.rig import FULL, Controller, Reference, Rig

SEEDS = range(10) if FULL else range(2)
KILLS = 5 if FULL else 3
EVENTS = [
    "run.created",
    "connecting",
    "facts",
    "phase.started",
    "step.started",
    "sync.done",
    "job.submitting",
    "job.state",
    "artifact.pulled",
    "gate",
    "phase.judged",
    "report.written",
    "run.finished",
]
QUICK = ["run.created", "sync.done", "job.submitting", "artifact.pulled", "report.written"]


def again(rig: Rig) -> Controller:
    """What a person does next: go on, or begin when there is nothing to go on with."""
    return rig.resume() if rig.run else rig.start(seconds=0.5)


def until_done(rig: Rig, reference: Reference) -> None:
    rig.assert_whole(again(rig).end(), reference)


@pytest.mark.parametrize("name", EVENTS if FULL else QUICK)
def test_killed_at_an_event(rig: Rig, reference: Reference, name: str) -> None:
    controller = rig.start(seconds=0.5)
    rig.wait_for(controller, name)
    controller.kill()
    until_done(rig, reference)


@pytest.mark.skipif(not FULL, reason="FAULTS_FULL=1: every event, at its second and last time")
@pytest.mark.parametrize("name", ["job.submitting", "job.state", "artifact.pulled", "gate"])
def test_killed_at_a_later_one(rig: Rig, reference: Reference, name: str) -> None:
    controller = rig.start(seconds=0.5)
    rig.wait(lambda: len(rig.events(name)) > 1, controller)
    controller.kill()
    until_done(rig, reference)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_again_and_again(rig: Rig, reference: Reference, seed: int) -> None:
    """Each controller lives for a while of the time that a whole run takes."""
    chance = random.Random(seed)  # noqa: S311 - chance, not secrecy
    for _ in range(KILLS):
        controller = again(rig)
        # counted from its first event: before it, a kill is nothing special
        events = len(rig.events())
        rig.wait(lambda before=events: len(rig.events()) > before, controller)
        time.sleep(chance.uniform(0, 1.5))
        controller.kill()
    until_done(rig, reference)

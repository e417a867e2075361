"""Killed controllers: whenever it happens, the next one comes to the same end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.rig import FULL, Controller, Reference, Rig, label

PLACES = [
    "run.created",
    "connecting",
    "facts",
    "phase.started 0",
    "step.started sync",
    "sync.done",
    "gate sync",
    "phase.judged 0",
    "phase.started 2",
    "step.started dense",
    "job.submitting dense",
    "job.state dense RUNNING",
    "job.state dense SUCCEEDED",
    "artifact.pulled dense telemetry.csv",
    "artifact.pulled dense parity.xml",
    "artifact.pulled dense sel_dense.canary.csv",
    "artifact.pulled dense sel_dense.csv",
    "gate dense",
    "step.started varlen",
    "job.submitting varlen",
    "job.state varlen RUNNING",
    "job.state varlen SUCCEEDED",
    "artifact.pulled varlen telemetry.csv",
    "artifact.pulled varlen sel_varlen.canary.csv",
    "artifact.pulled varlen sel_varlen.csv",
    "gate varlen",
    "step.started threshold",
    "gate threshold",
    "phase.judged 2",
    "report.written",
    "run.finished",
]
SIDES = [(place, side) for place in PLACES for side in ("before", "after")]
QUICK = [
    ("run.created", "before"),
    ("connecting", "before"),
    ("facts", "before"),
    ("phase.started 0", "before"),
    ("step.started sync", "after"),
    ("sync.done", "before"),
    ("job.submitting dense", "before"),
    ("job.submitting dense", "after"),
    ("job.state dense SUCCEEDED", "before"),
    ("artifact.pulled dense parity.xml", "before"),
    ("gate dense", "before"),
    ("phase.judged 2", "before"),
    ("report.written", "before"),
    ("run.finished", "after"),
]
"""One of each kind, and both sides of the one that must not happen twice."""


def again(rig: Rig) -> Controller:
    """What a person does next: go on, or begin when there is nothing to go on with."""
    return rig.resume() if rig.run else rig.start(seconds=0.5)


def followers(rig: Rig, supervisor: int) -> list[int]:
    """Processes of `agent run` on the pod, less the job's own supervisor."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            ours = b"run" in words and any(
                word.startswith(bytes(rig.pod / ".orchestrate")) for word in words
            )
            if ours and words[0] != b"sh" and int(process.name) != supervisor:
                found.append(int(process.name))
    return found


def until_done(rig: Rig, reference: Reference) -> None:
    rig.assert_whole(again(rig).end(), reference)


def test_no_event_is_left_out(reference: Reference) -> None:
    assert list(dict.fromkeys(map(label, reference.events))) == PLACES
    assert {place.split()[0] for place, _ in QUICK} == {place.split()[0] for place in PLACES}


@pytest.mark.parametrize(("place", "side"), SIDES if FULL else QUICK)
def test_killed_around_an_event(rig: Rig, reference: Reference, place: str, side: str) -> None:
    doomed = rig.start(program=("tests.faults.doomed", place, side))
    assert doomed.end().code == -9, doomed.said
    last = [label(event) for event in rig.events()][-1]
    assert last == place  # it died where it should, not before
    until_done(rig, reference)


@pytest.mark.parametrize("seed", range(50 if FULL else 1))
def test_killed_at_a_random_time(rig: Rig, reference: Reference, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - chance, not secrecy
    controller = rig.start(seconds=0.5)
    # counted from its first event: before it, a kill is nothing special
    controller.wait_until(rig.events)
    time.sleep(chance.uniform(0, reference.seconds))
    controller.kill()
    until_done(rig, reference)


@pytest.mark.parametrize("seed", range(5 if FULL else 1))
def test_killed_again_and_again(rig: Rig, reference: Reference, seed: int) -> None:
    """Each controller gets a part of the time that a whole run takes."""
    chance = random.Random(100 + seed)  # noqa: S311
    for _ in range(5 if FULL else 3):
        before = len(rig.events())
        controller = again(rig)
        controller.wait_until(lambda seen=before: len(rig.events()) > seen)
        time.sleep(chance.uniform(0, reference.seconds / 2))
        controller.kill()
    until_done(rig, reference)


def test_what_is_cancelled_without_a_controller_is_fetched(rig: Rig) -> None:
    controller = rig.start(seconds=60, lines=600)
    rig.wait_for_log(controller, "line 000003")
    controller.kill()
    cancelled = rig.begin("cancel", "--json").end()
    assert cancelled.code == 0, cancelled.stderr
    assert rig.run is not None
    log = (rig.job("dense") / "log").read_bytes()
    assert b"line 000003" in log
    assert (rig.run / "phase-2/dense/1/log").read_bytes() == log
    assert rig.events("job.fetched", job=rig.job("dense").name)
    assert rig.resume().end().code == 4  # nothing was shown
    assert rig.starts() == ["dense", "varlen"]


def test_a_job_cancelled_on_its_way_to_the_pod_is_never_started(rig: Rig) -> None:
    rig.start(program=("tests.faults.doomed", "job.submitting dense", "before")).end()
    cancelled = rig.begin("cancel", "--json").end()
    assert cancelled.code == 0, cancelled.stderr
    assert [event["state"] for event in rig.events("job.state")] == ["CANCELLED"]
    assert rig.resume().end().code == 4
    assert "dense" not in rig.starts()


def test_a_job_that_nobody_could_follow_is_not_begun_again(rig: Rig, reference: Reference) -> None:
    """Whoever follows it on the pod is killed, time and again; the job goes on."""
    controller = rig.start(seconds=2)
    rig.wait_for_log(controller, "line 000003")
    supervisor = rig.supervisor("dense")
    os.kill(rig.command("dense"), signal.SIGSTOP)
    while not controller.over:
        for pid in followers(rig, supervisor):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    outcome = controller.end()
    assert outcome.code == 3
    assert "orchestrate attach" in outcome.stderr
    os.kill(rig.command("dense"), signal.SIGCONT)
    rig.assert_whole(rig.resume().end(), reference)

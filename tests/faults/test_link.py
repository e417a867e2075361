"""Cut links: a lost connection is not a failed experiment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.rig import FULL, Controller, Reference, Rig, at

NOTICED_S = 8.0
OUTAGE_S = 60.0 if FULL else 12.0


def reached(rig: Rig, controller: Controller, place: str) -> None:
    if place == "job":
        rig.wait_for_log(controller, "line 000003")
        return
    if place == "sync":
        rig.wait_for(controller, "step.started", step="sync")
    else:
        rig.wait_for(controller, "job.state", state="SUCCEEDED")
    before = rig.link.passed
    rig.wait(lambda: rig.link.passed > before + 60_000, controller)


def trouble(rig: Rig, place: str, seconds: float = 1.0, lines: int = 20) -> Controller:
    """A run in the middle of `place`, with much for a slow link to carry there."""
    if place == "sync":
        (rig.lab.repo / "big.bin").write_bytes(os.urandom(300_000))
        rig.link.throttle(200_000)
    bulk = 300_000 if place == "fetch" else 0
    controller = rig.start(seconds=seconds, lines=lines, bulk=bulk)
    if place == "fetch":
        rig.wait_for_log(controller, "line 000015")
        rig.link.throttle(100_000)
    reached(rig, controller, place)
    return controller


def until_noticed(rig: Rig, controller: Controller, cut: float) -> float:
    """Seconds from the cut to the event that says so."""
    rig.wait_for(controller, "pod.unreachable")
    return at(rig.events("pod.unreachable")[0]) - cut


@pytest.mark.parametrize("place", ["sync", "job", "fetch"])
def test_a_reset_link_is_got_back(rig: Rig, reference: Reference, place: str) -> None:
    controller = trouble(rig, place)
    cut = time.time()
    rig.link.reset()
    assert until_noticed(rig, controller, cut) < 2
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    assert rig.events("pod.reconnected")
    if place == "job":
        assert rig.events("job.state", state="UNREACHABLE")


@pytest.mark.parametrize("place", ["sync", "job", "fetch"])
def test_a_silent_link_is_noticed_and_got_back(
    rig: Rig, reference: Reference, place: str, record_property: Callable[[str, object], None]
) -> None:
    if place == "job":  # which writes before, during and after the outage
        controller = trouble(rig, place, seconds=OUTAGE_S + 3, lines=300)
    else:
        controller = trouble(rig, place)
    cut = time.time()
    rig.link.black_hole()
    noticed = until_noticed(rig, controller, cut)
    record_property("noticed_after_s", round(noticed, 2))
    assert noticed < NOTICED_S
    if place == "job":
        time.sleep(max(0.0, cut + OUTAGE_S - time.time()))
        assert not controller.over
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    assert rig.events("pod.reconnected")


def test_a_short_silence_is_sat_out(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=2)
    reached(rig, controller, "job")
    rig.link.black_hole()
    time.sleep(3)
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    assert not rig.events("pod.unreachable")


def test_a_pod_that_stays_away_ends_the_run_but_not_the_job(rig: Rig, reference: Reference) -> None:
    controller = rig.start("--reconnect-for", "3", seconds=1.0)
    reached(rig, controller, "job")
    rig.link.reset()
    outcome = controller.end(30)
    assert outcome.code == 6, outcome.stderr
    assert "orchestrate resume" in outcome.stderr
    assert "not back within 3 s" in outcome.stderr
    rig.link.heal()
    rig.assert_whole(rig.resume().end(), reference)


def test_a_slow_and_distant_link_works(rig: Rig, reference: Reference) -> None:
    rig.link.delay(0.1)
    rig.link.throttle(60_000)
    rig.assert_whole(rig.start(bulk=100_000).end(), reference)
    assert not rig.events("pod.unreachable")


def test_refused_connections_do_not_disturb_the_open_one(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=0.5)
    reached(rig, controller, "job")
    rig.link.refuse()
    rig.assert_whole(controller.end(), reference)


def test_a_restarted_sshd_is_connected_to_again(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=1.5)
    reached(rig, controller, "job")
    rig.server.kill()
    rig.wait_for(controller, "pod.unreachable")
    rig.server.start()
    rig.assert_whole(controller.end(), reference)


def test_a_sleeping_laptop_goes_on_where_it_was(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=2)
    reached(rig, controller, "job")
    controller.signal(signal.SIGSTOP)
    time.sleep(5)
    controller.signal(signal.SIGCONT)
    rig.assert_whole(controller.end(), reference)

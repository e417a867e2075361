"""Cut links: a lost connection is not a failed experiment."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rig import FULL, Controller, Reference, Rig, at

# Six seconds of silence, and up to two until somebody looks. The quick version shares its two
# processors with whatever else is tested, and the session's watch counts seconds in which it ran.
NOTICED_S = 8.0 if FULL else 12.0
OUTAGE_S = 60.0 if FULL else 12.0
EVERYWHERE = ["sync", "job", "fetch"]


def reached(rig: Rig, controller: Controller, place: str) -> None:
    if place == "job":
        rig.wait_for_log(controller, "line 000003")
        return
    if place == "sync":
        rig.wait_for(controller, "step.started", step="sync")
    else:
        rig.wait_for(controller, "job.state", state="SUCCEEDED")
    before = rig.link.passed
    controller.wait_until(lambda: rig.link.passed > before + 60_000)


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


@pytest.mark.parametrize("place", EVERYWHERE if FULL else ["sync", "fetch"])
def test_a_reset_link_is_got_back(rig: Rig, reference: Reference, place: str) -> None:
    controller = trouble(rig, place)
    cut = time.time()
    rig.link.reset()
    assert until_noticed(rig, controller, cut) < NOTICED_S
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    assert rig.events("pod.reconnected")
    if place == "job":
        assert rig.events("job.state", state="UNREACHABLE")


@pytest.mark.parametrize("place", EVERYWHERE if FULL else ["job"])
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


WORSE: dict[str, Callable[[Proxy], None]] = {
    "refuse": Proxy.refuse,
    "throttle": lambda link: link.throttle(60_000),
    "delay": lambda link: link.delay(0.1),
    "silence": Proxy.black_hole,
}
QUICK = [("refuse", "job"), ("throttle", "fetch"), ("delay", "sync")]


@pytest.mark.parametrize(
    ("fault", "place"), list(itertools.product(WORSE, EVERYWHERE)) if FULL else QUICK
)
def test_a_link_that_is_bad_for_a_while_is_sat_out(
    rig: Rig, reference: Reference, fault: str, place: str
) -> None:
    """Nothing is lost here, so nothing is to be got back."""
    controller = trouble(rig, place, seconds=2)
    WORSE[fault](rig.link)
    time.sleep(3)
    rig.link.heal()
    rig.assert_whole(controller.end(), reference)
    # rsync has an ssh session of its own, which may come too late to a closed door
    if (fault, place) != ("refuse", "sync"):
        assert not rig.events("pod.unreachable")


def test_a_pod_that_stays_away_ends_the_run_but_not_the_job(rig: Rig, reference: Reference) -> None:
    controller = rig.start("--reconnect-for", "3", seconds=1.0)
    reached(rig, controller, "job")
    rig.link.reset()
    outcome = controller.end()
    assert outcome.code == 6, outcome.stderr
    assert "orchestrate resume" in outcome.stderr
    assert "not back within 3 s" in outcome.stderr
    rig.link.heal()
    rig.assert_whole(rig.resume().end(), reference)


def test_a_restarted_sshd_is_connected_to_again(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=1.5)
    reached(rig, controller, "job")
    rig.server.kill()
    rig.wait_for(controller, "pod.unreachable")
    rig.server.start()
    rig.assert_whole(controller.end(), reference)


def test_a_sleeping_laptop_goes_on_where_it_was(rig: Rig, reference: Reference) -> None:
    """Longer than a silent link is borne, and the job ends meanwhile."""
    controller = rig.start(seconds=2)
    reached(rig, controller, "job")
    controller.signal(signal.SIGSTOP)
    time.sleep(9)
    controller.signal(signal.SIGCONT)
    rig.assert_whole(controller.end(), reference)


def test_a_laptop_that_wakes_up_elsewhere_connects_again(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=2)
    reached(rig, controller, "job")
    controller.signal(signal.SIGSTOP)
    rig.link.reset()
    time.sleep(60 if FULL else 3)
    rig.link.heal()
    controller.signal(signal.SIGCONT)
    rig.assert_whole(controller.end(), reference)
    assert rig.events("pod.reconnected")


def test_a_key_that_is_refused_for_a_while_leaves_the_job_alone(
    rig: Rig, reference: Reference
) -> None:
    """Not worth trying again, but no reason to begin the job again beside itself."""
    controller = rig.start(seconds=3)
    reached(rig, controller, "job")
    keys, away = rig.server.folder / "id.pub", rig.server.folder / "id.away"
    rig.server.kill()
    keys.rename(away)
    rig.server.start()
    outcome = controller.end()
    assert (outcome.code, outcome.last["verdict"]) == (3, "INFRA")
    assert "refused key" in outcome.stderr
    assert "orchestrate attach" in outcome.stderr
    assert rig.run is not None
    assert not (rig.run / "phase-2/dense/1/result.json").exists()
    away.rename(keys)
    rig.assert_whole(rig.resume().end(), reference)


def test_ctrl_c_while_the_pod_is_away_detaches(rig: Rig, reference: Reference) -> None:
    controller = rig.start(seconds=3)
    reached(rig, controller, "job")
    rig.link.reset()
    rig.wait_for(controller, "pod.unreachable")
    controller.signal(signal.SIGINT)
    outcome = controller.end()
    assert outcome.code == 130
    assert "orchestrate attach" in outcome.stderr
    assert "orchestrate cancel" in outcome.stderr
    assert rig.events("job.detached")
    rig.link.heal()
    rig.assert_whole(rig.resume().end(), reference)


def test_a_job_whose_directory_is_gone_is_lost_not_begun_again(rig: Rig) -> None:
    controller = rig.start(seconds=3)
    reached(rig, controller, "job")
    rig.link.reset()
    rig.wait_for(controller, "pod.unreachable")
    shutil.rmtree(rig.job("dense"))
    rig.link.heal()
    outcome = controller.end()
    assert (outcome.code, outcome.last["verdict"]) == (3, "INFRA")
    assert rig.events("job.state", state="LOST")
    assert rig.starts() == ["dense"]


CUT = """\
import os
from pathlib import Path
pid = os.getppid()
while not Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
    pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
os.kill(pid, 9)
"""
"""Ends the session that it is started in."""


def test_a_link_that_is_up_and_of_no_use_does_not_go_on_for_ever(rig: Rig) -> None:
    cut = rig.folder / "cut.py"
    cut.write_text(CUT)
    rig.run_by(cut)
    outcome = rig.start("--reconnect-for", "3").end()
    assert outcome.code == 6, outcome.stderr
    assert "not back within 3 s" in outcome.stderr
    assert len(rig.events("pod.reconnected")) > 1

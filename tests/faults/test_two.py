"""Two controllers on one pod: what they measure, they measure one after the other."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rig import Reference, Rig
from tests.faults.server import Server


@pytest.fixture
def gpu() -> Iterator[int]:
    """A device that no test beside this one has; its lock is the whole pod's."""
    number = 1_000_000 + os.getpid()
    yield number
    Path(f"/tmp/orchestrate-device.lock.{number}").unlink(missing_ok=True)


@pytest.fixture
def rigs(tmp_path: Path, server: Server) -> Iterator[list[Rig]]:
    """Two people with a repository each, and one pod."""
    with Proxy((server.host, server.port)) as proxy:
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            made.append(Rig(tmp_path / name, server, proxy, pod=tmp_path / "pod"))
        yield made


def brings_other_code(rig: Rig) -> None:
    """Somebody else's push to the same workdir."""
    work = rig.lab.repo / "work.py"
    work.write_text(f"print('OTHER CODE')\n{work.read_text()}")
    assert rig.start("--phase", "0").end().code == 0


def logs(rig: Rig) -> list[str]:
    assert rig.run is not None
    return [log.read_text() for log in sorted(rig.run.glob("phase-2/*/*/log"))]


def interval(rig: Rig, step: str) -> tuple[float, float]:
    """Of the step's job, by the pod's clock."""
    result = json.loads((rig.job(step) / "result.json").read_text())
    return result["started_at"], result["ended_at"]


def test_two_at_once_take_turns(rigs: list[Rig], reference: Reference, gpu: int) -> None:
    running = [rig.start(exclusive=True, gpu=gpu, seconds=1) for rig in rigs]
    for rig, controller in zip(rigs, running, strict=True):
        rig.assert_whole(controller.end(), reference)
    spans = sorted(interval(rig, step) for rig in rigs for step in ("dense", "varlen"))
    for (_, ended), (began, _) in itertools.pairwise(spans):
        assert ended <= began
    assert [event for rig in rigs for event in rig.events("job.waiting")]


def test_the_first_one_killed_frees_the_second(
    rigs: list[Rig], reference: Reference, gpu: int
) -> None:
    one, two = rigs
    first = one.start(exclusive=True, gpu=gpu, seconds=60, lines=600)
    one.wait_for_log(first, "line 000003")
    second = two.start(exclusive=True, gpu=gpu, seconds=0.5)
    two.wait_for(second, "job.waiting")
    assert two.events("job.waiting")[0]["holder"]["job_id"] == one.job("dense").name
    first.kill()  # its job goes on, and has the device
    time.sleep(1)
    assert two.starts() == []
    group = one.command("dense")
    os.kill(one.supervisor("dense"), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    two.assert_whole(second.end(), reference)
    assert one.resume().end().code == 3
    assert one.starts() == ["dense"]


def test_code_that_came_while_a_job_ran_decides_nothing(
    rigs: list[Rig], reference: Reference
) -> None:
    one, two = rigs
    first = one.start(seconds=2)
    one.wait_for_log(first, "line 000003")
    os.kill(one.command("dense"), signal.SIGSTOP)
    brings_other_code(two)
    os.kill(one.command("dense"), signal.SIGCONT)
    outcome = first.end()
    assert (outcome.code, outcome.last["verdict"]) == (3, "INFRA")
    assert outcome.last["decision"]["outcome"] == "UNDECIDED"
    assert "was replaced while this job ran" in json.dumps(outcome.last["reasons"])
    again = one.resume().end()
    assert again.last["decision"] == reference.decision
    assert one.starts() == ["dense", "dense", "varlen"]
    assert not any("OTHER CODE" in log for log in logs(one))


def test_code_that_came_between_two_jobs_is_replaced(rigs: list[Rig], reference: Reference) -> None:
    one, two = rigs
    one.start(program=("tests.faults.doomed", "gate dense", "after")).end()
    brings_other_code(two)
    one.assert_whole(one.resume().end(), reference)
    assert not any("OTHER CODE" in log for log in logs(one))


def test_what_is_left_of_a_run_gets_its_code_to_an_emptied_pod(
    rigs: list[Rig], reference: Reference
) -> None:
    one, _ = rigs
    one.start(program=("tests.faults.doomed", "gate dense", "after")).end()
    shutil.rmtree(one.pod)
    outcome = one.resume().end()
    assert outcome.last["decision"] == reference.decision
    assert one.starts() == ["dense", "varlen"]


def test_a_repository_that_changes_under_a_run_is_not_pushed(rigs: list[Rig]) -> None:
    one, _ = rigs
    controller = one.start()
    one.wait_for(controller, "run.created")
    (one.lab.repo / "work.py").write_text("print('LATER CODE')\n")
    outcome = controller.end()
    assert outcome.code == 3
    assert "has changed since run" in outcome.stderr
    assert not (one.pod / "work.py").exists()

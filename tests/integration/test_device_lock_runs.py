"""One measuring job per device: whole runs side by side."""

from __future__ import annotations

import getpass
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agents import eventually, none_of, processes_of
from tests.integration.intervals import assert_apart, interval
from tests.integration.lab import Controller, Lab


@pytest.fixture
def labs(tmp_path: Path) -> list[Lab]:
    """Two repositories on the embedded pods of one cache; their jobs write down when they ran."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        lab.env["ORCHESTRATE_CACHE"] = str(tmp_path / "cache")
        for program in ("parity.py", "bench.py"):
            path = lab.repo / program
            source = path.read_text()
            head, _, body = source.partition('"""\n')
            path.write_text(
                f'{head}"""\nimport time\nbegan = time.time()\n{body}\ntime.sleep(0.3)\n'
                'with open(os.environ["ORCH_OUT"] + "/began", "w") as file: print(began, file=file)'
                '\nwith open(os.environ["ORCH_OUT"] + "/ended", "w") as file:'
                " print(time.time(), file=file)\n"
            )
        lab.git("commit", "-q", "-a", "-m", "timestamps")
        made.append(lab)
    return made


def started(lab: Lab, *arguments: str) -> Controller:
    playbook = str(lab.repo / "playbook.yaml")
    return lab.begin("run", playbook, "--json", "--phase", "0-2", *arguments)


def events(lab: Lab, name: str) -> list[dict[str, Any]]:
    logs = lab.runs_dir.glob("*/events.jsonl")
    lines = [line for log in logs for line in log.read_text().splitlines(keepends=True)]
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in whole if event["event"] == name]


def the_run(lab: Lab) -> str:
    (run,) = lab.runs_dir.glob("*/run.json")
    return run.parent.name


def job_outputs(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("cache/embedded/work/*/.orchestrate/jobs/*/out"))


def test_two_runs_at_once_measure_one_after_the_other(labs, tmp_path):
    for controller in [started(lab, "--set", "seconds=2") for lab in labs]:
        outcome = controller.end()
        assert outcome.code == 0, outcome.stderr
        assert outcome.last["decision"]["outcome"] == "ENABLE"
    outputs = job_outputs(tmp_path)
    assert len(outputs) == 6
    assert_apart([interval(out) for out in outputs])
    waits = [event for lab in labs for event in events(lab, "job.waiting")]
    assert waits
    jobs = {out.parent.name for out in outputs}
    for wait in waits:
        assert wait["holder"]["job_id"] in jobs - {wait["job"]}
        assert wait["holder"]["user"] == getpass.getuser()


def test_the_second_run_goes_on_when_the_first_is_killed_with_its_job(labs, tmp_path):
    first = started(labs[0], "--set", "seconds=60")
    jobs = tmp_path / "cache/embedded/work"
    assert eventually(lambda: list(jobs.glob("*/.orchestrate/jobs/*/log")))
    second = started(labs[1])
    assert eventually(lambda: events(labs[1], "job.waiting"))
    first.kill()  # its job goes on, and has the device
    time.sleep(1)
    assert not second.over
    cancelled = labs[0].call("cancel", "--json")
    assert cancelled.code == 0, cancelled.stderr
    outcome = second.end()
    assert outcome.code == 0, outcome.stderr


def test_a_second_run_that_does_not_wait_names_the_holder(labs, tmp_path):
    first = started(labs[0], "--set", "seconds=60")
    jobs = tmp_path / "cache/embedded/work"
    assert eventually(lambda: list(jobs.glob("*/.orchestrate/jobs/*/log")))
    second = labs[1].run("--phase", "0-2", "--no-wait")
    assert second.code == 3
    holder = f"taken by job {the_run(labs[0])}"
    assert holder in second.stderr, second.stderr
    assert "without --no-wait" in second.stderr
    third = started(labs[1])
    third.wait_until(lambda: "waiting for the device" in third.said)
    for controller in (third, first):
        controller.signal(signal.SIGINT)
        outcome = controller.end()
        if controller is third:
            user = getpass.getuser()
            assert f"waiting for the device: job {the_run(labs[0])}" in outcome.stderr
            assert f"of {user} (process " in outcome.stderr


def test_an_interrupted_wait_leaves_nothing_behind(labs, tmp_path):
    first = started(labs[0], "--set", "seconds=60")
    jobs = tmp_path / "cache/embedded/work"
    assert eventually(lambda: list(jobs.glob("*/.orchestrate/jobs/*/log")))
    second = started(labs[1])
    assert eventually(lambda: events(labs[1], "job.waiting"))
    for controller in (second, first):
        controller.signal(signal.SIGINT)
        assert controller.end().code == 130
    assert none_of(jobs), processes_of(jobs)
    assert len(list(jobs.glob("*/.orchestrate/jobs/*/log"))) == 1

"""Killed controllers: what they leave is gone on with, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from orchestrator.store.events import EventLog
from orchestrator.store.jobs import unfinished_jobs
from orchestrator.store.paths import RunPaths
from tests.integration.lab import Controller, Lab


def begun(lab: Lab, marker: str, *settings: str) -> Controller:
    """A run that has printed `marker`."""
    sets = [word for setting in settings for word in ("--set", setting)]
    controller = lab.begin("run", str(lab.repo / "playbook.yaml"), *sets)
    controller.wait_until(lambda: marker in controller.said)
    return controller


def job_logs(lab: Lab) -> list[Path]:
    return sorted(lab.repo.parent.glob("cache/embedded/work/*/.orchestrate/jobs/*/log"))


def run_of(lab: Lab) -> str:
    (plan,) = lab.runs_dir.glob("*/run.json")
    return plan.parent.name


@pytest.mark.parametrize(
    "marker", ["sync:", "| collecting", "parity parity.xml", "dense: dense", "decision:"]
)
def test_a_killed_run_is_resumed_to_the_same_decision(lab: Lab, marker: str) -> None:
    begun(lab, marker, "seconds=1").kill()
    done = lab.call("resume", "--json")
    assert done.code == 0, done.stderr
    assert done.last["decision"]["outcome"] == "ENABLE"
    logs = job_logs(lab)
    assert len(logs) == 3  # parity, dense, varlen: each was started exactly once
    assert [log.read_text().count("collecting") for log in logs if ".parity." in str(log)] == [1]
    attempts = [p.name for p in done.run.glob("phase-*/*/*") if p.is_dir()]
    assert set(attempts) == {"1"}
    local = (done.run / "phase-1/parity/1/log").read_bytes()
    assert local == next(log for log in logs if ".parity." in str(log)).read_bytes()


def test_a_finished_run_is_resumed_to_nothing(lab: Lab) -> None:
    first = lab.run("--phase", "0-2")
    before = (first.run / "sel_dense.csv").read_bytes()
    states = json.loads(lab.call("explain", "--json").stdout)
    assert {state["does"] for state in states} == {"reuse"}
    again = lab.call("resume", "--json")
    assert again.code == 0
    assert again.last["run_id"] == first.last["run_id"]
    assert (first.run / "sel_dense.csv").read_bytes() == before
    assert len(job_logs(lab)) == 3


def test_explain_tells_what_began_from_what_did_not(lab: Lab) -> None:
    begun(lab, "| collecting", "seconds=30").kill()
    states = {s["step"]: s["does"] for s in json.loads(lab.call("explain", "--json").stdout)}
    assert (states["sync"], states["parity"], states["dense"]) == ("reuse", "go on", "run")
    assert json.loads(lab.call("cancel", "--json").stdout)["cancelled"] == [
        f"{run_of(lab)}.1.parity.1"
    ]
    done = lab.call("resume", "--json")
    assert done.code == 4
    assert "cancelled" in json.dumps(done.last["reasons"])


def test_a_run_is_written_by_one_controller(lab: Lab) -> None:
    controller = begun(lab, "| collecting", "seconds=20")
    try:
        refused = lab.call("resume")
        assert refused.code == 2
        assert f"process {controller.pid}" in refused.stderr
    finally:
        controller.signal(signal.SIGINT)
        controller.end()


def test_a_changed_repository_is_not_resumed(lab: Lab) -> None:
    begun(lab, "| collecting", "seconds=1").kill()
    (lab.repo / "kernels" / "kernel.py").write_text("changed = True\n")
    refused = lab.call("resume")
    assert refused.code == 2
    assert "has changed since run" in refused.stderr


def test_fetch_pulls_again_what_was_lost_here(lab: Lab) -> None:
    done = lab.run("--phase", "0-2")
    csv = done.run / "phase-2/dense/1/artifacts/sel_dense.csv"
    content = csv.read_bytes()
    csv.unlink()
    (done.run / "phase-1/parity/1/log").unlink()
    fetched = json.loads(lab.call("fetch", "--json").stdout)
    assert {artifact["path"] for artifact in fetched} == {
        "parity.xml", "telemetry.csv", "sel_dense.csv", "sel_dense.canary.csv", "sel_varlen.csv",
        "sel_varlen.canary.csv",
    }  # fmt: skip
    assert csv.read_bytes() == content
    assert b"collecting" in (done.run / "phase-1/parity/1/log").read_bytes()
    assert len(job_logs(lab)) == 3


def test_logs_are_followed_while_a_controller_writes(lab: Lab) -> None:
    controller = begun(lab, "| collecting", "seconds=3")
    start = time.monotonic()
    logs = lab.call("logs", "-f", "--step", "parity")
    assert "collecting" in logs.stdout
    assert "3 cases" in logs.stdout  # written after the command began
    assert time.monotonic() - start > 1
    controller.end()


def test_fetch_keeps_what_was_pulled_and_passes_over_what_is_gone(lab: Lab) -> None:
    done = lab.run("--phase", "0-2")
    csv = done.run / "phase-2/dense/1/artifacts/sel_dense.csv"
    content = csv.read_bytes()
    jobs = {log.parent.name.split(".")[2]: log.parent for log in job_logs(lab)}
    (jobs["dense"] / "out" / "sel_dense.csv").write_bytes(content.replace(b"64", b"65", 1))
    shutil.rmtree(jobs["parity"])
    fetched = lab.call("fetch")
    assert fetched.code == 0, fetched.stderr
    assert "sel_dense.csv" in fetched.stdout
    assert "is not on the pod what it was when it was pulled" in fetched.stdout
    assert ".parity.1 any more: nothing to fetch of it" in fetched.stdout
    assert csv.read_bytes() == content
    events = [json.loads(line) for line in (done.run / "events.jsonl").read_text().splitlines()]
    skipped = [event["job"] for event in events if event["event"] == "fetch.skipped"]
    assert skipped == [jobs["parity"].name, jobs["dense"].name]
    assert not [event for event in events if event["event"] == "step.error"]
    assert json.loads(lab.call("status", "--json").stdout)["verdict"] == "PASS"


def test_a_job_that_runs_after_its_end_was_noted_is_unfinished(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    events = EventLog(paths.events)
    for job in ("first", "second"):
        events.append("job.submitting", job=job, source=None)
    assert unfinished_jobs(paths) == ["first", "second"]
    events.append("job.state", job="first", state="LOST")  # by a `cancel` beside the controller
    assert unfinished_jobs(paths) == ["second"]
    events.append("job.state", job="first", state="RUNNING")
    assert unfinished_jobs(paths) == ["first", "second"]
    events.append("job.state", job="second", state="SUCCEEDED")
    assert unfinished_jobs(paths) == ["first"]

"""Cancelling the pod's agent: before, during and after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from tests.integration.agents import eventually, every_python


@every_python
def test_cancel_stops_the_whole_group(agent):
    agent.submit("trap '' TERM; sleep 60 & echo ready; wait; sleep 60")
    assert eventually(lambda: (agent.dir / "log").stat().st_size)
    first = agent("cancel")
    assert (first["state"], first["result"]["reason"]) == ("CANCELLED", None)
    assert first["result"]["signal"] == signal.SIGKILL
    assert agent("cancel") == first


def test_cancel_reaches_a_stopped_job(agent):
    status = agent.submit("sleep 60")
    os.kill(status["pid"], signal.SIGSTOP)
    os.kill(status["supervisor_pid"], signal.SIGSTOP)
    assert agent("cancel")["result"]["signal"] == signal.SIGTERM


def test_cancel_before_the_start_prevents_it(agent, tmp_path):
    script = f"touch {tmp_path}/ran"
    agent.dir.mkdir(parents=True)
    spec = json.loads(agent.spec(script))
    del spec["argv"]
    assert "fields" in agent("submit", stdin=json.dumps(spec), exit_code=2)["error"]
    agent.run(f"touch {tmp_path}/ran")
    (tmp_path / "ran").unlink()
    for path in agent.dir.iterdir():
        if path.name not in ("job.json", "out"):
            path.unlink()
    assert agent("cancel")["result"]["started_at"] is None
    assert agent.submit(script)["state"] == "CANCELLED"
    assert not (tmp_path / "ran").exists()


@every_python
@pytest.mark.parametrize("there", [False, True], ids=["nothing", "an-empty-folder"])
def test_a_job_cancelled_before_it_came_is_never_started(agent, tmp_path, there):
    if there:
        agent.dir.mkdir(parents=True)
    assert agent("cancel")["state"] == agent("status")["state"] == "CANCELLED"
    answer = agent.submit(f"touch {tmp_path}/ran")
    assert (answer["state"], answer["created"]) == ("CANCELLED", False)
    assert answer["result"]["started_at"] is None
    said = subprocess.run(
        agent.command("run", 0, 10, 10),
        input=agent.spec(f"touch {tmp_path}/ran").encode(),
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout.splitlines()
    assert json.loads(said[0])["status"]["state"] == "CANCELLED"
    assert json.loads(said[-1])["manifest"]["files"] == []
    assert agent("cancel")["state"] == "CANCELLED"
    assert not (tmp_path / "ran").exists()
    assert [path.name for path in agent.dir.parent.iterdir()] == [agent.dir.name]


def test_a_cancellation_that_races_with_the_submission_wins_or_stops_it(agent):
    first = agent.dir
    for number in range(10):
        agent.dir = first.with_name(f"race{number}")
        spec = agent.spec("sleep 60")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        submitting = subprocess.Popen(agent.command("submit"), **pipes)
        time.sleep(0.01 * number)
        cancelling = subprocess.Popen(agent.command("cancel"), stdout=subprocess.PIPE)
        answer = json.loads(submitting.communicate(spec.encode(), timeout=20)[0])
        cancelled = json.loads(cancelling.communicate(timeout=20)[0])
        assert cancelled["state"] == agent("status")["state"] == "CANCELLED", (answer, cancelled)
        assert not agent("status")["command_alive"]


def test_a_directory_that_is_not_a_job_is_not_cancelled(agent):
    agent.dir.mkdir(parents=True)
    (agent.dir / "mine").touch()
    assert "not a job" in agent("cancel", exit_code=3)["error"]
    assert [path.name for path in agent.dir.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "forge",
    [
        """echo '{"state": "SUCCEEDED"}' >""",
        "echo {} >",
        "echo not JSON >",
        "mkdir -p result.json/full ",
    ],
    ids=["state", "empty", "no-json", "folder"],
)
def test_a_result_that_the_job_wrote_itself_counts_for_nothing(agent, tmp_path, forge):
    until_asked = f"until [ -e {tmp_path}/asked ]; do sleep 0.05; done"
    agent.submit(f"cd $ORCH_JOB_DIR; {forge}result.json; echo done; {until_asked}; exit 7")
    assert eventually(lambda: agent.log() == "done\n")
    assert agent("status")["state"] == "RUNNING"
    (tmp_path / "asked").touch()
    ended = agent.wait()
    assert (ended["state"], ended["result"]["exit_code"]) == ("FAILED", 7)


def test_a_cancel_is_not_fooled_by_a_result_that_the_job_wrote_itself(agent):
    agent.submit("""echo '{"state": "SUCCEEDED"}' >$ORCH_JOB_DIR/result.json; echo up; sleep 60""")
    assert eventually(lambda: agent.log() == "up\n")
    assert agent("cancel")["state"] == "CANCELLED"


def test_cancel_after_the_end_changes_nothing(agent):
    agent.run("true")
    assert agent("cancel")["state"] == "SUCCEEDED"
    assert not (agent.dir / "cancelled").exists()

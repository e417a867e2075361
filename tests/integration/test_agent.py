"""The pod's agent, with real processes: how a job ends, and that it starts once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.agents import AGENT, LEAVES, every_python


@every_python
def test_success_is_recorded_with_what_the_controller_needs(agent):
    answer = agent.submit('echo hello; echo oops >&2; echo "$ORCH_OUT $ORCH_JOB_DIR $COLOUR"; pwd',
                          env={"COLOUR": "grün"}, cwd="/usr")  # fmt: skip
    assert answer["created"]
    result = agent.wait()["result"]
    assert agent.log() == f"hello\noops\n{agent.dir}/out {agent.dir} grün\n/usr\n"
    assert (result["state"], result["reason"], result["exit_code"]) == ("SUCCEEDED", None, 0)
    assert result["signal"] is result["hint"] is None
    assert result["job_id"] == "j1"
    assert result["log_bytes"] == (agent.dir / "log").stat().st_size
    assert result["log_sha256"] == hashlib.sha256((agent.dir / "log").read_bytes()).hexdigest()
    assert 0 < result["duration_s"] < 30
    assert 0 < result["ended_at"] - result["started_at"] < 30
    assert 1 << 20 < result["max_rss_bytes"] < 1 << 30
    assert (agent.dir.stat().st_mode & 0o777) == 0o700


def test_exit_code_and_signal_are_told_apart(agent):
    result = agent.run("exit 7")
    assert (result["state"], result["reason"], result["exit_code"]) == ("FAILED", "exit", 7)
    agent.dir = agent.dir.with_name("j2")
    result = agent.run("kill -SEGV $$")
    assert (result["reason"], result["signal"], result["exit_code"]) == ("signal", 11, None)


def test_sigkill_from_outside_is_not_called_oom(agent):
    result = agent.run("kill -KILL $$")
    assert (result["state"], result["reason"], result["signal"]) == ("FAILED", "signal", 9)
    assert "outside" in result["hint"]


@every_python
def test_timeout_kills_what_ignores_term(agent):
    result = agent.run("trap '' TERM; (trap '' TERM; sleep 60) & sleep 60 & wait", timeout_s=0.2)
    assert (result["state"], result["reason"], result["signal"]) == ("FAILED", "timeout", 9)
    assert result["duration_s"] < 30


def test_a_stopped_command_may_clean_up_with_its_children(agent):
    child = "trap 'sleep 0.2; echo cleaned; exit 0' TERM; while :; do sleep 0.05; done"
    agent.run(f"({child}) & wait", timeout_s=0.3, kill_after_s=5)
    assert agent.log().endswith("cleaned\n")  # bash reports the sleep that TERM ended, too


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "says"),
    [
        (["/no/such/program"], "/", 127, "/no/such/program: No such file"),
        (["/etc/passwd"], "/", 126, "/etc/passwd: Permission denied"),
        (["true"], "/no/such/place", 127, "/no/such/place"),
    ],
)
def test_what_cannot_start_says_why(agent, argv, cwd, code, says):
    result = agent.run("", argv=argv, cwd=cwd)
    assert (result["state"], result["reason"], result["exit_code"]) == ("FAILED", "exit", code)
    assert says in agent.log()
    assert says in result["hint"]


def test_leftovers_of_the_group_are_killed_and_late_output_is_kept(agent):
    result = agent.run("sleep 60 >/dev/null 2>&1 & exec > >(sleep 0.3; cat); echo late")
    assert result["state"] == "SUCCEEDED"
    assert agent.log() == "late\n"


def test_a_process_that_left_the_group_cannot_hold_the_result_back(agent):
    began = time.monotonic()
    result = agent.run(f"{LEAVES} & until [ -s pid ]; do sleep 0.05; done; echo done")
    os.kill(int((agent.dir / "pid").read_text()), signal.SIGKILL)
    assert result["state"] == "SUCCEEDED"
    assert agent.log() == "done\n"
    assert time.monotonic() - began < 30


def test_a_pod_shutting_down_is_not_a_result_of_the_experiment(agent):
    status = agent.submit("sleep 60")
    os.kill(status["supervisor_pid"], signal.SIGTERM)
    result = agent.wait()["result"]
    assert (result["state"], result["reason"]) == ("FAILED", "signal")
    assert "shutting down" in result["hint"]


def test_the_supervisor_is_detached_and_ignores_hangups(agent):
    status = agent.submit("trap - HUP; grep SigIgn /proc/self/status; sleep 0.3")
    pid = status["supervisor_pid"]
    os.kill(pid, signal.SIGHUP)
    assert os.getsid(pid) not in (os.getsid(0), pid)
    assert os.getsid(status["pid"]) == status["pid"]
    descriptors = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    assert not any(name.startswith("/dev/pts") for name in descriptors)
    assert agent.wait()["state"] == "SUCCEEDED"
    ignored = int(agent.log().split()[1], 16)
    assert not ignored & 1 << (signal.SIGHUP - 1)
    assert not ignored & 1 << (signal.SIGPIPE - 1)


# -- a job starts once


@every_python
def test_eight_racing_submissions_start_it_once(agent, tmp_path):
    spec = agent.spec(f"echo started >>{tmp_path}/starts; sleep 0.3")
    racers = [
        subprocess.Popen(agent.command("submit"), stdin=-1, stdout=-1, text=True) for _ in range(8)
    ]
    answers = []
    for racer in racers:  # all wait for their spec, then go at once
        racer.stdin.write(spec)
    for racer in racers:
        racer.stdin.close()
    for racer in racers:
        with racer:
            answers.append(json.loads(racer.stdout.read()))
    assert sorted(answer["created"] for answer in answers) == [False] * 7 + [True]
    assert {answer["state"] for answer in answers} <= {"RUNNING", "SUCCEEDED"}
    assert agent.wait()["state"] == "SUCCEEDED"
    assert (tmp_path / "starts").read_text() == "started\n"
    assert list(agent.dir.parent.iterdir()) == [agent.dir]


def test_submissions_killed_at_any_time_start_it_at_most_once(agent, tmp_path):
    for attempt in range(5):
        agent.dir = tmp_path / "jobs" / f"k{attempt}"
        starts = tmp_path / f"starts-{attempt}"
        spec = agent.spec(f"echo started >>{starts}; sleep 0.1")
        with subprocess.Popen(agent.command("submit"), stdin=-1, stdout=-1, text=True) as victim:
            victim.stdin.write(spec)
            victim.stdin.close()
            time.sleep(0.02 + attempt * 0.015)
            victim.kill()
        agent("submit", stdin=spec)
        assert agent.wait()["state"] == "SUCCEEDED"
        assert starts.read_text() == "started\n"


def test_a_submission_that_died_half_way_is_finished_by_the_next(agent, tmp_path):
    agent.run(f"echo started >>{tmp_path}/starts")
    for path in agent.dir.iterdir():  # as if it had died right after the rename
        if path.name not in ("job.json", "out"):
            path.unlink()
    assert agent("status")["state"] == "SUBMITTED"
    follower = subprocess.run(agent.command("follow", 0), stdout=-1, check=True, timeout=20)
    assert follower.stdout == b""
    assert agent.submit(f"echo started >>{tmp_path}/starts")["created"]
    assert agent.wait()["state"] == "SUCCEEDED"
    assert not agent.submit(f"echo started >>{tmp_path}/starts")["created"]
    assert (tmp_path / "starts").read_text() == "started\n" * 2


@every_python
def test_a_killed_supervisor_means_lost_and_is_never_restarted(agent, tmp_path):
    script = f"echo started >>{tmp_path}/starts; sleep 60"
    status = agent.submit(script)
    os.kill(status["supervisor_pid"], signal.SIGKILL)
    lost = agent.wait()
    assert (lost["state"], lost["result"], lost["command_alive"]) == ("LOST", None, True)
    again = agent.submit(script)
    assert (again["state"], again["created"]) == ("LOST", False)
    assert subprocess.run(agent.command("follow", 0), check=True, timeout=20, stdout=-1)
    cancelled = agent("cancel")  # stops what the supervisor left behind
    assert (cancelled["state"], cancelled["command_alive"]) == ("LOST", False)
    assert (tmp_path / "starts").read_text() == "started\n"


def test_identity_is_more_than_a_pid(agent):
    agent.run("true")
    (agent.dir / "result.json").unlink()
    process = json.loads((agent.dir / "process.json").read_text())
    process["supervisor"]["pid"] = os.getpid()  # the number lives, as another process
    (agent.dir / "process.json").write_text(json.dumps(process))
    assert agent("status")["state"] == "LOST"


def test_another_job_in_the_same_place_is_refused(agent):
    agent.run("true")
    for change in ({"cwd": "/"}, {"env": {"A": "1"}}, {"timeout_s": 5}, {"secrets": {"T": "x9x9"}}):
        answer = agent.submit("true", exit_code=3, **change)
        assert "differ" in answer["error"]


def test_version_and_usage(agent):
    done = subprocess.run([agent.python, "-IS", AGENT, "version"], stdout=-1, text=True, check=True)
    assert json.loads(done.stdout)["version"] == 1
    for wrong in (["frobnicate"], [], ["status"], ["follow", "x"]):
        done = subprocess.run(
            [agent.python, "-IS", AGENT, *wrong], capture_output=True, check=False
        )
        assert done.returncode == 2
        assert b"usage" in (done.stdout or done.stderr)


@pytest.mark.parametrize(
    "fields",
    [{"argv": "ls -l"}, {"argv": []}, {"env": {"A=B": "1"}}, {"timeout_s": 0}, {"argv": ["a\0b"]},
     {"timeout_s": True}, {"secrets": {"T": ""}}, {"cwd": "here"}, {"surprise": 1},
     {"lock": "lock"}, {"lock": 1}, {"lock_wait": None}],
    ids=str,
)  # fmt: skip
def test_a_bad_spec_is_refused_and_leaves_nothing(agent, fields):
    assert "bad spec" in agent.submit("true", exit_code=2, **fields)["error"]
    assert not agent.dir.parent.exists()


def test_nothing_is_assumed_about_a_directory_that_is_not_a_job(agent):
    assert agent("status")["state"] == "ABSENT"
    agent.dir.mkdir(parents=True)
    (agent.dir / "mine").touch()
    assert "not a job" in agent.submit("true", exit_code=3)["error"]
    assert list(agent.dir.parent.iterdir()) == [agent.dir]
    assert "no job" in agent("manifest", exit_code=3)["error"]

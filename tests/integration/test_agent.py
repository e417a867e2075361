"""The pod's agent, with real processes: nothing here is a stand-in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.agents import AGENT, LEAVES, Agent, eventually, every_python

SECRET = "tiger-7Yq"  # noqa: S105 - the one that must not be found


# -- how a job ends


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


# -- cancelling


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


# -- the log


def test_follow_resumes_where_it_was_cut_without_loss_or_repetition(agent):
    agent.submit("for i in $(seq 1 150); do echo line $i; sleep 0.003; done")
    received = b""
    for _ in range(3):
        with subprocess.Popen(agent.command("follow", len(received)), stdout=-1) as follower:
            received += os.read(follower.stdout.fileno(), 100)
            follower.kill()
            received += follower.stdout.read()
    last = subprocess.run(agent.command("follow", len(received)), stdout=-1, check=True, timeout=20)
    assert (received + last.stdout).decode() == "".join(f"line {i}\n" for i in range(1, 151))
    assert agent("status")["result"]  # follow ends only when there is one


def test_follow_carries_20_mb(agent):
    agent.submit("seq 1 2700000")
    followed = subprocess.run(agent.command("follow", 0), stdout=-1, check=True, timeout=20).stdout
    result = agent("status")["result"]
    assert len(followed) == result["log_bytes"] > 20e6
    assert hashlib.sha256(followed).hexdigest() == result["log_sha256"]
    assert followed.endswith(b"\n2700000\n")


def test_follow_notices_that_nobody_reads(agent):
    agent.submit("sleep 60")
    with subprocess.Popen(agent.command("follow", 0), stdout=-1, stderr=-1) as follower:
        time.sleep(0.2)
        follower.stdout.close()
        assert follower.wait(20) == 0
        assert follower.stderr.read() == b""
    agent("cancel")


def test_follow_says_on_stderr_why_it_cannot(agent):
    done = subprocess.run(agent.command("follow", 0), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"")
    assert "no job" in json.loads(done.stderr)["error"]
    assert subprocess.run(agent.command("follow", "-1"), stderr=-1, check=False).returncode == 2


# -- secrets


def test_a_secret_is_used_and_masked_and_nowhere_to_be_found(agent, tmp_path):
    script = f"""
        [ "$TOKEN" = "$(printf 'tiger'; printf -- '-7Yq')" ] && echo same
        echo "all $TOKEN end"; printf "%s" "${{TOKEN:0:4}}"; sleep 0.3; echo "${{TOKEN:4}}!"
        printf "%s" "${{TOKEN:0:5}}"; until [ -e {tmp_path}/seen ]; do sleep 0.05; done
        """
    status = agent.submit(script, secrets={"TOKEN": SECRET})
    time.sleep(0.2)  # half of it is out now
    assert "tige" not in agent.log()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert SECRET.encode() not in (process / "cmdline").read_bytes()
    supervisor = Path(f"/proc/{status['supervisor_pid']}/environ")
    assert SECRET.encode() not in supervisor.read_bytes()
    (tmp_path / "seen").touch()
    assert agent.wait()["state"] == "SUCCEEDED"
    assert agent.log() == "same\nall *** end\n***!\ntiger"
    for path in agent.dir.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert json.loads((agent.dir / "job.json").read_text())["secret_names"] == ["TOKEN"]


def test_secrets_are_masked_wherever_reads_cut_them_and_however_they_overlap(agent, tmp_path):
    pieces = ["abab", "ab", "abcab", "cdx", "a", "babc", "bcde", "bcd", "aaaa", "aaa", "zab"]
    script = tmp_path / "script"
    script.write_text("".join(f"printf {piece}; sleep 0.02\n" for piece in pieces))
    agent.run("", argv=["bash", str(script)], secrets={"A": "ababc", "B": "bcde", "C": "aaa"})
    # ababababcabcdxababcbcdebcdaaaaaaazab: the union of all occurrences, touching ones apart
    assert agent.log() == "abab***abcdx******bcd***zab"


def test_a_long_masked_stream_arrives_whole(agent):
    secret = "heron-3Kq"  # noqa: S105 - not what the test above looks for in every command line
    command = f"yes 'line with '$TOKEN' and '{secret[:5]} | head -n 200000"
    result = agent.run(command, secrets={"TOKEN": secret})
    assert result["state"] == "SUCCEEDED"
    assert agent.log() == f"line with *** and {secret[:5]}\n" * 200000


@pytest.mark.parametrize("field", ["argv", "env"])
def test_a_secret_in_the_open_is_refused_without_repeating_it(agent, field):
    leak = {"argv": ["echo", f"--token={SECRET}"], "env": {"X": SECRET}}[field]
    answer = agent.submit("", exit_code=2, secrets={"TOKEN": SECRET}, **{field: leak})
    assert "TOKEN" in answer["error"]
    assert SECRET not in answer["error"]
    assert not agent.dir.exists()


# -- what a job leaves


@every_python
def test_manifest_lists_files_and_refuses_the_rest_by_name(agent):
    agent.run(
        r"""cd out; mkdir -p a/b; printf x >a/b/f; printf yy >$'odd\n"\' name'; : >$'\xff'
        ln -s /etc/passwd link; ln -s /etc up; mkfifo pipe; truncate -s 5000 big"""
    )
    manifest = agent("manifest", 4000)
    digest = hashlib.sha256(b"x").hexdigest()
    assert {"path": "a/b/f", "size": 1, "sha256": digest} in manifest["files"]
    assert [entry["path"] for entry in manifest["files"]] == ["a/b/f", "odd\n\"' name"]
    assert {entry["path"]: entry["reason"] for entry in manifest["refused"]} == {
        "big": "5000 bytes, more than 4000",
        "link": "symbolic link",
        "pipe": "fifo",
        "up": "symbolic link",
        "\\xff": "its name is not UTF-8",
    }
    assert manifest["free_bytes"] > 0
    assert len(agent("manifest")["files"]) == 3


def test_manifest_does_not_follow_out_itself(agent):
    agent.run("rmdir out; ln -s /etc out")
    manifest = agent("manifest")
    assert manifest["files"] == []
    assert manifest["refused"] == [{"path": ".", "reason": "symbolic link"}]


# -- running out of disk and memory


@pytest.fixture
def small_disk(agent, tmp_path):
    disk = tmp_path / "jobs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_log_that_fills_the_disk_ends_the_job_with_a_result(agent, small_disk):
    result = agent.run("yes")
    assert (result["state"], result["reason"]) == ("FAILED", "disk")
    assert "No space left" in result["hint"]
    logged = (agent.dir / "log").read_bytes()
    assert result["log_sha256"] == hashlib.sha256(logged).hexdigest()


def test_a_failure_on_a_full_disk_is_put_down_to_it(agent, small_disk):
    result = agent.run("cat /dev/zero >out/zeros")
    assert (result["state"], result["reason"]) == ("FAILED", "disk")
    assert re.search(r"out/ [34]\.\d MiB", result["hint"])
    assert agent("manifest")["free_bytes"] < 1 << 20


@pytest.mark.parametrize("unwritable", ["process.json.tmp", "started.tmp", "log"])
def test_a_record_that_cannot_be_written_ends_the_job_with_a_result(
    agent, python, tmp_path, unwritable
):
    """As where the command fills the disk before its pid is on it."""
    lock = str(tmp_path / "device")
    holder = Agent(python, tmp_path / "jobs" / "j0")
    waits = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    holder.submit(waits, job_id="j0", lock=lock)
    agent.submit("sleep 60", lock=lock)
    assert agent("status")["state"] == "SUBMITTED"
    (agent.dir / unwritable).mkdir()
    (tmp_path / "go").touch()
    result = agent.dir / "result.json"
    assert eventually(result.exists)
    ended = json.loads(result.read_text())
    assert (ended["state"], ended["reason"]) == ("FAILED", "disk")
    assert ended["hint"].startswith(f"{unwritable}: Is a directory; ")


def test_too_little_space_refuses_the_start(agent):
    answer = agent.submit("true", exit_code=3, min_free_bytes=1 << 60)
    assert "MiB free at" in answer["error"]
    assert agent("status")["state"] == "ABSENT"


def test_too_little_space_names_the_jobs_that_hold_it(agent):
    for name, size in (("small", 1), ("large", 3)):
        agent.dir = agent.dir.with_name(name)
        agent.run(f"head -c {size}M /dev/urandom >out/data; echo {size}")
    agent.dir = agent.dir.with_name("j1")
    answer = agent.submit("true", exit_code=3, min_free_bytes=1 << 60)
    assert re.search(r"2 jobs in \S+/jobs hold 4\.\d MiB, large 3\.\d MiB of it", answer["error"])


@pytest.fixture
def memory_cgroup(tmp_path):
    """A cgroup limited to 64 MB, where the machine lets us make one (v1 or v2)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        group = Path("/sys/fs/cgroup") / controllers / path.lstrip("/") / f"test-{os.getpid()}"
        limit = group / ("memory.limit_in_bytes" if controllers else "memory.max")
        with contextlib.suppress(OSError):
            group.mkdir()
        if not limit.exists():
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        limit.write_text(str(64 << 20))
        yield group
        assert eventually(lambda procs=group / "cgroup.procs": not procs.read_text())
        group.rmdir()
        return
    pytest.skip("needs the right to make a memory cgroup")


@pytest.mark.parametrize(
    ("script", "state", "reason", "hint"),
    [
        ("echo torch.OutOfMemoryError: CUDA out of memory.; yes | head -c 50000; exit 1",
         "FAILED", "exit", "CUDA out of memory"),
        ("echo CUDA out of memory; yes | head -c 70000; exit 1", "FAILED", "exit", None),
        ("echo CUDA out of memory, tried again", "SUCCEEDED", None, None),
        ("echo CUDA out of memory; kill -SEGV $$", "FAILED", "signal", None),
        ("echo out of memory; exit 1", "FAILED", "exit", None),
    ],
    ids=["it-is", "long-ago", "survived", "signal", "host"],
)  # fmt: skip
def test_cuda_out_of_memory_is_a_hint_and_no_more(agent, script, state, reason, hint):
    result = agent.run(script)
    assert (result["state"], result["reason"]) == (state, reason)
    assert (result["hint"] or "").partition(",")[0] == (hint or "")


def test_the_oom_killer_is_recognised(agent, memory_cgroup):
    hog = 'data = bytearray(512 << 20); print("survived")'
    spec = agent.spec("", argv=[sys.executable, "-c", hog])
    enter = ["bash", "-c", f'echo $$ >{memory_cgroup}/cgroup.procs; exec "$@"', "enter"]
    done = subprocess.run([*enter, *agent.command("submit")], input=spec, text=True, stdout=-1)
    assert json.loads(done.stdout)["created"]
    result = agent.wait()["result"]
    assert (result["state"], result["reason"], result["signal"]) == ("FAILED", "oom", 9)


# -- the calls themselves


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

"""A job on a pod that runs out of disk or memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.agents import Agent, eventually


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

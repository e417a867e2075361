"""The kernel's counters of out-of-memory kills, in trees as machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.jobs.agent.memory import OomKills, oom_kills

V1 = "12:pids:/docker/ab\n5:cpu,memory:/docker/ab\n0::/docker/ab\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.events":
          "oom 4\noom_kill 3\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/memory.events": "oom_kill 2\n"}, 2),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/docker/ab/memory.oom_control":
          "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"}, 5),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.oom_control": "oom_kill 6\n"}, 6),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n"}, 0),
        ({"proc/self/cgroup": "0::/\n"}, 0),
        ({}, 0),
    ],
    ids=["v2", "v2-container", "v1", "v1-container", "v1-old-kernel", "v2-root", "no-proc"],
)  # fmt: skip
def test_kills_in_our_cgroup(tmp_path, files, kills):
    root = tree(tmp_path, {**files, "proc/vmstat": "nr_free_pages 1\noom_kill 9\n"})
    assert oom_kills(root) == OomKills(cgroup=kills, host=9)


def test_the_host_s_counter_may_be_missing(tmp_path):
    assert oom_kills(tree(tmp_path, {"proc/vmstat": "nr_free_pages 1\n"})).host == 0


def test_this_machine_s_are_read():
    assert oom_kills() >= (0, 0)

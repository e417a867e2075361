"""An agent on the pod that is not what it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import InfraError
from orchestrator.jobs.follow import follow
from orchestrator.jobs.launcher import SshLauncher
from tests.integration.runners import Runner


def agent_folder(runner: Runner) -> Path:
    (found,) = runner.dir().parents[1].glob("agent-*")
    return found


def empty(folder: Path) -> None:
    for module in (folder / "agent").glob("*.py"):
        module.write_bytes(b"")


def cut_the_compiled(folder: Path) -> None:
    for module in (folder / "agent" / "__pycache__").iterdir():
        module.write_bytes(module.read_bytes()[:40])


DAMAGES = [
    empty,
    lambda folder: [module.unlink() for module in (folder / "agent").glob("*.py")],
    lambda folder: (folder / "agent" / "verbs.py").write_text("import nothing_like_it"),
    cut_the_compiled,
    lambda folder: shutil.rmtree(folder.parent),
]


@pytest.mark.parametrize(
    "damage", DAMAGES, ids=["empty", "no-modules", "one-wrong", "compiled", "pod-emptied"]
)
@pytest.mark.parametrize("fresh", [True, False], ids=["another-controller", "the-same"])
@pytest.mark.parametrize("pod", ["openssh"], indirect=True)
def test_a_damaged_agent_is_put_there_anew(runner, pod, damage, fresh):
    runner.run(runner.spec("true", "first"))
    for use in ("run", "status", "follow"):
        damage(agent_folder(runner))
        if fresh:
            runner.launcher = SshLauncher(runner.connection, pod)
        if use == "run":
            runner.log.unlink(missing_ok=True)
            assert runner.run(runner.spec("echo hello")).outcome.state.value == "SUCCEEDED"
        elif use == "status":
            assert runner.launcher.status("j").state in ("SUCCEEDED", "ABSENT")
        else:
            runner.launcher.submit(runner.spec("echo hello"))
            damage(agent_folder(runner))
            outcome = follow(runner.launcher, "j", runner.log, lambda _data: None)
            assert outcome.state.value in ("SUCCEEDED", "LOST")
        assert [path.name for path in agent_folder(runner).iterdir()] == ["agent"]


def test_what_a_killed_installer_left_is_in_nobody_s_way(runner):
    runner.run(runner.spec("true", "first"))
    place = agent_folder(runner)
    place.rename(place.with_name(f"{place.name}.{os.getpid()}"))
    assert runner.launcher.status("first").state == "SUCCEEDED"


def test_an_agent_that_is_whole_is_asked_once(runner, tmp_path):
    dumb = tmp_path / "python"
    dumb.write_text(
        f"#!/bin/sh\nfor word; do case $word in */agent) echo x >>{tmp_path}/asked; exit 1;; esac\n"
        'done; exec python3 "$@"\n'
    )
    dumb.chmod(0o755)
    runner.launcher._pod = runner.launcher._pod.model_copy(update={"python": str(dumb)})
    with pytest.raises(InfraError, match="no answer"):
        runner.launcher.status("j")
    assert (tmp_path / "asked").read_text() == "x\n"

"""The pod's agent called as a controller calls it, by the oldest Python too."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LEAVES = "setsid sh -c 'echo $$ >pid; exec sleep 60'"
"""A command that says in `pid` who it is, once it has left its group."""

AGENT = Path(__file__).parents[2] / "orchestrator" / "jobs" / "agent"


def pythons() -> list[str]:
    """This interpreter, and the oldest one supported where there is one."""
    installed = Path.home().glob(".pyenv/versions/3.8*/bin/python")
    for oldest in filter(None, (shutil.which("python3.8"), *map(str, installed))):
        # pyenv's own python3.8 on the PATH may lead nowhere
        if not subprocess.run([oldest, "-c", ""], check=False, capture_output=True).returncode:
            return [sys.executable, oldest]
    return [sys.executable]


PYTHONS = pythons()
every_python = pytest.mark.parametrize("python", PYTHONS, ids=["current", "oldest"][: len(PYTHONS)])


class Agent:
    """Calls the agent the way a controller does, for one job directory."""

    def __init__(self, python: str, job_dir: Path) -> None:
        self.python = python
        self.dir = job_dir

    def command(self, verb: str, *operands: object) -> list[str]:
        return [self.python, "-IS", str(AGENT), verb, str(self.dir), *map(str, operands)]

    def __call__(self, verb: str, *operands: object, stdin: str = "", exit_code: int = 0) -> Any:
        done = subprocess.run(
            self.command(verb, *operands), input=stdin, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == exit_code, done
        assert not done.stderr
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def spec(self, script: str, **fields: Any) -> str:
        defaults = {"job_id": "j1", "argv": ["bash", "-c", script], "kill_after_s": 0.3}
        return json.dumps({**defaults, **fields})

    def submit(self, script: str, exit_code: int = 0, **fields: Any) -> Any:
        return self("submit", stdin=self.spec(script, **fields), exit_code=exit_code)

    def wait(self) -> Any:
        subprocess.run(self.command("follow", 1 << 40), check=True, timeout=20)
        return self("status")

    def run(self, script: str, **fields: Any) -> Any:
        """Submit, wait for the end, return the result."""
        self.submit(script, **fields)
        result = self.dir / "result.json"
        assert eventually(result.exists)
        return json.loads(result.read_text())

    def log(self) -> str:
        return (self.dir / "log").read_text()


def eventually(condition: Any, seconds: float = 30, every: float = 0.01) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def none_of(directory: Path) -> bool:
    """Whether its processes end; looking through all there are is not done more than need be."""
    return eventually(lambda: not processes_of(directory), every=0.05)


def processes_of(directory: Path) -> list[str]:
    """Live processes that name the directory in their arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if os.fsencode(directory) in told and int(process.name) != os.getpid():
                found.append(f"{process.name}: {(process / 'cmdline').read_bytes()!r}")
    return found

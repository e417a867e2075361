"""A copy of the fixture repository, and the command run on it from the outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.preloaded import preloaded

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str
    runs_dir: Path

    @property
    def last(self) -> dict[str, Any]:
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def reasons(self) -> set[str]:
        return {reason["reason"] for reason in self.last["reasons"]}

    @property
    def run(self) -> Path:
        return self.runs_dir / self.last["run_id"]


class Lab:
    """A copy of the fixture repository with its own cache, temporary and state folders."""

    def __init__(self, folder: Path) -> None:
        self.repo = folder / "repo"
        shutil.copytree(HERE / "fixture_repo", self.repo)
        (self.repo / "kernels" / "bench").mkdir(parents=True)
        shutil.copy(CHECKOUT / "kernels/bench/contract.py", self.repo / "kernels/bench")
        (self.repo / ".gitignore").write_text("__pycache__/\n")
        self.origin = folder / "origin.git"
        subprocess.run(["git", "init", "-q", "-b", "main", "--bare", self.origin], check=True)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Fixture")
        self.git("config", "user.email", "fixture@example.invalid")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "fixture")
        self.git("remote", "add", "origin", str(self.origin))
        self.git("push", "-q", "origin", "main")
        self.runs_dir = folder / "runs"
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.env = {
            **os.environ,
            "ORCHESTRATE_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "TMPDIR": str(self.tmp),
            "NO_COLOR": "1",
            "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}",  # a pod with a GPU, as it says
        }

    def git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.repo), *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *arguments, "--runs-dir", str(self.runs_dir)]

    def run(self, *arguments: str, **settings: object) -> Outcome:
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        playbook = str(self.repo / "playbook.yaml")
        return self._finished("run", playbook, "--json", *sets, *arguments, timeout=120)

    def call(self, *arguments: str) -> Outcome:
        return self._finished(*arguments, timeout=60)

    def _finished(self, *arguments: str, timeout: float) -> Outcome:
        arguments = (*arguments, "--runs-dir", str(self.runs_dir))
        done = preloaded().run(arguments, self.env, timeout)
        return Outcome(done.returncode, done.stdout, done.stderr, self.runs_dir)

    def leftovers(self) -> list[str]:
        """Temporary files, and processes of this lab, that outlived the command."""
        marker = str(self.repo.parent).encode()
        found = [str(path) for path in self.tmp.iterdir()]
        for process in Path("/proc").iterdir():
            try:
                line = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if process.name.isdigit() and int(process.name) != os.getpid() and marker in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace")[:200])
        return found

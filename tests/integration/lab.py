"""A copy of the fixture repository, and the command run on it from the outside."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.preloaded import Forked, preloaded

# what a script puts into the background ignores Ctrl-C, and so would every command started here
signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
Process = subprocess.Popen[bytes] | Forked

INTERPRETER = Path(sys.executable).resolve()
"""This Python itself; the `python3` of the PATH may be a script that looks for one each time."""

POD_PATH = f"{HERE / 'bin'}:{INTERPRETER.parent}:{os.environ['PATH']}"
"""That of a pod with a GPU, as its `nvidia-smi` says."""


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


class Controller:
    """`orchestrate` as a process that a test may wait for, signal and kill."""

    def __init__(self, process: Process, out: Path, err: Path, runs_dir: Path) -> None:
        self._process, self._out, self._err, self._runs_dir = process, out, err, runs_dir
        self.pid = process.pid

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        return self._out.read_text() + self._err.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait_until(self, what: Callable[[], object], seconds: float = 60) -> None:
        """Until `what` holds, which it must before the process ends."""
        deadline = time.monotonic() + seconds
        while not what():
            assert not self.over, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def end(self, timeout: float = 120) -> Outcome:
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end: {self.said}") from None
        return Outcome(code, self._out.read_text(), self._err.read_text(), self._runs_dir)


@functools.cache
def _fixture() -> tempfile.TemporaryDirectory[str]:
    """The fixture repository, committed and pushed: made once a process, for labs to copy."""
    made = tempfile.TemporaryDirectory(prefix="fixture-")
    repo, origin = Path(made.name, "repo"), Path(made.name, "origin.git")
    shutil.copytree(HERE / "fixture_repo", repo)
    (repo / "kernels" / "bench").mkdir(parents=True)
    for name in ("contract.py", "bench_csv.py"):
        shutil.copy(CHECKOUT / "kernels/bench" / name, repo / "kernels/bench")
    (repo / ".gitignore").write_text("__pycache__/\n")
    for arguments in (
        ("init", "-q", "--template=", "-b", "main", "--bare", origin),
        ("init", "-q", "--template=", "-b", "main", repo),
        ("-C", repo, "config", "user.name", "Fixture"),
        ("-C", repo, "config", "user.email", "fixture@example.invalid"),
        ("-C", repo, "add", "-A"),
        ("-C", repo, "commit", "-q", "-m", "fixture"),
        ("-C", repo, "remote", "add", "origin", origin),
        ("-C", repo, "push", "-q", "origin", "main"),
    ):
        subprocess.run(["git", *arguments], check=True)
    return made


class Lab:
    """A copy of the fixture repository with its own cache, temporary and state folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun = 0
        self.repo, self.origin = folder / "repo", folder / "origin.git"
        made = _fixture().name
        for path in (self.repo, self.origin):
            shutil.copytree(Path(made, path.name), path)
        config = self.repo / ".git" / "config"
        config.write_text(config.read_text().replace(made, str(folder)))
        self.runs_dir = folder / "runs"
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.env = {
            **os.environ,
            "ORCHESTRATE_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "TMPDIR": str(self.tmp),
            "NO_COLOR": "1",
            "PATH": POD_PATH,
        }

    def git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.repo), *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def run(self, *arguments: str, **settings: object) -> Outcome:
        """`orchestrate run` to its end."""
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return self.begin(
            "run", str(self.repo / "playbook.yaml"), "--json", *sets, *arguments
        ).end()

    def call(self, *arguments: str) -> Outcome:
        return self.begin(*arguments).end()

    def begin(
        self,
        *arguments: str,
        module: str = "orchestrator",
        prefix: Sequence[str] = (),
        fresh: bool = False,
    ) -> Controller:
        """`PREFIX python -m MODULE ARGUMENTS`.

        Where nothing needs it to start afresh it is forked from the preloaded server.
        """
        self._begun += 1
        out, err = (self.folder / f"{self._begun}.{name}" for name in ("out", "err"))
        words = [*arguments, "--runs-dir", str(self.runs_dir)]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            if fresh or prefix:
                process: Process = subprocess.Popen(
                    [*prefix, sys.executable, "-m", module, *words],
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                )
            else:
                process = preloaded().start(module, words, self.env, stdout, stderr)
        return Controller(process, out, err, self.runs_dir)

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

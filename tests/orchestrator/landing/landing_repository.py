"""Real repositories to land in. Only `gh`, the client of a service, is a stand-in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import ExitCode, LandingError
from orchestrator.landing.land import land
from orchestrator.landing.request import LandRequest
from orchestrator.models.verdict import Decision, Obstacle, Outcome, Reason

RUN = "20250102-030405-9f3a"
BRANCH = f"orchestrate/{RUN}"
FOLDER = f"reports/runs/{RUN}"
CONFIG = "kernels/configs/base.yaml"
KEY = "runtime.sel_triton_min_L"
DOC = "Documentation/Rationale.md"
TEXT = "# base\nruntime:\n  sel_triton_min_L: 4096  # packed SDPA below\n"
URL = "https://github.example/acme/nsa/pull/7"

ENABLE = Decision(outcome=Outcome.ENABLE, min_L=256, margin=1.2, summary="ENABLE from L=256")
KEEP_OFF = Decision(outcome=Outcome.KEEP_OFF, min_L=2048, margin=1.2, summary="KEEP_OFF: slower")
UNDECIDED = Decision(
    outcome=Outcome.UNDECIDED,
    margin=1.2,
    summary="UNDECIDED: the pod has no CUDA device",
    obstacles=(Obstacle(reason=Reason.NO_CUDA_DEVICE, message="no device"),),
)


class Repository:
    """A clone with one commit, and its bare origin."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.root = folder / "origin.git", folder / "clone"

    @classmethod
    def create(cls, folder: Path) -> Repository:
        made = cls(folder)
        for arguments in (
            ("init", "-q", "--template=", "--bare", "-b", "main", str(made.origin)),
            ("init", "-q", "--template=", "-b", "main", str(made.root)),
        ):
            made(*arguments, at=folder)
        made.write(CONFIG, TEXT)
        made.write("README.md", "hello\n")
        made.write(".gitignore", "*.csv\nreports/\n")
        made("add", ".")
        made("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-qm", "first")
        made("remote", "add", "origin", str(made.origin))
        made("push", "-q", "origin", "main")
        made("remote", "set-head", "origin", "main")
        return made

    def copy(self, folder: Path) -> Repository:
        copied = Repository(folder)
        shutil.copytree(self.origin, copied.origin)
        shutil.copytree(self.root, copied.root)
        configuration = copied.root / ".git/config"
        text = configuration.read_text().replace(str(self.origin), str(copied.origin))
        configuration.write_text(text)
        return copied

    def __call__(self, *arguments: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=at or self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def hook(self, name: str, script: str) -> None:
        path = self.write(f".git/hooks/{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def branches(self) -> list[str]:
        return self("for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def pushed(self) -> list[str]:
        return self("for-each-ref", "--format=%(refname:short)", at=self.origin).split()

    def state(self) -> tuple[object, ...]:
        """Everything of the checkout that landing must leave alone."""
        files = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.root).parts
        }
        index = (self.root / ".git/index").read_bytes()
        return self("symbolic-ref", "HEAD"), self("rev-parse", "HEAD"), index, files

    def only_the_checkout(self) -> bool:
        return len(self("worktree", "list", "--porcelain").split("\n\n")) == 1


class Gh:
    """A `gh` that notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "gh"
        self.script.write_text(
            f"""#!/bin/sh
cd {folder}
printf '%s\\n' "$@" >> calls; echo -- >> calls
case "$1 $2" in
"auth status") test ! -e logged-out || {{ echo 'You are not logged into any host' >&2; exit 1; }} ;;
"pr list") cat listed 2>/dev/null || echo '[]' ;;
"pr create") test ! -e refuses || {{ echo 'GraphQL: no' >&2; exit 1; }}
  cat > body; echo 'Creating pull request' >&2; echo {URL} ;;
esac
"""
        )
        self.script.chmod(0o755)

    def calls(self) -> list[list[str]]:
        text = (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""
        return [call.splitlines() for call in text.split("--\n")[:-1]]


def refused(request: LandRequest, says: str) -> LandingError:
    with pytest.raises(LandingError, match=re.escape(says)) as caught:
        land(request)
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value

"""Running git and gh: argv only, no prompts, and what they said on one page."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import LandingError

_MAX_LINES = 40
_MAX_CHARACTERS = 4000
_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LOGIN_IN_URL = re.compile(r"(://)[^/@\s]+@")


@dataclass(frozen=True)
class Finished:
    """What a program left behind. `said` is for people: everything it printed, cut and cleaned."""

    exit_code: int
    stdout: bytes
    said: str


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    timeout_s: float,
    remedy_if_missing: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Finished:
    """Run a program in the caller's environment, less its `GIT_*` variables.

    Those would point git elsewhere (GIT_DIR and its kin, for instance within a hook).

    Raises:
        LandingError: it is not installed, or takes longer than `timeout_s`.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Files, not pipes: a process that a hook left behind holds a pipe open beyond any timeout.
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(stdin.encode("utf-8", "replace"))
        given.seek(0)
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env={**inherited, "GIT_TERMINAL_PROMPT": "0", **(env or {})},
                stdin=given,
                stdout=out,
                stderr=err,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            if not cwd.is_dir():
                raise LandingError(f"there is no folder {cwd}") from None
            raise LandingError(f"{argv[0]} is not installed", remedy=remedy_if_missing) from None
        except subprocess.TimeoutExpired:
            command = " ".join(argv[:3])
            raise LandingError(f"{command} took more than {timeout_s:g} s in {cwd}") from None
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read(), err.read()
    return Finished(done.returncode, stdout, shown(stderr + stdout))


def shown(output: bytes) -> str:
    """The end of some output, without control sequences and without logins in addresses."""
    text = output.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text))
    text = _LOGIN_IN_URL.sub(r"\1***@", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_MAX_LINES:])[-_MAX_CHARACTERS:]

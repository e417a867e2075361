"""A command for the pod, and secrets: quoting and masking live here and nowhere else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

MASK = "***"


@dataclass(frozen=True)
class Secret:
    """A value that must never be printed, stored or put on a command line."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"Secret({MASK})"


@dataclass(frozen=True)
class Command:
    """An argv with its environment and working directory, as one shell-safe line for SSH.

    SSH knows no argv: the server hands one string to the user's shell. `shell()` is that string,
    each word quoted. Secrets have no place in it, for `ps` on the pod shows it to everyone; they
    travel on standard input.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a command needs a program")
        for word in (*self.argv, *self.env, *self.env.values(), self.cwd or ""):
            if "\0" in word:
                raise ValueError("a command cannot hold a NUL byte")
        for name in self.env:
            if not name.isidentifier():
                raise ValueError(f"{name!r} is not a name for an environment variable")

    def shell(self) -> str:
        """The command as one line for a POSIX shell."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        words += [shlex.quote(word) for word in self.argv]
        line = " ".join(words)
        # A program name quoted by hand must not be taken for an assignment.
        if not self.env and "=" in self.argv[0]:
            line = f"env -- {line}"
        return f"cd {shlex.quote(self.cwd)} && {line}" if self.cwd else line

    def __str__(self) -> str:
        return self.shell()


@dataclass(frozen=True)
class CommandResult:
    """What a short command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0

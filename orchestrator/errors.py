"""Every failure the controller reports, and the exit code it maps to.

    OrchestrateError
    ├── UsageError               2   wrong command line
    │   ├── ConfigError          2   playbook, pods.toml: names file, line and column
    │   └── LandingError         2   a decision that cannot be landed: undecided, git, gh
    ├── InfraError               3   the machine or the network, not the experiment
    │   ├── ConnectError         3   host, port, key, host key
    │   │   └── HostUnreachable  3   nothing answers; worth another try
    │   ├── SyncError            3
    │   ├── PullError            3   an artifact that cannot be pulled, or must not be
    │   └── ProvisionError       3   a resource that cannot be brought about
    ├── ConnectionLost           6   the link broke; what ran may still run
    ├── Detached               130   Ctrl-C while a job ran
    └── StoreError               2   run directory missing, damaged, or written by something else

Foreign exceptions are mapped at the border (transport, config, evidence), nowhere else.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command, first that applies wins (see docs/exit-codes.md)."""

    OK = 0
    GATE_FAILED = 1
    USAGE = 2
    INFRA = 3
    NOT_VERIFIED = 4
    INVALID = 5
    UNREACHABLE = 6
    DETACHED = 130


class OrchestrateError(Exception):
    """Base of all errors a user may see. `remedy` says what to do next."""

    exit_code = ExitCode.INFRA

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  {self.remedy}"


class UsageError(OrchestrateError):
    """The command line asks for something that does not exist or makes no sense."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A playbook or pods file is wrong. `where` is `file:line:column`."""

    def __init__(self, message: str, *, where: str, remedy: str | None = None) -> None:
        super().__init__(f"{where}: {message}", remedy=remedy)
        self.where = where


class LandingError(UsageError):
    """A decision cannot be landed in the repository as things stand; the remedy is the user's."""


class StoreError(UsageError):
    """A run directory is missing, damaged, or was written by another version."""


class InfraError(OrchestrateError):
    """The machine or the network failed, not the experiment."""

    exit_code = ExitCode.INFRA


class ConnectError(InfraError):
    """No SSH session: name, port, key or host key."""


class HostUnreachable(ConnectError):
    """Nothing answers, or what answers hangs up: it may be back in a moment."""


class SyncError(InfraError):
    """The repository could not be copied to the pod."""


class PullError(InfraError):
    """An artifact could not be pulled, or must not be: the message names it."""


class ProvisionError(InfraError):
    """A resource of the environment could not be brought about."""


class ConnectionLost(InfraError):
    """The link broke. What ran on the pod may still run."""

    exit_code = ExitCode.UNREACHABLE


class Detached(OrchestrateError):
    """The user detached; the job goes on."""

    exit_code = ExitCode.DETACHED

"""A pod: a machine reached over SSH."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from orchestrator.models.verdict import Record

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Pod(Record):
    """Where a run happens. Holds no secret: `identity_file` is a path."""

    name: Name
    host: str = Field(
        min_length=1, description="host name or address; may be a Host of ~/.ssh/config"
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="default: ssh config, then 22"
    )
    user: str | None = Field(default=None, description="default: ssh config, then the local user")
    identity_file: Path | None = Field(default=None, description="private key")
    known_hosts_file: Path | None = Field(
        default=None,
        description="the only file host keys are checked against; default: ~/.ssh/known_hosts",
    )
    workdir: str = Field(default="/root/nsa-vibe", description="repository on the pod, absolute")
    venv: str = Field(default=".venv", description="environment, relative to workdir or absolute")
    python: str = Field(default="python3", description="interpreter on the pod, 3.8 or newer")
    gpu: str | None = Field(
        default=None, description="expected GPU, matched within the device name"
    )
    embedded: bool = Field(default=False, description="the private SSH server on loopback")

    @field_validator("host", "user")
    @classmethod
    def _no_option(cls, value: str | None) -> str | None:
        # ssh and rsync would take a leading dash for an option (CVE-2017-1000117 and kin)
        if value is not None and (value.startswith("-") or any(c.isspace() for c in value)):
            raise ValueError(f"{value!r} cannot name a host or user")
        return value

    @field_validator("workdir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or value.rstrip("/") == "":
            raise ValueError(f"workdir must be an absolute path below /, got {value!r}")
        return value.rstrip("/")

    def fits(self, device: str) -> bool:
        """Whether a device so named is the expected GPU; any is, where none is expected."""
        return _squeezed(self.gpu or "") in _squeezed(device)

    @property
    def venv_path(self) -> str:
        """Absolute path of the environment on the pod."""
        return self.venv if self.venv.startswith("/") else f"{self.workdir}/{self.venv}"

    @property
    def state_dir(self) -> str:
        """Where agent and job directories live on the pod."""
        return f"{self.workdir}/.orchestrate"

    @property
    def address(self) -> str:
        """`user@host:port` for people."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")


def _squeezed(name: str) -> str:
    return name.lower().replace(" ", "")

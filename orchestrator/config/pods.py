"""Pods: inline `user@host:port`, and the embedded one."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from pydantic import ValidationError

from orchestrator.config.hints import shown
from orchestrator.errors import UsageError
from orchestrator.models.pod import Pod

EMBEDDED = "embedded"
_ADDRESS = re.compile(
    r"""
    (?: (?P<user> [^@\s]+ ) @ )?
    (?: \[ (?P<v6> [0-9A-Fa-f:.%\w]+ ) \] | (?P<host> [^@:\s\[\]]+ ) )
    (?: : (?P<port> [0-9]{1,5} ) )?
    """,
    re.VERBOSE,
)


def cache_dir() -> Path:
    """Where the embedded pod keeps its environment: `$ORCHESTRATE_CACHE`, else the XDG cache."""
    named = os.environ.get("ORCHESTRATE_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "orchestrate"


def state_dir() -> Path:
    """Where pinned host keys live: the XDG state directory."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).absolute() / "orchestrate"


def embedded_pod(root: Path, environment: str) -> Pod:
    """The embedded pod as declared: its port and keys come when it starts.

    Args:
        root: repository to be synced; each has its own workdir.
        environment: name of the virtual environment, which repositories share.
    """
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", root.name) or "root"
    home = cache_dir() / EMBEDDED
    return Pod(
        name=EMBEDDED,
        host="127.0.0.1",
        workdir=str(home / "work" / f"{name}-{digest}"),
        venv=str(home / "venv" / environment),
        # not the controller's own environment: the pod's must not inherit from it
        python=str(getattr(sys, "_base_executable", sys.executable)),
        embedded=True,
    )


def parse_address(
    text: str, *, identity_file: Path | None = None, workdir: str | None = None
) -> Pod:
    """`user@host:port`, `host`, `[v6]:port` as a pod; what it leaves open comes from ssh config.

    Raises:
        UsageError: not an address.
    """
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise UsageError(
            f"--pod {shown(text)} is no address",
            remedy="write user@host:port, for example --pod root@203.0.113.7:12181",
        )
    return pod_at(
        match["host"] or match["v6"],
        port=int(match["port"]) if match["port"] else None,
        user=match["user"],
        identity_file=identity_file,
        workdir=workdir,
        written=text,
    )


def pod_at(
    host: str,
    *,
    port: int | None,
    user: str | None,
    identity_file: Path | None,
    workdir: str | None,
    written: str,
) -> Pod:
    """The pod at an address, named after it.

    Raises:
        UsageError: a part of the address cannot be; shows what was `written`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{host}-{port}" if port else host).strip("-")
    given = {"workdir": workdir} if workdir else {}
    try:
        return Pod(name=name, host=host, port=port, user=user, identity_file=identity_file, **given)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise UsageError(f"--pod {shown(written)}: {first['loc'][0]} {message}") from None

"""The hosts a session passes through, as Fabric resolved them from pod and ssh configuration."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.proxy import ProxyCommand

from orchestrator.models.pod import Pod
from orchestrator.transport.hostkeys import known_as

LINK_TIMEOUT = 6
"""Seconds of silence after which a link counts as cut."""
KEEPALIVE = 2


def chain(connection: Any) -> list[Any]:
    """The Fabric connections from the pod outwards; the last one is reached directly."""
    hops = [connection]
    while hops[-1].gateway and not isinstance(hops[-1].gateway, str):
        hops.append(hops[-1].gateway)
    return hops


def gateway_override(config: paramiko.SSHConfig, pod: Pod) -> bool | None:
    """False where the configuration says `ProxyJump none`, which Fabric takes for a host."""
    jump = config.lookup(pod.host).get("proxyjump", "")
    return False if jump.lower() == "none" else None


def address(hop: Any) -> str:
    """`host:port`, for people."""
    host = f"[{hop.host}]" if ":" in hop.host else hop.host
    return f"{host}:{hop.port}"


def known_name(hop: Any) -> str:
    """How known_hosts names a hop."""
    return str(hop.ssh_config.get("hostkeyalias") or known_as(hop.host, int(hop.port)))


def ssh_argv(
    hop: Any,
    *,
    known_hosts: Path,
    identities: Callable[[Any], Sequence[Path]],
    timeout: float,
) -> list[str]:
    """Argv of an OpenSSH client for the session that Paramiko has with `hop`, less the host."""
    options: dict[str, str] = {
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _quoted(known_hosts.absolute()),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "BatchMode": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ServerAliveInterval": str(KEEPALIVE),
        "ServerAliveCountMax": str(LINK_TIMEOUT // KEEPALIVE),
        "ConnectTimeout": str(max(1, round(timeout))),
        **_proxy(hop, known_hosts=known_hosts, identities=identities, timeout=timeout),
    }
    if alias := hop.ssh_config.get("hostkeyalias"):
        options["HostKeyAlias"] = alias
    named = identities(hop)
    if named:
        options["IdentitiesOnly"] = "yes"
    argv = ["ssh", "-F", "none", "-p", str(hop.port), "-l", hop.user]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    for identity in named:
        argv += ["-o", f"IdentityFile={_quoted(identity)}"]
    return argv


def _proxy(hop: Any, **same: Any) -> Mapping[str, str]:
    # Not ProxyJump: ssh gives a jump host none of the options above.
    if isinstance(hop.gateway, str):
        command = hop.gateway
    elif hop.gateway:
        through = ["-W", f"[{hop.host}]:{hop.port}", hop.gateway.host]
        command = shlex.join([*ssh_argv(hop.gateway, **same), *through])
    else:
        return {}
    return {"ProxyCommand": command.replace("%", "%%")}


def _quoted(path: Path) -> str:
    """A path as an ssh option takes it: words split at blanks, `%` introduces a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def tune(sock: socket.socket) -> None:
    """Send small packets at once, and notice within seconds that the other side is gone.

    Paramiko does neither: a command costs 44 ms instead of 2, and a cut link hangs for ever, its
    keepalive being sent but never missed.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (  # Linux has all four, macOS some
        ("TCP_USER_TIMEOUT", LINK_TIMEOUT * 1000),
        ("TCP_KEEPIDLE", KEEPALIVE),
        ("TCP_KEEPINTVL", KEEPALIVE),
        ("TCP_KEEPCNT", LINK_TIMEOUT // KEEPALIVE),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reap(proxy: ProxyCommand) -> None:
    """Wait for a ProxyCommand: Paramiko ends it but leaves a zombie and open pipes."""
    process: subprocess.Popen[bytes] = proxy.process
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

"""Where errors of sockets and Paramiko become ours. Nothing else in the project knows theirs."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from orchestrator.errors import ConnectionLost, HostUnreachable, InfraError
from orchestrator.models.pod import Pod

# Paramiko logs the tracebacks of errors it also raises. Without any handler, Python's last resort
# would print them to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_DYING_S = 0.5
_SSH_ERRORS = (paramiko.SSHException, EOFError, OSError)


@contextmanager
def map_connect_errors(pod: Pod, address: str, *, timeout: float) -> Iterator[None]:
    """Map what goes wrong before a session exists to `HostUnreachable`."""
    try:
        yield
    except _SSH_ERRORS as error:
        message, remedy = _explain(error, address, timeout)
        raise HostUnreachable(f"pod {pod.name}: {message}", remedy=remedy) from error


def _explain(error: Exception, address: str, timeout: float) -> tuple[str, str | None]:
    restarted = "is the pod running? Many providers change address or port at a restart"
    if isinstance(error, socket.gaierror):
        return f"cannot resolve the host name of {address}: {error.strerror}", (
            "check the host in pods.toml or ~/.ssh/config"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"{address} refuses connections: nothing listens there", restarted
    if isinstance(error, TimeoutError) or "No existing session" in str(error):
        return f"{address} did not answer within {timeout:g} s", restarted
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"{address} is unreachable: {error.strerror}", "check your network or VPN"
    if isinstance(error, paramiko.ChannelException):
        return f"the jump host cannot reach {address}: {error.text}", restarted
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return f"{address} and this client share no algorithm: {error}", None
    if "banner" in str(error).lower():
        return f"what listens on {address} is not an SSH server: {error}", "check the port"
    if isinstance(error, (EOFError, ConnectionError)):
        return f"{address} closed the connection during the handshake", (
            "sshd does so when it is overloaded (MaxStartups), still starting, or has banned you"
        )
    return f"no SSH session with {address}: {error or type(error).__name__}", None


@contextmanager
def map_ssh_errors(pod: Pod) -> Iterator[None]:
    """Map what goes wrong within a session to `ConnectionLost`, a refused channel to `InfraError`.

    Wrap calls into Paramiko only, never a caller's function: a full disk on this side is no lost
    connection.
    """
    try:
        yield
    except paramiko.ChannelException as error:  # said by the server, so the link is up
        raise InfraError(
            f"pod {pod.name}: {pod.address} refuses another session: {error.text}",
            remedy="its sshd must allow more of them (MaxSessions in sshd_config; the default, 10, "
            "is enough), and its user more processes",
        ) from error
    except _SSH_ERRORS as error:
        raise connection_lost(pod, str(error) or type(error).__name__) from error


def still_up(transport: paramiko.Transport) -> bool:
    """Whether a channel that has just failed did so on a link that works."""
    transport.join(_DYING_S)  # it ends its channels before it says that it is not active
    return bool(transport.is_active())


def connection_lost(pod: Pod, detail: str) -> ConnectionLost:
    """The error for a link that broke, naming the pod."""
    return ConnectionLost(
        f"pod {pod.name}: connection to {pod.address} lost ({detail})",
        remedy="what runs on the pod may still run",
    )

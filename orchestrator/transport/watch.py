"""Noticing that nothing comes back any more, whatever lies between here and the pod.

The kernel's timers (`hops.tune`) only watch the first stretch: a jump host, a provider's gateway or
a `ProxyCommand` goes on acknowledging packets for a pod that nobody reaches. So the session itself
is asked for an answer, as OpenSSH does with `ServerAliveInterval`; Paramiko's own keepalive wants
none, and never misses it.
"""

from __future__ import annotations

import threading
from typing import Any

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

_TICK_S = 1.0


class HeardSocket:
    """Any socket-like object, with a count of what was received. All else is passed through."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.received = 0

    def recv(self, size: int) -> bytes:
        """As a socket's."""
        data: bytes = self.inner.recv(size)
        self.received += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def watch(
    transport: paramiko.Transport, heard: HeardSocket, *, ask_every: float, silent_for: int
) -> None:
    """End a session that has been silent for `silent_for` seconds though asked for an answer.

    Seconds in which this process ran: after a laptop's sleep the other side gets its time to
    answer. Any byte counts, so an answer may queue behind a long download.
    """

    def ask() -> None:
        question = paramiko.Message()
        question.add_byte(cMSG_GLOBAL_REQUEST)
        question.add_string("keepalive@openssh.com")
        question.add_boolean(True)  # an answer is wanted
        session: Any = transport  # the method is not in the published types
        session._send_user_message(question)

    def look() -> None:
        seen, silent = heard.received, 0.0
        while transport.is_active():
            transport.join(_TICK_S)
            silent = 0.0 if heard.received != seen else silent + _TICK_S
            seen = heard.received
            if silent >= silent_for:
                transport.close()

    # Paramiko asks from its own thread, which a full socket may block: hence a second one looks.
    transport.packetizer.set_keepalive(ask_every, ask)
    threading.Thread(target=look, name=f"watch-{transport.name}", daemon=True).start()

"""A link that can be cut: a TCP proxy on loopback whose faults are switched while it runs."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time

_CHUNK = 1 << 16
_TICK_S = 0.02


class Proxy:
    """Passes connections on to `target`, until told otherwise. A context manager.

    `heal()` takes every fault back. Faults act on open connections and on new ones alike.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.RLock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None
        self._closed = threading.Event()
        self._through = threading.Event()  # cleared: a black hole
        self._through.set()
        self._bytes_per_s: float | None = None
        self._delay_s = 0.0
        self.passed = 0
        """bytes, both ways"""
        self.port = self._listen(0)

    # -- faults -------------------------------------------------------------------------------

    def refuse(self) -> None:
        """New connections are refused; open ones go on."""
        with self._lock:
            if self._listener is not None:
                # wakes the accepting thread, which close() alone would not
                with contextlib.suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None

    def reset(self) -> None:
        """Open connections end with RST, new ones are refused."""
        self.refuse()
        self._drop()

    def black_hole(self) -> None:
        """Nothing comes through and nobody is told; connecting seems to work.

        As with dropped packets, what was sent meanwhile arrives late if the connection is still
        there when it is over.
        """
        self._through.clear()

    def throttle(self, bytes_per_s: float) -> None:
        """No more than this, each way of each connection."""
        self._bytes_per_s = bytes_per_s

    def delay(self, seconds: float) -> None:
        """Everything takes this long, each way."""
        self._delay_s = seconds

    def heal(self) -> None:
        """A good link again."""
        self._bytes_per_s, self._delay_s = None, 0.0
        self._through.set()
        with self._lock:
            if self._listener is None:
                self._listen(self.port)

    # -- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._through.set()
        self.reset()

    def _listen(self, port: int) -> int:
        # reuse_address is create_server's default on POSIX
        listener = socket.create_server(("127.0.0.1", port), backlog=50)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._through.wait()
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            _abort(client)
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(None)
        with self._lock:
            self._pairs.append((client, server))
        threads = [
            threading.Thread(target=self._pump, args=ends, daemon=True)
            for ends in ((client, server), (server, client))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:
            if (client, server) in self._pairs:
                self._pairs.remove((client, server))
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Copy one way; each chunk leaves when its time has come."""
        late: list[tuple[float, bytes]] = []
        ended = False
        with contextlib.suppress(OSError, ValueError):
            while late or not ended:
                self._through.wait()
                wait = max(0.0, late[0][0] - time.monotonic()) if late else 1.0
                # not read far ahead: the sender must feel a slow link
                if not ended and len(late) < 64:
                    if select.select([source], [], [], min(wait, _TICK_S))[0]:
                        self._through.wait()
                        data = source.recv(self._portion())
                        ended = not data
                        late.append((time.monotonic() + self._delay_s, data))
                else:
                    time.sleep(min(wait, _TICK_S))
                while late and late[0][0] <= time.monotonic():
                    _, data = late.pop(0)
                    self._through.wait()
                    if data:
                        sink.sendall(data)
                        self.passed += len(data)
                        if self._bytes_per_s:
                            time.sleep(len(data) / self._bytes_per_s)
            sink.shutdown(socket.SHUT_WR)

    def _portion(self) -> int:
        rate = self._bytes_per_s
        return _CHUNK if rate is None else max(1, min(_CHUNK, int(rate * 0.1)))

    def _drop(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _abort(end)


def _abort(end: socket.socket) -> None:
    """Close with RST; a thread that waits for it lets go within a tick."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()

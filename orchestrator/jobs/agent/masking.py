"""Keeping secrets out of the log."""

from __future__ import annotations

MASK = b"***"


class Redactor:
    """Masks secrets in a stream, also one that arrives in pieces; holds back only what it must."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = secrets
        self._tail = b""
        self._masked = 0  # leading bytes of the tail whose mask is already out

    def feed(self, data: bytes, final: bool = False) -> bytes:
        """Return what can be written by now."""
        if not self._secrets:
            return data
        data = self._tail + data
        cut = len(data) if final else len(data) - self._open_suffix(data)
        out, position = [], 0
        for start, end in self._spans(data):
            if start >= cut:
                break
            out.append(data[position:start])
            if start or not self._masked:
                out.append(MASK)
            position = end
        out.append(data[position:cut])
        self._tail, self._masked = data[cut:], max(0, position - cut)
        return b"".join(out)

    def _open_suffix(self, data: bytes) -> int:
        """Length of the longest end of `data` that may turn out to be the start of a secret."""
        longest = max(map(len, self._secrets)) - 1
        for length in range(min(longest, len(data)), 0, -1):
            if any(secret.startswith(data[-length:]) for secret in self._secrets):
                return length
        return 0

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """Say where secrets lie, overlapping ones joined, so that no part of either shows."""
        found = [(0, self._masked)] if self._masked else []
        for secret in self._secrets:
            start = data.find(secret)
            while start >= 0:
                found.append((start, start + len(secret)))
                start = data.find(secret, start + 1)
        joined: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if joined and start < joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return joined

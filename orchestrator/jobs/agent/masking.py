"""Secrets in streams: masked in the log, found in files; plain, within JSON and in base64."""

from __future__ import annotations

import base64
import json
from typing import Mapping

MASK = b"***"
SHORTEST = 8  # bytes; less of an encoded secret is like any other text


def forms(secret: bytes) -> list[bytes]:
    """Return the secret, and as it stands within JSON and base64, wherever in that it begins."""
    text = secret.decode("utf-8", "surrogateescape")
    found = [json.dumps(text)[1:-1].encode()]
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + secret)
        # without the letters at either end that have bits of what stands before or behind it
        encoded = encoded[-(-8 * offset // 6) : 8 * (offset + len(secret)) // 6]
        found += [encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")]
    return list(dict.fromkeys([secret, *(form for form in found if len(form) >= SHORTEST)]))


class Finder:
    """Looks for secrets in a stream that arrives in pieces."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._names = {form: name for name, value in secrets.items() for form in forms(value)}
        self._kept = max(map(len, self._names), default=1) - 1
        self._tail = b""

    def feed(self, data: bytes) -> str | None:
        """Return the name of a secret that is in what has come so far, if one is."""
        seen = self._tail + data
        for form, name in self._names.items():
            if form in seen:
                return name
        self._tail = seen[len(seen) - min(self._kept, len(seen)) :]
        return None


def masked(text: bytes, secrets: Mapping[str, bytes]) -> bytes:
    """Return a whole text with secrets masked."""
    return Redactor(list(secrets.values())).feed(text, final=True)


class Redactor:
    """Masks secrets in a stream, also one that arrives in pieces; holds back only what it must."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = [form for secret in secrets for form in forms(secret)]
        self._first = {form[0] for form in self._secrets}
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
            if data[-length] not in self._first:
                continue
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

"""How a message names what a person wrote, and what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 100
_LONGEST_VALUE = 60


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if any is close enough to be worth suggesting."""
    if len(name) > _LONGEST_NAME:  # not a slip of the finger, and difflib is slow on long text
        return None
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'command'?`, or nothing where no known name is close."""
    guess = nearest(name, known)
    return "" if guess is None else f"; did you mean {guess!r}?"


def listing(names: Iterable[str]) -> str:
    """`a, b, c`, or `none`."""
    return ", ".join(names) or "none"


def shown(value: object) -> str:
    """A value in a message: quoted, without control characters, and short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def kind(value: object) -> str:
    """What sort of value this is, in the words of the file's author."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"

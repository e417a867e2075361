"""What is wrong with a value of a column, in words; None where nothing is."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.bench import contract

EMPTY = "empty"
"""Or its column is not there at all."""


def no_mode(mode: str | None) -> str | None:
    """Neither dense nor varlen."""
    if mode in ("dense", "varlen"):
        return None
    return f"{mode!r} is neither dense nor varlen" if mode else EMPTY


def no_count(value: int | None) -> str | None:
    """Not a whole number from 1 on."""
    if value is not None and value >= 1:
        return None
    return EMPTY if value is None else f"{value} is not positive"


def no_spans(spans: int | None, mode: str) -> str | None:
    """A varlen row has at least one."""
    return no_count(spans) if mode == "varlen" else None


def negative(value: float | None) -> str | None:
    """Below zero."""
    return f"{value:g} is below zero" if value is not None and value < 0 else None


def no_version(version: int | None) -> str | None:
    """Of a contract that is not there yet, or never was."""
    if version is None or 1 <= version <= contract.CONTRACT_VERSION:
        return None
    return f"version {version}; this is {contract.CONTRACT_VERSION}"


def no_word(choices: Sequence[str], word: str | None) -> str | None:
    """None of those that the contract knows."""
    if word is None or word in choices:
        return None
    return f"{word[:40]!r} is none of {', '.join(choices)}"

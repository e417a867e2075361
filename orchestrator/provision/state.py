"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True)
class Finding:
    """State of a resource on the pod."""

    satisfied: bool
    detail: str
    """What is there or missing, in a few words."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    problem: str | None = None
    """Set when applying cannot help: the resource cannot be had on this pod."""

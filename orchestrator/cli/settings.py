"""`--set NAME=VALUE`."""

from __future__ import annotations

from orchestrator.errors import UsageError


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` pairs.

    Raises:
        UsageError: one without `=`.
    """
    pairs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting} has no value", remedy="write --set name=value")
        pairs[name.strip()] = value
    return pairs

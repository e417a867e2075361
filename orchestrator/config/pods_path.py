"""Where `pods.toml` lies. Light to import: completion asks here while the user waits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PODS_FILE = "pods.toml"
PODS_VARIABLE = "ORCHESTRATE_PODS"


def config_dir() -> Path:
    """The user's own configuration: the XDG config directory."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base).absolute() / "orchestrate"


def find_pods_file(named: Path | None = None) -> Path | None:
    """`--pods FILE`, `$ORCHESTRATE_PODS`, `./pods.toml`, `<config dir>/orchestrate/pods.toml`.

    One that was named is taken even where it does not exist: reading it then says so.
    """
    if named is not None:
        return named
    if variable := os.environ.get(PODS_VARIABLE):
        return Path(variable)
    places = (Path(PODS_FILE), config_dir() / PODS_FILE)
    return next((path for path in places if path.exists()), None)


def pod_names(named: Path | None = None) -> list[str]:
    """The names in the file, unchecked; none where it cannot be read."""
    path = find_pods_file(named)
    try:
        pods = tomllib.loads(path.read_text(encoding="utf-8")).get("pods") if path else None
    except (OSError, ValueError, RecursionError):
        return []
    return list(pods) if isinstance(pods, dict) else []

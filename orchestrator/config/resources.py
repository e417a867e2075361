"""Files that ship with the program: playbooks and report templates."""

from __future__ import annotations

from pathlib import Path

import orchestrator
from orchestrator.config.hints import did_you_mean, listing, shown
from orchestrator.errors import UsageError

DEFAULT_PLAYBOOK = "m4-02-selection"

_SUFFIXES = (".yaml", ".yml")


def resource(*parts: str) -> Path:
    """A file or folder that ships with the program, such as `resource("reports", "templates")`.

    In a checkout these lie at the top, beside the package; a wheel carries them within it.
    """
    package = Path(orchestrator.__file__).resolve().parent
    carried = package / "_data"
    path = (carried if carried.is_dir() else package.parent).joinpath(*parts)
    if not path.exists():
        raise UsageError(
            f"{'/'.join(parts)} is missing from this installation: {path}",
            remedy="install orchestrate again, or run it from a complete checkout",
        )
    return path


def shipped_playbooks() -> dict[str, Path]:
    """The playbooks that ship with the program, by name."""
    folder = resource("playbooks")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES}


def find_playbook(name_or_path: str | None = None) -> Path:
    """The playbook of this name or at this path; without either, the M4-02 selection playbook.

    A name never means a file that happens to lie in the current folder: `./name` does.
    """
    wanted = DEFAULT_PLAYBOOK if name_or_path is None else name_or_path
    if "\0" in wanted:
        raise UsageError(f"{shown(wanted)} is not a file name")
    path = Path(wanted)
    if path.suffix in _SUFFIXES or len(path.parts) > 1 or wanted.startswith("./"):
        if not _exists(path):
            raise UsageError(f"there is no playbook {shown(wanted)}{_beside(path)}")
        return path
    shipped = shipped_playbooks()
    if wanted not in shipped:
        raise UsageError(
            f"there is no playbook named {shown(wanted)}{did_you_mean(wanted, shipped)}",
            remedy=f"names: {listing(shipped)}; or the path of a .yaml file",
        )
    return shipped[wanted]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file's
        return False


def _beside(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in _SUFFIXES]
    except OSError:
        return ""
    return did_you_mean(path.name, names)

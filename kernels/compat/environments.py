"""A Python environment for each version of Triton, kept in the user's cache.

A virtual environment holds one Triton wheel and what old ones import besides. Torch, which only
the launchers need, is shared: that of this interpreter where it has one, else a copy of its own in
the same cache. Where this interpreter has the wanted Triton too, it serves as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""Exactly: other versions bring gigabytes of CUDA, and none is needed."""
BESIDE_TRITON = ("setuptools<81",)
"""Imported by Triton before 3.2."""
BESIDE_TORCH = ("numpy<2",)
"""As in `kernels/requirements.txt`."""


class EnvironmentFailed(Exception):
    """An environment cannot be made; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Environment:
    """An interpreter with one version of Triton."""

    triton: str
    python: Path


def cache_dir() -> Path:
    """Where environments are kept: `$ORCHESTRATE_CACHE`, else the XDG cache."""
    named = os.environ.get("ORCHESTRATE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(named) if named else Path(base) / "orchestrate"
    return home.absolute() / "compat"


def own_triton() -> str | None:
    """Version of the Triton that this interpreter can use for all that is needed, if any."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        return None
    return importlib.metadata.version("triton")


def torch_folder(cache: Path) -> Path:
    """The site-packages folder that has torch; installs one where this interpreter has none.

    Raises:
        EnvironmentFailed: pip cannot install it.
    """
    found = importlib.util.find_spec("torch")
    if found is not None and found.origin is not None:
        return Path(found.origin).parents[1]
    return _site_packages(_made(cache, "torch", (TORCH, *BESIDE_TORCH), dependencies=True))


def environment(version: str, cache: Path, torch_at: Path) -> Environment:
    """The environment of one version of Triton, made where it is missing.

    Args:
        version: such as `3.1.0`.
        cache: folder that keeps the environments.
        torch_at: the site-packages folder that has torch.

    Raises:
        EnvironmentFailed: pip cannot install it, for instance because this Python is too new.
    """
    if version == own_triton():
        return Environment(version, Path(sys.executable))
    home = _made(cache, f"triton-{version}", (f"triton=={version}", *BESIDE_TRITON))
    # behind the folder it lies in, so that a Triton beside torch does not come first
    (_site_packages(home) / "torch.pth").write_text(f"{torch_at}\n", encoding="utf-8")
    return Environment(version, home / "bin" / "python")


def _made(
    cache: Path, name: str, requirements: tuple[str, ...], *, dependencies: bool = False
) -> Path:
    """A virtual environment in the cache that is complete."""
    home = cache / f"{name}-{sys.implementation.cache_tag}"
    with _locked(home):
        if (home / "complete").exists():
            return home
        shutil.rmtree(home, ignore_errors=True)  # left by one that died
        venv.create(home, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
        pip += ["install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        if not dependencies:
            pip.append("--no-deps")
        done = subprocess.run([*pip, *requirements], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFailed(_why(requirements, done.stderr))
        (home / "complete").touch()
    return home


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Two matrices at once do not install into the same folder."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with home.with_name(f"{home.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise EnvironmentFailed(
            f"{home} cannot be made: {error}; name another folder with --cache"
        ) from None


def _site_packages(home: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(home)}))


def _why(requirements: tuple[str, ...], stderr: str) -> str:
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    said = (errors or stderr.strip().splitlines() or ["pip said nothing"])[-1]
    return (
        f"{' '.join(requirements)} cannot be installed for Python "
        f"{sys.version_info.major}.{sys.version_info.minor}: {said.removeprefix('ERROR: ')}; "
        "remedy: an interpreter that this version has a wheel for, or another list of --triton"
    )

"""The embedded pod of a controller that was killed: its keys do not stay."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.transport.embedded import embedded_pod

SERVE = """
import sys
from pathlib import Path
from orchestrator.transport.embedded import embedded_pod
with embedded_pod(Path("work"), Path("venv"), "python3") as pod:
    print(pod.identity_file.parent, flush=True)
    sys.stdin.read()
"""


def served(tmp: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={**os.environ, "TMPDIR": str(tmp)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def age(folder: Path) -> None:
    """An hour old: younger ones may be about to be locked."""
    os.utime(folder, (time.time() - 3600,) * 2)


def test_keys_of_a_killed_controller_are_swept_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead, stale), (alive, live) = served(tmp_path), served(tmp_path)
    try:
        assert (stale / "id_ed25519").exists()
        dead.kill()
        dead.communicate()
        foreign = tmp_path / "orchestrate-pod-link"
        foreign.symlink_to(tmp_path)
        for folder in (stale, live):
            age(folder)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with embedded_pod(tmp_path / "work", tmp_path / "venv", "python3"):
            assert not stale.exists()
            assert (live / "id_ed25519").exists()
        assert foreign.is_symlink()
    finally:
        alive.communicate()  # its standard input ends, and so does it
    assert sorted(path.name for path in tmp_path.iterdir()) == [foreign.name]


def test_a_young_one_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    young = tmp_path / "orchestrate-pod-young"
    young.mkdir()
    with embedded_pod(tmp_path / "work", tmp_path / "venv", "python3"):
        assert young.exists()

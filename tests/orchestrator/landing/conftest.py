"""A user, a repository with an origin, and what is to be landed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from landing_repository import (
    CONFIG,
    DOC,
    ENABLE,
    KEY,
    RUN,
    Gh,
    Repository,
)

from orchestrator.landing.request import LandRequest


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user with a name, and temporary folders that can be counted."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    quick = "[core]\nfsync = none\n[maintenance]\nauto = false\n[gc]\nauto = 0\n"
    (home / ".gitconfig").write_text(f"{quick}[user]\nname = Ada\nemail = ada@example.org\n")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    return home


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Repository:
    return Repository.create(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def repository(tmp_path, pristine, home) -> Iterator[Repository]:
    """Whatever a test does, no worktree and no temporary file may be left."""
    made = pristine.copy(tmp_path)
    yield made
    assert made.only_the_checkout()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.fixture
def evidence(tmp_path) -> list[Path]:
    folder = tmp_path / "run"
    folder.mkdir()
    files = {
        "selection_report.md": "# ENABLE\n",
        "sel_dense.csv": "a\n1\n",
        "sel_varlen.csv": "b\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


@pytest.fixture
def request_(repository, evidence) -> LandRequest:
    return LandRequest(
        decision=ENABLE,
        run_id=RUN,
        root=repository.root,
        config_file=CONFIG,
        key=KEY,
        report=evidence[0],
        benches=tuple(evidence[1:]),
        rationale_doc=DOC,
        rationale="# KEEP_OFF\n\nIt is slower.\n",
        pr_body="The report.\n",
    )


@pytest.fixture
def gh(tmp_path, monkeypatch) -> Gh:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Gh(folder)

"""Branches, paths and repositories that are not landed in."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from landing_repository import (
    CONFIG,
    KEEP_OFF,
    refused,
)

from orchestrator.errors import LandingError
from orchestrator.landing.git import Git


@pytest.mark.parametrize("name", ["main", "master", "trunk", "-f", "a..b", "", "@{-1}"])
def test_default_branches_and_odd_names_are_refused(repository, request_, name):
    repository("config", "init.defaultBranch", "trunk")
    says = "is a default branch" if name.isalpha() else "is not a name for a branch"
    refused(replace(request_, branch=name), says)


def test_the_default_branch_of_origin_is_refused_whatever_its_name(repository, request_, gh):
    repository("branch", "-m", "main", "stable", at=repository.origin)
    refused(replace(request_, branch="stable", pr=True), "is the default branch of origin")
    repository("fetch", "-q", "--prune")
    repository("remote", "set-head", "origin", "stable")
    assert Git(repository.root).default_branch == "stable"
    refused(replace(request_, branch="stable"), "is a default branch")
    with pytest.raises(LandingError, match="never pushed to"):
        Git(repository.root).push("stable", default_branch=None)
    assert repository.pushed() == ["stable"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config_file": "../base.yaml"}, "is not a path within"),
        ({"config_file": "/etc/hosts"}, "is not a path within"),
        ({"config_file": ""}, "is not a path within"),
        ({"config_file": "a\0b"}, "is not a path within"),
        ({"folder": ".git/hooks"}, "is not a path within"),
        ({"folder": "a/../../b"}, "is not a path within"),
        ({"folder": "out"}, "out is a symbolic link"),
        ({"config_file": "link.yaml"}, "link.yaml is a symbolic link"),
        ({"decision": KEEP_OFF, "rationale_doc": "out/doc.md"}, "out is a symbolic link"),
        ({"decision": KEEP_OFF, "rationale_doc": CONFIG}, "would be written twice"),
        ({"folder": "kernels/configs", "report": "base.yaml"}, "would be written twice"),
        ({"benches": "twice"}, "two files of the evidence are named"),
        ({"report": "none.md"}, "none.md is not a file"),
        ({"report": "link.md"}, "link.md is not a file"),
        ({"report": "huge.md"}, "is larger than 10 MiB"),
    ],
)
def test_paths_stay_within_the_repository(repository, request_, evidence, tmp_path, change, says):
    (repository.root / "out").symlink_to(tmp_path)
    (repository.root / "link.yaml").symlink_to(CONFIG)
    run = evidence[0].parent
    (run / "link.md").symlink_to(evidence[0])
    (run / "base.yaml").write_text("x")
    with (run / "huge.md").open("wb") as file:
        file.truncate((10 << 20) + 1)
    if "report" in change:
        change = {**change, "report": run / change["report"]}
    if "benches" in change:
        change = {"benches": (evidence[1], evidence[1])}
    refused(replace(request_, **change), says)
    assert repository.branches() == ["main"]


def test_a_link_in_the_commit_is_not_followed(repository, request_, tmp_path):
    (repository.root / "reports").symlink_to(tmp_path)
    repository("add", "--force", "reports")
    repository("commit", "-qm", "link")
    (repository.root / "reports").unlink()
    refused(request_, "reports is a symbolic link")
    assert not (tmp_path / "runs").exists()


def test_not_a_repository(request_, tmp_path):
    refused(replace(request_, root=tmp_path / "run"), "is not the work tree of a git repository")
    refused(replace(request_, root=tmp_path / "nowhere"), "there is no folder")


def test_a_repository_without_a_commit(request_, tmp_path):
    empty = tmp_path / "empty"
    subprocess.run(["git", "init", "-q", empty], check=True)
    refused(replace(request_, root=empty), "has no commit yet")


def test_no_git(request_, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(request_, "git is not installed")
    monkeypatch.undo()
    assert "apt-get install git" in (error.remedy or "")


def test_a_user_without_a_name(repository, request_, home):
    (home / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    error = refused(request_, "git does not know who commits")
    assert "git config --global user.name" in (error.remedy or "")
    assert repository.branches() == ["main"]

"""The user's checkout, hooks and interruptions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from landing_repository import (
    BRANCH,
    CONFIG,
    DOC,
    FOLDER,
    KEEP_OFF,
    TEXT,
    refused,
)

from orchestrator.errors import ConfigError
from orchestrator.landing.git import Git
from orchestrator.landing.land import land


def test_the_checkout_is_not_touched(repository, request_):
    repository("switch", "-qc", "feature")
    repository.write("README.md", "staged\n")
    repository("add", "README.md")
    repository.write("README.md", "and not\n")
    repository.write("notes.txt", "mine\n")
    before = repository.state()
    landed = land(request_)
    assert repository.state() == before
    assert landed.notes == (f"uncommitted changes are not on {BRANCH}: README.md",)
    assert repository("show", f"{BRANCH}:README.md") == "hello"


def test_landing_from_a_folder_within_and_on_a_detached_head(repository, request_):
    repository("checkout", "-q", "--detach")
    landed = land(
        replace(request_, root=repository.root / "kernels", config_file="configs/base.yaml")
    )
    assert repository("show", f"{BRANCH}:{CONFIG}") == TEXT.replace("4096", "256").strip()
    assert f"kernels/{FOLDER}/sel_dense.csv" in repository("diff", "--name-only", "main", BRANCH)
    assert landed.notes == ()


def test_variables_of_a_hook_do_not_lead_elsewhere(repository, request_, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    landed = land(request_)
    monkeypatch.undo()
    assert Git(repository.root).branch(BRANCH) == landed.commit
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("how", ["changed", "staged", "deleted"])
def test_uncommitted_config_is_refused(repository, request_, how):
    if how == "deleted":
        (repository.root / CONFIG).unlink()
    else:
        repository.write(CONFIG, TEXT + "more: 1\n")
    if how == "staged":
        repository("add", CONFIG)
    before = repository.state()
    error = refused(request_, f"uncommitted changes in {CONFIG}")
    assert "commit them" in (error.remedy or "")
    assert repository.state() == before
    assert repository.branches() == ["main"]


def test_an_uncommitted_rationale_is_refused_where_it_would_be_written(repository, request_):
    repository.write(DOC, "draft\n")
    refused(replace(request_, decision=KEEP_OFF), f"uncommitted changes in {DOC}")
    assert land(request_).branch == BRANCH


def test_a_config_that_git_ignores_is_not_in_the_commit(repository, request_):
    repository.write("local/base.csv", TEXT)
    refused(replace(request_, config_file="local/base.csv"), "is not in the commit to land on")
    assert repository.branches() == ["main"]


def test_a_config_without_the_key(repository, request_):
    with pytest.raises(ConfigError, match=r"base\.yaml:2:1: there is no runtime\.min_L"):
        land(replace(request_, key="runtime.min_L"))


# --- hooks and interruptions ----------------------------------------------------------------------


def test_a_hook_that_refuses(repository, request_):
    repository.hook("pre-commit", "printf '\\033[31mlint: line too long\\n' >&2; exit 1")
    before = repository.state()
    error = refused(request_, "lint: line too long")
    assert "\x1b" not in str(error)
    assert repository.branches() == ["main"]
    assert repository.state() == before


def test_hooks_see_the_whole_tree_and_may_add_to_it(repository, request_):
    repository.hook("pre-commit", "test -f README.md && echo x > CHANGES && git add CHANGES")
    landed = land(request_)
    assert landed.notes == ("a commit hook added: CHANGES",)
    assert repository("show", f"{BRANCH}:CHANGES") == "x"


def test_signing_is_the_users_business(repository, request_):
    repository("config", "commit.gpgsign", "true")
    repository("config", "gpg.program", "/bin/false")
    refused(request_, "git commit failed")
    assert repository.branches() == ["main"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("set_value", OSError),
        ("Git.commit_files", KeyboardInterrupt),
        ("Git.create_branch", RuntimeError),
    ],
)
def test_an_interruption_leaves_nothing(repository, request_, monkeypatch, where, error):
    def interrupted(*_, **__):
        raise error

    before = repository.state()
    with monkeypatch.context() as patch:
        patch.setattr(f"orchestrator.landing.land.{where}", interrupted)
        with pytest.raises(error):
            land(request_)
    assert repository.branches() == ["main"]
    assert repository.state() == before
    assert land(request_).branch == BRANCH


def test_a_branch_made_in_the_meantime_is_kept(repository, request_):
    repository.hook("post-commit", f"git branch {BRANCH} HEAD^")
    refused(request_, f"branch {BRANCH} cannot be created")
    assert repository("rev-parse", BRANCH) == repository("rev-parse", "main")


def test_a_hook_that_hangs(repository, request_, monkeypatch):
    monkeypatch.setattr("orchestrator.landing.git._SLOW_S", 0.5)
    repository.hook("pre-commit", "sleep 3")
    refused(request_, "git commit --quiet took more than 0.5 s")
    assert repository.branches() == ["main"]

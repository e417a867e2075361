"""Pull requests, and what `gh` and origin may answer."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from landing_repository import (
    BRANCH,
    CONFIG,
    KEY,
    URL,
    refused,
)

from orchestrator.landing.config_edit import read_value
from orchestrator.landing.forge import MAX_BODY, fit
from orchestrator.landing.git import Git
from orchestrator.landing.land import land
from orchestrator.landing.tools import shown


def test_a_pull_request(repository, request_, gh):
    landed = land(replace(request_, pr=True))
    assert landed.pr_url == URL
    assert repository("rev-parse", BRANCH, at=repository.origin) == landed.commit
    assert repository.pushed() == ["main", BRANCH]
    assert gh.calls() == [
        ["auth", "status"],
        ["pr", "list", "--head", BRANCH, "--state", "open", "--limit", "1", "--json", "url"],
        [
            "pr", "create", "--title", "Enable Triton selection from L=256", "--body-file", "-",
            "--head", BRANCH, "--base", "main",
        ],
    ]  # fmt: skip
    assert (gh.folder / "body").read_text() == "The report.\n"
    assert landed.notes == ()


def test_an_open_pull_request_is_found(repository, request_, gh):
    first = land(replace(request_, pr=True))
    (gh.folder / "listed").write_text(json.dumps([{"url": URL}]))
    repository.hook("pre-push", "exit 1")
    second = land(replace(request_, pr=True))
    assert (second.pr_url, second.commit, second.already) == (URL, first.commit, True)
    assert [call[:2] for call in gh.calls()].count(["pr", "create"]) == 1


def test_commits_that_a_reviewer_will_also_see(repository, request_, gh):
    repository("switch", "-qc", "feature")
    repository("commit", "-qm", "wip", "--allow-empty")
    landed = land(replace(request_, pr=True))
    assert landed.notes == (
        "the pull request also shows 1 commit of yours that origin/main does not have",
    )


def test_no_gh(repository, request_, monkeypatch, tmp_path):
    only_git = tmp_path / "only-git"
    only_git.mkdir()
    (only_git / "git").symlink_to(subprocess.check_output(["which", "git"], text=True).strip())
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(only_git))
        error = refused(replace(request_, pr=True), "gh is not installed")
    assert "gh auth login; or land without --pr" in (error.remedy or "")
    assert (repository.branches(), repository.pushed()) == (["main"], ["main"])


def test_gh_not_logged_in(repository, request_, gh):
    (gh.folder / "logged-out").touch()
    error = refused(replace(request_, pr=True), "gh is not logged in")
    assert "not logged into any" in error.message
    assert (repository.branches(), repository.pushed()) == (["main"], ["main"])


def test_gh_that_fails_leaves_what_can_be_gone_on_from(repository, request_, gh):
    (gh.folder / "refuses").touch()
    error = refused(replace(request_, pr=True), "gh cannot open the pull request")
    assert "GraphQL: no" in error.message
    assert repository.pushed() == ["main", BRANCH]
    (gh.folder / "refuses").unlink()
    assert land(replace(request_, pr=True)).pr_url == URL


@pytest.mark.parametrize("listed", ["{}", "[{}]", "oops", "3"])
def test_gh_that_answers_nonsense(request_, gh, listed):
    (gh.folder / "listed").write_text(listed)
    refused(replace(request_, pr=True), "answered without an address")


def test_a_push_that_is_refused(repository, request_, gh):
    repository.hook("pre-push", "echo 'the build is red' >&2; exit 1")
    error = refused(replace(request_, pr=True), "the push to origin failed")
    assert "the build is red" in error.message
    assert f"local branch {BRANCH}" in (error.remedy or "")
    assert repository.pushed() == ["main"]


def test_a_branch_of_origin_is_never_overwritten(repository, request_, gh):
    repository("branch", BRANCH, "main", at=repository.origin)
    error = refused(replace(request_, pr=True), f"origin has a branch {BRANCH}")
    assert f"git fetch origin {BRANCH}:{BRANCH}" in (error.remedy or "")
    repository("commit", "-qm", "other", "--allow-empty")
    repository("push", "-q", "origin", f"HEAD:{BRANCH}", "--force")
    theirs = repository("rev-parse", BRANCH, at=repository.origin)
    repository("reset", "-q", "--hard", "HEAD^")
    land(request_)
    refused(replace(request_, pr=True), "the push to origin failed")
    assert repository("rev-parse", BRANCH, at=repository.origin) == theirs


def test_no_origin_and_one_that_is_gone(repository, request_, gh):
    repository("remote", "set-url", "origin", "/nowhere/at/all")
    refused(replace(request_, pr=True), "origin does not answer")
    repository("remote", "remove", "origin")
    refused(replace(request_, pr=True), "has no remote named origin")
    assert repository.branches() == ["main"]


# --- small things ---------------------------------------------------------------------------------


def test_a_body_is_cut_at_a_line():
    body = "".join(f"line {number}\n" for number in range(9000))
    cut = fit(body)
    assert len(cut) <= MAX_BODY
    assert cut.startswith("> This text was cut")
    assert cut.endswith("\n")
    assert body.startswith(cut.partition("\n\n")[2])
    assert fit("short") == "short"
    assert len(fit("x" * (MAX_BODY + 1))) == MAX_BODY


def test_what_programs_say_is_made_fit_to_show():
    assert (
        shown(b"\x1b[1mfatal\x1b[0m: https://me:secret@host/x\r\n\n\x9b")
        == "fatal: https://***@host/x\n\ufffd"
    )
    assert len(shown(b"line\n" * 9000).splitlines()) == 40


def test_branches_as_git_knows_them(repository):
    git = Git(repository.root)
    assert git.current_branch == git.default_branch == "main"
    repository("remote", "set-head", "origin", "--delete")
    assert git.default_branch == "main"
    repository("branch", "-m", "main", "trunk")
    assert git.default_branch is None
    repository("config", "init.defaultBranch", "trunk")
    assert git.default_branch == "trunk"
    repository("checkout", "-q", "--detach")
    assert git.current_branch is None
    assert read_value(repository.root / CONFIG, KEY) == 4096

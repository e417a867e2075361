"""Landing in real repositories. Only `gh`, the client of a service, is a stand-in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, ExitCode, LandingError
from orchestrator.landing.config_edit import read_value
from orchestrator.landing.forge import MAX_BODY, fit
from orchestrator.landing.git import Git
from orchestrator.landing.land import land, plan
from orchestrator.landing.request import LandRequest
from orchestrator.landing.tools import shown
from orchestrator.models.verdict import Decision, Obstacle, Outcome, Reason

RUN = "20250102-030405-9f3a"
BRANCH = f"orchestrate/{RUN}"
FOLDER = f"reports/runs/{RUN}"
CONFIG = "kernels/configs/base.yaml"
KEY = "runtime.sel_triton_min_L"
DOC = "Documentation/Rationale.md"
TEXT = "# base\nruntime:\n  sel_triton_min_L: 4096  # packed SDPA below\n"
URL = "https://github.example/acme/nsa/pull/7"

ENABLE = Decision(outcome=Outcome.ENABLE, min_L=256, margin=1.2, summary="ENABLE from L=256")
KEEP_OFF = Decision(outcome=Outcome.KEEP_OFF, min_L=2048, margin=1.2, summary="KEEP_OFF: slower")
UNDECIDED = Decision(
    outcome=Outcome.UNDECIDED,
    margin=1.2,
    summary="UNDECIDED: the pod has no CUDA device",
    obstacles=(Obstacle(reason=Reason.NO_CUDA_DEVICE, message="no device"),),
)


class Repository:
    """A clone with one commit, and its bare origin."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.root = folder / "origin.git", folder / "clone"

    @classmethod
    def create(cls, folder: Path) -> Repository:
        made = cls(folder)
        for arguments in (
            ("init", "-q", "--template=", "--bare", "-b", "main", str(made.origin)),
            ("init", "-q", "--template=", "-b", "main", str(made.root)),
        ):
            made(*arguments, at=folder)
        made.write(CONFIG, TEXT)
        made.write("README.md", "hello\n")
        made.write(".gitignore", "*.csv\nreports/\n")
        made("add", ".")
        made("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-qm", "first")
        made("remote", "add", "origin", str(made.origin))
        made("push", "-q", "origin", "main")
        made("remote", "set-head", "origin", "main")
        return made

    def copy(self, folder: Path) -> Repository:
        copied = Repository(folder)
        shutil.copytree(self.origin, copied.origin)
        shutil.copytree(self.root, copied.root)
        configuration = copied.root / ".git/config"
        text = configuration.read_text().replace(str(self.origin), str(copied.origin))
        configuration.write_text(text)
        return copied

    def __call__(self, *arguments: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=at or self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def hook(self, name: str, script: str) -> None:
        path = self.write(f".git/hooks/{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def branches(self) -> list[str]:
        return self("for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def pushed(self) -> list[str]:
        return self("for-each-ref", "--format=%(refname:short)", at=self.origin).split()

    def state(self) -> tuple[object, ...]:
        """Everything of the checkout that landing must leave alone."""
        files = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.root).parts
        }
        index = (self.root / ".git/index").read_bytes()
        return self("symbolic-ref", "HEAD"), self("rev-parse", "HEAD"), index, files

    def only_the_checkout(self) -> bool:
        return len(self("worktree", "list", "--porcelain").split("\n\n")) == 1


@pytest.fixture(autouse=True)
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


@pytest.fixture(scope="module")
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


class Gh:
    """A `gh` that notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "gh"
        self.script.write_text(
            f"""#!/bin/sh
cd {folder}
printf '%s\\n' "$@" >> calls; echo -- >> calls
case "$1 $2" in
"auth status") test ! -e logged-out || {{ echo 'You are not logged into any host' >&2; exit 1; }} ;;
"pr list") cat listed 2>/dev/null || echo '[]' ;;
"pr create") test ! -e refuses || {{ echo 'GraphQL: no' >&2; exit 1; }}
  cat > body; echo 'Creating pull request' >&2; echo {URL} ;;
esac
"""
        )
        self.script.chmod(0o755)

    def calls(self) -> list[list[str]]:
        text = (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""
        return [call.splitlines() for call in text.split("--\n")[:-1]]


@pytest.fixture
def gh(tmp_path, monkeypatch) -> Gh:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Gh(folder)


def refused(request: LandRequest, says: str) -> LandingError:
    with pytest.raises(LandingError, match=re.escape(says)) as caught:
        land(request)
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value


# --- the three decisions --------------------------------------------------------------------------


def test_enable_is_one_line_of_config_with_its_evidence(repository, request_):
    landed = land(request_)
    assert landed.branch == BRANCH
    assert repository("rev-parse", BRANCH) == landed.commit
    assert repository("rev-parse", f"{BRANCH}^") == repository("rev-parse", "main")
    files = [
        CONFIG,
        *(f"{FOLDER}/{n}" for n in ("sel_dense.csv", "sel_varlen.csv", "selection_report.md")),
    ]
    assert list(landed.files) == files
    assert repository("diff", "--name-only", "main", BRANCH).split() == files
    assert repository("show", f"{BRANCH}:{CONFIG}") == TEXT.replace("4096", "256").strip()
    assert repository("diff", "--numstat", "main", BRANCH, "--", CONFIG).split()[:2] == ["1", "1"]
    assert repository("show", f"{BRANCH}:{FOLDER}/sel_dense.csv") == "a\n1"
    assert (landed.edit.before, landed.edit.after) == (4096, 256)
    assert f"+++ b/{CONFIG}\n" in landed.edit.diff
    message = repository("log", "-1", "--format=%an%n%B", BRANCH)
    assert message.startswith("Ada\nEnable Triton selection from L=256\n\n")
    assert f"{KEY}: 4096 -> 256\nDecision: ENABLE(L>=256), margin 1.2\nRun: {RUN}" in message
    assert (landed.already, landed.pr_url, landed.notes) == (False, None, ())
    assert repository.pushed() == ["main"]


def test_flags_that_the_decision_needs_are_in_the_message(repository, request_):
    flags = {"NSA_SEL_TRITON_DB": "1", "NOTE": "a b"}
    land(replace(request_, decision=ENABLE.model_copy(update={"environment": flags})))
    message = repository("log", "-1", "--format=%B", BRANCH)
    assert message.endswith("Measured with: NSA_SEL_TRITON_DB=1 'NOTE=a b'")


@pytest.mark.parametrize(("current", "after"), [(4096, 4096), (2048, 2048), (0, 2048)])
def test_keep_off_never_lowers_the_threshold(repository, request_, current, after):
    repository.write(CONFIG, TEXT.replace("4096", str(current)))
    repository("commit", "-qam", "current", "--allow-empty")
    landed = land(replace(request_, decision=KEEP_OFF))
    assert f"sel_triton_min_L: {after}  # packed" in repository("show", f"{BRANCH}:{CONFIG}")
    assert repository("show", f"{BRANCH}:{DOC}") == "# KEEP_OFF\n\nIt is slower."
    assert DOC in landed.files
    assert landed.edit.changed == (current != after)
    assert bool(landed.notes) == (current == after)


def test_keep_off_lands_above_the_lengths_that_lost(repository, request_):
    decision = KEEP_OFF.model_copy(update={"min_L": 8193})
    land(replace(request_, decision=decision))
    assert "sel_triton_min_L: 8193  # packed" in repository("show", f"{BRANCH}:{CONFIG}")


def test_undecided_lands_nothing(repository, request_):
    before = repository.state()
    error = refused(
        replace(request_, decision=UNDECIDED, pr=True), "an undecided run lands nothing"
    )
    assert "no CUDA device" in error.message
    assert repository.branches() == ["main"]
    assert repository.state() == before


def test_keep_off_needs_its_rationale(request_):
    keep_off = replace(request_, decision=KEEP_OFF)
    refused(replace(keep_off, rationale="  "), "lands with its rationale")
    refused(replace(keep_off, rationale_doc=None), "lands with its rationale")


def test_a_plan_writes_nothing(repository, request_):
    before = repository.state()
    planned = plan(request_)
    assert (planned.branch, planned.edit.after, len(planned.contents)) == (BRANCH, 256, 3)
    assert repository.branches() == ["main"]
    assert repository.state() == before


# --- the user's checkout --------------------------------------------------------------------------


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


# --- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [ENABLE, KEEP_OFF])
def test_landing_twice_is_landing_once(repository, request_, decision):
    first = land(replace(request_, decision=decision))
    repository.write("README.md", "later\n")
    repository("commit", "-qam", "later")
    second = land(replace(request_, decision=decision))
    assert second.already
    assert (second.commit, second.edit, second.files) == (first.commit, first.edit, first.files)
    assert second.notes[-1].startswith(f"landed before: {BRANCH} holds it")


def test_a_report_that_tells_of_the_first_landing_is_no_other_landing(request_, repository):
    first = land(request_)
    request_.report.write_text("# ENABLE\n\nLanded.\n")
    assert land(request_).commit == first.commit
    assert repository("show", f"{BRANCH}:{FOLDER}/selection_report.md") == "# ENABLE"
    shared = replace(request_, folder="reports/latest", branch="latest")
    land(shared)
    request_.report.write_text("# KEEP_OFF\n")
    refused(shared, "what is on it differs")


def test_a_branch_with_something_else_is_refused(repository, request_, evidence):
    first = land(request_)
    evidence[1].write_text("a\n2\n")
    error = refused(request_, f"the branch {BRANCH} exists, and what is on it differs")
    assert f"git branch -D {BRANCH}" in (error.remedy or "")
    assert repository("rev-parse", BRANCH) == first.commit


@pytest.mark.parametrize("deleted", [False, True])
def test_what_is_merged_is_not_landed_again(repository, request_, deleted):
    land(request_)
    repository("merge", "-q", "--no-ff", "-m", "merge", BRANCH)
    if deleted:
        repository("branch", "-d", BRANCH)
    again = land(request_)
    assert (again.already, again.branch, again.commit) == (
        True,
        None,
        repository("rev-parse", "main"),
    )
    assert "HEAD holds all of it already" in again.notes[-1]


def test_landing_again_while_on_the_branch(repository, request_):
    first = land(request_)
    repository("switch", "-q", BRANCH)
    assert land(request_).branch == first.branch


# --- what must not happen -------------------------------------------------------------------------


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


# --- pull requests --------------------------------------------------------------------------------


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

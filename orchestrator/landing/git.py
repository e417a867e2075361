"""A few commands of git, typed. None of them writes to the user's checkout or forces anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import LandingError
from orchestrator.landing.tools import Finished, run

ORIGIN = "origin"
_QUICK_S = 120.0
_SLOW_S = 900.0  # hooks, signing, the network
_USUAL_DEFAULTS = ("main", "master")


@dataclass(frozen=True)
class Remote:
    """What origin says it has, now."""

    default_branch: str | None
    sha: str | None
    """Of the branch that was asked for; None when origin has no such branch."""


@dataclass(frozen=True)
class Git:
    """Git in one folder of a work tree, deaf to the caller's `GIT_*` variables.

    Hooks and signing run as the user has configured them.
    """

    root: Path

    # --- reading ----------------------------------------------------------------------------------

    @property
    def is_repository(self) -> bool:
        """Whether the folder lies in a work tree."""
        return self._word("rev-parse", "--is-inside-work-tree") == "true"

    def require_commit(self) -> str:
        """The commit that is checked out; LandingError without one, or outside a repository."""
        if not self.is_repository:
            said = self._run("rev-parse", "--is-inside-work-tree").said
            raise LandingError(
                f"{self.root} is not the work tree of a git repository: {said}",
                remedy="name the repository to land in with --repo",
            )
        head = self.head
        if head is None:
            raise LandingError(
                f"{self.root} has no commit yet, so there is nothing to branch from",
                remedy="commit the configuration first",
            )
        return head

    @property
    def head(self) -> str | None:
        """The commit that is checked out, None before the first one."""
        return self.commit("HEAD")

    @property
    def current_branch(self) -> str | None:
        """The branch that is checked out, None on a detached HEAD."""
        return self._word("symbolic-ref", "--quiet", "--short", "HEAD")

    @property
    def prefix(self) -> str:
        """The folder as seen from the top of the work tree: empty, or ending in `/`."""
        return self._word("rev-parse", "--show-prefix") or ""

    def commit(self, name: str) -> str | None:
        """The commit that a name stands for."""
        return self._word("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def branch(self, name: str) -> str | None:
        """The commit a local branch is at, None when there is no such branch."""
        return self.commit(f"refs/heads/{name}")

    def is_branch_name(self, name: str) -> bool:
        """Whether git would take this for the name of a branch."""
        if name.startswith(("-", "@{")):
            return False
        return self._run("check-ref-format", f"refs/heads/{name}").exit_code == 0

    @property
    def default_branch(self) -> str | None:
        """What origin/HEAD says; else init.defaultBranch, main or master, the first there is."""
        known = self._word("symbolic-ref", "--quiet", "--short", f"refs/remotes/{ORIGIN}/HEAD")
        if known:
            return known.removeprefix(f"{ORIGIN}/")
        return next((name for name in self._likely_defaults() if self.branch(name)), None)

    @property
    def protected_branches(self) -> frozenset[str]:
        """Branches that nothing is ever landed on, as far as this clone knows."""
        names = {*self._likely_defaults(), self.default_branch}
        return frozenset(name for name in names if name)

    def _likely_defaults(self) -> list[str]:
        configured = self._word("config", "--get", "init.defaultBranch")
        return [*([configured] if configured else []), *_USUAL_DEFAULTS]

    def uncommitted(self, *paths: str, untracked: bool = True) -> list[str]:
        """Files with changes that no commit has, staged or not, from the top of the work tree.

        Args:
            paths: look at these only, relative to the folder; everywhere by default.
            untracked: also list files that git does not know (ignored ones never are).
        """
        listing = self._checked(
            "--literal-pathspecs",
            "status",
            "--porcelain=v1",
            "-z",
            "--no-renames",
            f"--untracked-files={'all' if untracked else 'no'}",
            "--",
            *paths,
        )
        return sorted(os.fsdecode(entry[3:]) for entry in listing.split(b"\0") if entry)

    def count(self, revisions: str) -> int:
        """Number of commits in a range such as `a..b`."""
        return int(self._checked("rev-list", "--count", revisions, "--"))

    def contains(self, commit: str, other: str) -> bool:
        """Whether `other` is `commit`, or an ancestor of it."""
        return self._run("merge-base", "--is-ancestor", other, commit).exit_code == 0

    def changed(self, commit: str) -> list[str]:
        """Files that a commit changed, from the top of the work tree."""
        listing = self._checked(
            "diff-tree", "--root", "--no-commit-id", "--name-only", "-r", "-z", commit
        )
        return sorted(os.fsdecode(path) for path in listing.split(b"\0") if path)

    def require_identity(self) -> None:
        """Raises LandingError unless git knows whom to name as author and committer."""
        for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
            if self._run("var", who).exit_code:
                raise LandingError(
                    f"git does not know who commits in {self.root}",
                    remedy="git config --global user.name NAME; "
                    "git config --global user.email ADDRESS",
                )

    def remote(self, branch: str) -> Remote:
        """Ask origin for its default branch and for one other.

        Raises:
            LandingError: there is no origin, or it does not answer.
        """
        if self._word("remote", "get-url", ORIGIN) is None:
            raise LandingError(
                f"{self.root} has no remote named {ORIGIN} to push to",
                remedy=f"git remote add {ORIGIN} URL, or land without --pr",
            )
        ref = f"refs/heads/{branch}"
        done = self._run("ls-remote", "--symref", ORIGIN, "HEAD", ref, timeout_s=_SLOW_S)
        if done.exit_code:
            raise LandingError(
                f"{ORIGIN} does not answer:\n{done.said}",
                remedy=f"try: git -C {self.root} ls-remote {ORIGIN}; or land without --pr",
            )
        default = sha = None
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            value, _, name = line.partition("\t")
            if name == "HEAD" and value.startswith("ref: refs/heads/"):
                default = value.removeprefix("ref: refs/heads/")
            elif name == ref:
                sha = value
        return Remote(default, sha)

    # --- writing: branches and temporary worktrees, never the checkout ----------------------------

    @contextmanager
    def worktree(self, commit: str) -> Iterator[Git]:
        """The same folder in a temporary worktree at `commit`, on no branch; gone afterwards.

        On no branch, so that a commit that fails, or a process that dies, leaves none behind:
        `create_branch` names the commit once it is there.
        """
        prefix = self.prefix
        with tempfile.TemporaryDirectory(
            prefix="orchestrate-landing-", ignore_cleanup_errors=True
        ) as folder:
            tree = Path(folder).resolve() / "worktree"
            try:
                self._checked(
                    "worktree", "add", "--quiet", "--detach", str(tree), commit, timeout_s=_SLOW_S
                )
                inside = tree / prefix
                inside.mkdir(parents=True, exist_ok=True)
                yield Git(inside)
            finally:
                # Twice: git locks a worktree while it adds it.
                self._run("worktree", "remove", "--force", "--force", str(tree))

    def commit_files(self, paths: Sequence[str], message: str) -> str | None:
        """Commit these files, ignored or not; the commit, or None if they hold nothing new.

        Only for a worktree of `worktree()`: it takes over the index.

        Raises:
            LandingError: a hook or the signing refused; the message has what it said.
        """
        if not self.stage(paths):
            return None
        done = self._run(
            "commit", "--quiet", "--cleanup=verbatim", "--file=-", stdin=message, timeout_s=_SLOW_S
        )
        if done.exit_code:
            raise LandingError(
                f"git commit failed (a hook, or signing); nothing was landed:\n{done.said}",
                remedy="settle what it says, then land again",
            )
        return self.head

    def stage(self, paths: Collection[str]) -> bool:
        """Stage these files, ignored or not; whether that changes anything."""
        self._checked("--literal-pathspecs", "add", "--force", "--", *paths)
        done = self._run("diff", "--cached", "--quiet", "--no-ext-diff")
        if done.exit_code not in (0, 1):
            raise LandingError(f"git diff failed in {self.root}:\n{done.said}")
        return done.exit_code == 1

    def create_branch(self, name: str, commit: str) -> None:
        """Create a branch that does not exist yet; one made in the meantime is an error."""
        # An empty old value: git creates the name, or fails where somebody else has.
        done = self._run("update-ref", "-m", "orchestrate: land", f"refs/heads/{name}", commit, "")
        if done.exit_code:
            raise LandingError(
                f"branch {name} cannot be created; nothing was landed:\n{done.said}",
                remedy="choose another name for the branch",
            )

    def push(self, branch: str, *, default_branch: str | None) -> None:
        """Push a branch to origin under its own name, as a fast-forward or not at all.

        Raises:
            LandingError: origin refuses, or the branch is a default one.
        """
        if branch == default_branch or branch in self.protected_branches:
            raise LandingError(
                f"{branch} is a default branch, which is never pushed to",
                remedy="choose another name for the branch",
            )
        ref = f"refs/heads/{branch}"
        done = self._run("push", "--no-follow-tags", ORIGIN, f"{ref}:{ref}", timeout_s=_SLOW_S)
        if done.exit_code:
            raise LandingError(
                f"the push to {ORIGIN} failed:\n{done.said}",
                remedy=f"the commit is on the local branch {branch}: settle what git says, "
                "then land again",
            )

    # --- running ----------------------------------------------------------------------------------

    def _run(self, *arguments: str, timeout_s: float = _QUICK_S, stdin: str = "") -> Finished:
        return run(
            ["git", *arguments],
            cwd=self.root,
            timeout_s=timeout_s,
            # Reading must not touch the user's index, not even to refresh it.
            env={"GIT_OPTIONAL_LOCKS": "0"},
            stdin=stdin,
            remedy_if_missing="install git, for instance: apt-get install git",
        )

    def _checked(self, *arguments: str, timeout_s: float = _QUICK_S) -> bytes:
        done = self._run(*arguments, timeout_s=timeout_s)
        if done.exit_code:
            command = next(word for word in arguments if not word.startswith("-"))
            raise LandingError(f"git {command} failed in {self.root}:\n{done.said}")
        return done.stdout

    def _word(self, *arguments: str) -> str | None:
        """What git answers, None when it fails or says nothing."""
        done = self._run(*arguments)
        return (
            done.stdout.decode("utf-8", "replace").strip() or None if not done.exit_code else None
        )

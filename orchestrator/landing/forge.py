"""Pull requests on GitHub, by the `gh` command and the user's own login."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import LandingError
from orchestrator.landing.tools import Finished, run

MAX_BODY = 60_000
"""Characters of a pull request's text; GitHub takes 65,536."""
MAX_TITLE = 200

_TIMEOUT_S = 120.0
_URL = re.compile(r"https?://\S+/pull/[0-9]+")
_INSTALL = "install it (https://cli.github.com), then: gh auth login; or land without --pr"


@dataclass(frozen=True)
class Forge:
    """The `gh` command in one repository."""

    root: Path

    def require_login(self) -> None:
        """Raises LandingError unless `gh` is installed and logged in. Call it before pushing."""
        done = self._gh("auth", "status")
        if done.exit_code:
            raise LandingError(
                f"gh is not logged in:\n{done.said}", remedy="gh auth login; or land without --pr"
            )

    def pull_request(self, branch: str) -> str | None:
        """Address of the open pull request of a branch, if it has one."""
        done = self._gh(
            "pr", "list", "--head", branch, "--state", "open", "--limit", "1", "--json", "url"
        )
        if done.exit_code:
            raise LandingError(
                f"gh cannot list the pull requests of {self.root}:\n{done.said}",
                remedy="try: gh pr list; or land without --pr",
            )
        try:
            listed = json.loads(done.stdout)
            return None if listed == [] else str(listed[0]["url"])
        except (ValueError, LookupError, TypeError):
            raise LandingError(f"gh pr list answered without an address:\n{done.said}") from None

    def open_pull_request(self, *, branch: str, base: str, title: str, body: str) -> str:
        """Open a pull request for a branch that is pushed; its address, or that of an open one."""
        existing = self.pull_request(branch)
        if existing is not None:
            return existing
        done = self._gh(
            "pr", "create", "--title", title[:MAX_TITLE], "--body-file", "-",
            "--head", branch, "--base", base, stdin=fit(body),
        )  # fmt: skip
        if done.exit_code:
            raise LandingError(
                f"the branch is pushed, but gh cannot open the pull request:\n{done.said}",
                remedy=f"settle what gh says and land again, or: gh pr create --head {branch}",
            )
        address = _URL.search(done.stdout.decode("utf-8", "replace"))
        created = address[0] if address else self.pull_request(branch)
        if created is None:
            raise LandingError(f"gh pr create answered without an address:\n{done.said}")
        return created

    def _gh(self, *arguments: str, stdin: str = "") -> Finished:
        return run(
            ["gh", *arguments],
            cwd=self.root,
            timeout_s=_TIMEOUT_S,
            env={"GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1"},
            stdin=stdin,
            remedy_if_missing=_INSTALL,
        )


def fit(body: str, limit: int = MAX_BODY) -> str:
    """The text, cut at a line's end where it is too long; it then says so at the top."""
    if len(body) <= limit:
        return body
    notice = "> This text was cut: the report in the commit has all of it.\n\n"
    room = body[: limit - len(notice)]
    return notice + room[: room.rfind("\n") + 1 or len(room)]

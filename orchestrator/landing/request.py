"""What to land, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.errors import LandingError
from orchestrator.landing.config_edit import Edit
from orchestrator.models.verdict import Decision

MAX_FILE_BYTES = 10 << 20
_RUN_ID = "{run_id}"


@dataclass(frozen=True)
class LandRequest:
    """A decision, its evidence, and where in a repository they go.

    Paths in the repository are relative to `root`. `{run_id}` in `folder` and `branch` stands for
    the run's id. `rationale` and `pr_body` are Markdown as rendered: text of a pod is escaped in it
    already.
    """

    decision: Decision
    run_id: str
    root: Path
    config_file: str
    key: str
    report: Path
    benches: tuple[Path, ...] = ()
    rationale_doc: str | None = None
    rationale: str | None = field(default=None, repr=False)
    """Text of `rationale_doc`; both are needed for KEEP_OFF."""
    folder: str = f"reports/runs/{_RUN_ID}"
    """Where the CSVs and the report go."""
    branch: str = f"orchestrate/{_RUN_ID}"
    pr: bool = False
    pr_body: str = field(default="", repr=False)

    @property
    def branch_name(self) -> str:
        """The branch, with the run's id filled in."""
        return self.branch.replace(_RUN_ID, self.run_id)

    @property
    def folder_name(self) -> str:
        """The folder, with the run's id filled in."""
        return self.folder.replace(_RUN_ID, self.run_id)

    @property
    def has_own_folder(self) -> bool:
        """Whether no other run's evidence goes there."""
        return _RUN_ID in self.folder

    @property
    def report_name(self) -> str:
        """Where the report goes, relative to the root."""
        return str(PurePosixPath(self.folder_name) / self.report.name)


@dataclass(frozen=True)
class Plan:
    """What landing would do; every check that needs no network has passed."""

    branch: str
    base: str
    """The commit that the branch starts from."""
    edit: Edit
    contents: dict[str, bytes] = field(repr=False)
    """Files to write beside the edit, relative to the root."""
    title: str
    message: str
    """Of the commit; `title` is its first line."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Landed:
    """A decision as a commit on a branch."""

    branch: str | None
    """None when the checked-out commit held all of it already."""
    commit: str
    edit: Edit
    files: tuple[str, ...]
    """What the branch holds of this landing, relative to the root."""
    pr_url: str | None = None
    already: bool = False
    """Whether the commit was there before: landing again changes nothing."""
    notes: tuple[str, ...] = ()


def inside(root: Path, path: str, what: str) -> str:
    """`path`, made plain, if it stays within `root` and passes through no link.

    Raises:
        LandingError: it is absolute, has `..` or `.git` in it, or leads through a link.
    """
    pure = PurePosixPath(path)
    if (
        not pure.parts
        or pure.is_absolute()
        or "\0" in path
        or any(part == ".." or part.lower() == ".git" for part in pure.parts)
    ):
        raise LandingError(
            f"{what}: {path!r} is not a path within the repository",
            remedy=f"name it relative to {root}",
        )
    here = root
    for part in pure.parts:
        here /= part
        if here.is_symlink():
            raise LandingError(
                f"{what}: {here.relative_to(root)} is a symbolic link, which may lead anywhere",
                remedy="name the file that it leads to",
            )
    return str(pure)


def contents(request: LandRequest) -> dict[str, bytes]:
    """What to write beside the config edit: the report, the CSVs, and the rationale of KEEP_OFF.

    Raises:
        LandingError: a file is missing, a link, too large, or two have one name.
    """
    folder = inside(request.root, request.folder_name, "the evidence's folder")
    found: dict[str, bytes] = {}
    for path in (request.report, *request.benches):
        name = inside(request.root, f"{folder}/{path.name}", "evidence")
        if name in found:
            raise LandingError(f"two files of the evidence are named {path.name}")
        found[name] = _read(path)
    return found


def _read(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise LandingError(
            f"{path} is not a file, and a decision is not landed without its evidence",
            remedy="render the run again: orchestrate report RUN",
        )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise LandingError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise LandingError(f"{path} cannot be read: {error.strerror or error}") from None

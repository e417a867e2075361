"""The local repository: which files a pod gets, and what identifies their state.

Git decides what belongs to it: tracked files and untracked ones that are not ignored, less what
`.orchignore` files (same syntax, any folder) name. A folder that is not a repository is read by the
same rules.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import SyncError

IGNORE_FILE = ".orchignore"
_GIT_TIMEOUT = 120.0
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Source:
    """State of a local repository.

    `diff` is the uncommitted part of tracked files; it may hold anything a working copy holds, and
    is for the user's own disk only.
    """

    root: Path
    sha: str | None
    dirty: bool
    diff: bytes = field(repr=False)
    fingerprint: str
    manifest: Mapping[str, str] = field(repr=False)
    """Path to SHA-256 over kind and content: tells which files differ between two states."""


def describe(root: Path) -> Source:
    """Describe the repository at `root` as it would be pushed now.

    The fingerprint covers path, kind and content of every file that `files()` lists, and nothing
    else: equal fingerprints mean equal files on the pod.

    Raises:
        SyncError: git is missing or refuses.
    """
    root = root.absolute()
    manifest = {path: _checksum(root / path) for path in files(root)}
    fingerprint = _fingerprint(manifest)
    if not _is_repository(root):
        return Source(root, None, True, b"", fingerprint, manifest)
    with _Git.open(root) as git:
        status = git("status", "--porcelain", "-z", "--untracked-files=normal")
        head = git("rev-parse", "--verify", "--quiet", "HEAD", accept=(0, 1)).decode().strip()
        # an external diff or text conversion is a program of the user's, and not the content
        diff = git("diff", "--binary", "--no-ext-diff", "--no-textconv", "HEAD") if head else b""
    return Source(root, head or None, bool(status), diff, fingerprint, manifest)


def files(root: Path) -> list[str]:
    """Relative paths of the files and symbolic links to push, sorted; they existed just now.

    Raises:
        SyncError: git is missing or refuses.
    """
    root = root.absolute()
    with _Git.open(root) as git:
        listed = git.paths("-c", "-o", "--exclude-standard")
        # Two listings, for git takes one per-directory ignore file at a time.
        left_out = set(git.paths("-c", "-o", "-i", f"--exclude-per-directory={IGNORE_FILE}"))
    found: list[str] = []
    for path in set(listed) - left_out:
        try:
            mode = os.lstat(f"{root}/{path}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # tracked, but deleted here
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            found.append(path)
        elif stat.S_ISDIR(mode):
            # a repository within: git names it, and looks no further
            inner = path.rstrip("/")
            found += [f"{inner}/{name}" for name in files(root / inner)]
    return sorted(found)


def _fingerprint(manifest: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for path, checksum in sorted(manifest.items()):
        # a checksum's length is fixed and a path ends in NUL: no two trees are written alike
        digest.update(os.fsencode(path) + b"\0" + checksum.encode())
    return digest.hexdigest()


def _checksum(path: Path) -> str:
    kind, content = _content(path)
    return hashlib.sha256(kind + content).hexdigest()


def _content(path: Path) -> tuple[bytes, bytes]:
    digest = hashlib.sha256()
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            digest.update(os.fsencode(path.readlink()))
            return b"l", digest.digest()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise SyncError(f"cannot read {path}: {error.strerror}") from error
    return (b"x" if mode & stat.S_IXUSR else b"f"), digest.digest()


def _is_repository(root: Path) -> bool:
    return (root / ".git").exists()  # a file in worktrees and submodules


@dataclass(frozen=True)
class _Git:
    """Git on one work tree, deaf to the caller's environment."""

    root: Path
    git_dir: Path | None

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[_Git]:
        if not root.is_dir():
            raise SyncError(f"there is no folder {root} to push")
        if _is_repository(root):
            yield cls(root, None)
            return
        with tempfile.TemporaryDirectory(prefix="orchestrate-git-") as empty:
            git = cls(root, Path(empty))
            git("init", "--quiet", "--bare", "--template=", empty)
            yield git

    def __call__(self, *arguments: str, accept: Sequence[int] = (0,)) -> bytes:
        argv = ["git", "-C", str(self.root)]
        if self.git_dir is not None and arguments[0] != "init":
            argv += [f"--git-dir={self.git_dir}", f"--work-tree={self.root}"]
        # GIT_DIR and its kin would point git elsewhere, for instance within a hook.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        # reading must not touch the index; messages are matched by nobody, but shown to people
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [*argv, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GIT_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as error:
            raise SyncError(
                "git is needed to tell which files to push, and is not installed",
                remedy="install git, for instance: apt-get install git",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SyncError(
                f"git {arguments[0]} in {self.root} took more than {_GIT_TIMEOUT:g} s"
            ) from error
        if done.returncode not in accept:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise SyncError(f"git {arguments[0]} failed in {self.root}: {said}")
        return done.stdout

    def paths(self, *arguments: str) -> list[str]:
        output = self("ls-files", "-z", *arguments)
        return [os.fsdecode(path) for path in output.split(b"\0") if path]

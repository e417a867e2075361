"""What is pushed, and what identifies it: real git on real trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import SyncError
from orchestrator.transport.source import describe, files


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))


@pytest.fixture(params=["repository", "folder"])
def root(request, tmp_path) -> Path:
    """The same tree with and without git's knowledge of it."""
    root = tmp_path / "root"
    write(root, "a.py", "pkg/b.py", "pkg/c.log", "data/big.bin", "data/small.txt", "notes.md")
    (root / ".gitignore").write_text("*.log\n!keep.log\n/data/*.bin\n")
    (root / ".orchignore").write_text("notes.md\n")
    (root / "link").symlink_to("a.py")
    if request.param == "repository":
        git(root, "init", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "first")
    return root


BASE = [".gitignore", ".orchignore", "a.py", "data/small.txt", "link", "pkg/b.py"]


def test_both_kinds_of_root_obey_gitignore_and_orchignore(root):
    assert files(root) == BASE


def test_untracked_files_are_pushed_and_deleted_ones_are_not(root):
    write(root, "new.py", "keep.log", "pkg/sub/keep.log", "x/y.log")
    (root / "a.py").unlink()
    assert files(root) == sorted({*BASE, "new.py", "keep.log", "pkg/sub/keep.log"} - {"a.py"})


def test_ignore_files_of_folders_count(root):
    write(root, "out/1", "out/deep/2", "pkg/scratch/x", "pkg/scratch/y")
    (root / "pkg" / ".orchignore").write_text("scratch/\n!b.py\n")
    with (root / ".gitignore").open("a") as stream:
        stream.write("out/\n")
    assert files(root) == sorted([*BASE, "pkg/.orchignore"])


def test_orchignore_may_bring_back_what_it_left_out(root):
    write(root, "models/a", "models/b")
    (root / ".orchignore").write_text("notes.md\nmodels/*\n!models/b\n")
    assert files(root) == sorted([*BASE, "models/b"])


def test_odd_names_are_listed_as_they_are(root):
    names = ["a b", "line\nbreak", '"q"', "-x", "[a]*", "ünï", os.fsdecode(b"\xff\xfe")]
    write(root, *names)
    assert set(files(root)) - set(BASE) == set(names)


def test_a_repository_within_is_pushed_by_its_own_rules(root):
    inner = root / "vendor"
    write(inner, "code.py", "junk.tmp")
    (inner / ".gitignore").write_text("*.tmp\n")
    git(inner, "init", "-q")
    assert set(files(root)) - set(BASE) == {"vendor/.gitignore", "vendor/code.py"}


def test_sockets_and_pipes_are_left_out(root):
    os.mkfifo(root / "fifo")
    assert files(root) == BASE


def test_the_callers_git_environment_does_not_matter(root, tmp_path, monkeypatch):
    fingerprint = describe(root).fingerprint
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert files(root) == BASE
    assert describe(root).fingerprint == fingerprint


def test_the_fingerprint_covers_what_is_pushed_and_nothing_else(root):
    first = describe(root).fingerprint
    write(root, "pkg/c.log", "notes.md", "data/big.bin", "another.log")
    os.utime(root / "a.py", (0, 0))
    assert describe(root).fingerprint == first
    seen = {first}

    def changed() -> bool:
        now = describe(root).fingerprint
        new = now not in seen
        seen.add(now)
        return new

    (root / "a.py").chmod(0o755)
    assert changed()
    (root / "a.py").write_text("other")
    assert changed()
    (root / "link").unlink()
    (root / "link").symlink_to("pkg/b.py")
    assert changed()
    (root / "pkg" / "b.py").rename(root / "pkg" / "d.py")
    assert changed()


def test_a_clean_repository_has_a_sha_and_no_diff(tmp_path):
    write(tmp_path, "a.py")
    git(tmp_path, "init", "-q")
    empty = describe(tmp_path)
    assert (empty.sha, empty.dirty, empty.diff) == (None, True, b"")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = describe(tmp_path)
    assert clean.sha is not None
    assert (len(clean.sha), clean.dirty, clean.diff) == (40, False, b"")
    (tmp_path / "a.py").write_bytes(b"\0binary")
    changed = describe(tmp_path)
    assert (changed.sha, changed.dirty) == (clean.sha, True)
    assert b"a.py" in changed.diff
    assert "binary" not in repr(changed)


def test_an_untracked_file_makes_it_dirty(tmp_path):
    write(tmp_path, "a.py")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    write(tmp_path, "b.py")
    assert describe(tmp_path).dirty


def test_a_folder_without_git_has_no_sha(tmp_path):
    write(tmp_path, "a.py")
    source = describe(tmp_path)
    assert (source.sha, source.dirty, source.diff) == (None, True, b"")


def test_git_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SyncError, match="git is needed"):
        files(tmp_path)


def test_a_root_that_is_missing_is_named(tmp_path):
    with pytest.raises(SyncError, match="there is no folder"):
        files(tmp_path / "absent")


def test_gits_own_complaint_is_shown(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    with pytest.raises(SyncError, match=r"git ls-files failed .*nowhere"):
        files(tmp_path)

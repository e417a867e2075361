"""Pushing a repository, by both carriers, to both kinds of server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import SyncError
from orchestrator.transport import sync
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.sync import push

ODD_NAMES = (
    "a b",
    "it's",
    '"quoted"',
    "line\nbreak",
    "-rf",
    "--delete",
    "[a]*",
    "[a]b",
    "?",
    "*",
    "#comment",
    ";comment",
    "back\\slash",
    "ünïcödé",
    "$HOME",
    "`id`",
    " ",
    "trailing ",
    "dir with [x]/- inner *",
    "host:colon",
    os.fsdecode(b"latin-\xe9"),
)


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with something of everything."""
    root = tmp_path / "reposi'tory [1]"
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    write(root, "kernel.py", "kernel")
    write(root, "pkg/__init__.py", "")
    write(root, "pkg/data.bin", "x" * 100_000)
    write(root, "run.sh", "#!/bin/sh\n").chmod(0o755)
    (root / "link").symlink_to("pkg/data.bin")
    write(root, ".gitignore", "*.log\n/big/\n")
    write(root, ".orchignore", "notes.md\n")
    for name in ("x.log", "big/model", "notes.md", "pkg/y.log"):
        write(root, name, "not for the pod")
    return root


@pytest.fixture(params=["rsync", "tar"])
def carrier(request, monkeypatch, sshd) -> str:  # the server starts while there is an rsync
    if request.param == "tar":
        monkeypatch.setenv("PATH", str(request.getfixturevalue("path_without_rsync")))
    return request.param


@pytest.fixture(scope="session")
def path_without_rsync(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    for name in ("sh", "git", "find", "tar", "gzip", "xargs", "rm", "rmdir", "mkdir", "ssh", "cat"):
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return folder


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def tree(root: Path) -> dict[str, str]:
    """Every file and link, with its content, below `root`."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}"
        if path.is_symlink()
        else path.read_text(encoding="utf-8")
        for path in root.rglob("*")
        if (path.is_symlink() or path.is_file())
        and path.relative_to(root) != Path(".orchestrate/pushed")  # the push's own record
    }


def pushed(root: Path) -> dict[str, str]:
    left_out = ("x.log", "big/model", "notes.md", "pkg/y.log")
    return {k: v for k, v in tree(root).items() if not k.startswith(".git/") and k not in left_out}


@pytest.fixture
def workdir(pod) -> Path:
    return Path(pod.workdir)


def test_the_pod_gets_what_the_repository_has_and_git_does_not_ignore(
    carrier, connection, root, workdir
):
    report = push(connection, root)
    assert tree(workdir) == pushed(root)
    assert (report.method, report.files, report.changed, report.deleted) == (carrier, 7, 7, 0)
    assert 0 < report.sent_bytes < 50_000
    for name in ("kernel.py", "run.sh"):
        here, there = (root / name).stat(), (workdir / name).stat()
        assert (here.st_mtime_ns, here.st_mode & 0o100) == (
            there.st_mtime_ns,
            there.st_mode & 0o100,
        )


def test_a_second_push_does_nothing_and_says_so(carrier, connection, root, workdir):
    push(connection, root)
    inodes = {path: path.lstat().st_ino for path in workdir.rglob("*")}
    report = push(connection, root)
    assert report.nothing_to_do
    assert (report.method, report.files, report.sent_bytes) == (carrier, 7, 0)
    assert {path: path.lstat().st_ino for path in workdir.rglob("*")} == inodes


def test_only_what_changed_is_sent(carrier, connection, root, workdir):
    push(connection, root)
    write(root, "kernel.py", "lenrek")  # same length, perhaps the same second
    (root / "run.sh").chmod(0o644)
    (root / "link").unlink()
    (root / "link").symlink_to("kernel.py")
    report = push(connection, root)
    assert (report.changed, report.deleted) == (3, 0)
    assert tree(workdir) == pushed(root)
    assert not (workdir / "run.sh").stat().st_mode & 0o111
    assert push(connection, root).nothing_to_do


def test_names_arrive_as_they_are(carrier, connection, root, workdir):
    for number, name in enumerate(ODD_NAMES):
        write(root, name, str(number))
    push(connection, root)
    assert tree(workdir) == pushed(root)
    assert push(connection, root).nothing_to_do
    for name in ODD_NAMES:
        (root / name).unlink()
    assert push(connection, root).deleted == len(ODD_NAMES)
    assert tree(workdir) == pushed(root)


def test_deletes_stale_files_but_nothing_of_the_pods_own(carrier, connection, root, workdir):
    own = (
        ".venv/bin/python",
        ".venv-2/x",
        ".orchestrate/jobs/1/log",
        "runs/1/run.json",
        "pkg/__pycache__/a.pyc",
        "gone/__pycache__/b.pyc",
        ".git/HEAD",
        "ckpt/weights.pt",
        "pkg/keep.me",
    )
    foreign = ("thesis.txt", "pkg/notes.txt", "theirs/.env", "x.log")
    stale = ("old.py", "pkg/old.py", "gone/old.py", "deep/er/still")
    for name in own + foreign:
        write(workdir, name, "pod")
    own += foreign  # never deleted, though the repository has no such file
    for name in stale:
        write(root, name, "mine")
    push(connection, root, protect=["/ckpt", "*.me"])
    assert (workdir / "deep/er/still").exists()
    for name in stale:
        (root / name).unlink()
    report = push(connection, root, protect=["/ckpt", "*.me"])
    assert report.deleted == len(stale)
    assert tree(workdir) == {**pushed(root), **dict.fromkeys(own, "pod")}
    assert not (workdir / "deep").exists()
    assert push(connection, root, protect=["/ckpt", "*.me"]).nothing_to_do


def test_a_tracked_file_within_a_protected_folder_is_pushed_never_deleted(
    carrier, connection, root, workdir
):
    write(root, "runs/README", "mine")
    (root / ".venv-link").symlink_to("kernel.py")
    assert push(connection, root).changed == 9
    assert (workdir / "runs/README").read_text() == "mine"
    assert push(connection, root).nothing_to_do
    (root / "runs/README").unlink()
    assert push(connection, root).nothing_to_do
    assert (workdir / "runs/README").exists()


def test_files_folders_and_links_replace_each_other(carrier, connection, root, workdir):
    push(connection, root)
    (root / "link").unlink()
    write(root, "link/file", "now a folder")
    shutil.rmtree(root / "pkg")
    write(root, "pkg", "now a file")
    (root / "kernel.py").unlink()
    (root / "kernel.py").symlink_to("pkg")
    push(connection, root)
    assert tree(workdir) == pushed(root)
    assert push(connection, root).nothing_to_do


def test_a_link_on_the_pod_is_replaced_not_followed(carrier, connection, root, workdir, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "data.bin", "not ours")
    workdir.mkdir()
    (workdir / "pkg").symlink_to(elsewhere)
    push(connection, root)
    assert tree(workdir) == pushed(root)
    assert tree(elsewhere) == {"data.bin": "not ours"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "pkg/../../outside", "way/out"])
def test_links_that_lead_out_are_refused_by_name(connection, root, workdir, tmp_path, target):
    (tmp_path / "outside").touch()
    if target == "way/out":
        (root / "way").symlink_to("..")
    (root / "bad link").symlink_to(target)
    with pytest.raises(SyncError, match=r"bad link|'way'"):
        push(connection, root)
    assert not workdir.exists()


def test_either_end_without_rsync_means_tar(host_keys, root, tmp_path, path_without_rsync):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(path_without_rsync))
        context = embedded_pod(tmp_path / "w", tmp_path / "v", "python3")
        pod = context.__enter__()
    try:
        with Connection(pod, host_keys=host_keys) as connection:
            assert push(connection, root).method == "tar"
    finally:
        context.__exit__(None, None, None)


def test_a_workdir_that_cannot_be_made_is_named(host_keys, sshd, root, tmp_path):
    write(tmp_path, "file", "")
    with (
        Connection(sshd.pod(tmp_path / "file" / "w"), host_keys=host_keys) as connection,
        pytest.raises(SyncError, match=r"pod box: cannot work in .*file/w"),
    ):
        push(connection, root)


def test_rsync_gets_no_secret_and_its_errors_are_shown(
    connection, root, tmp_path, monkeypatch
) -> None:
    fake = tmp_path / "bin"
    write(
        fake,
        "rsync",
        '#!/bin/sh\n[ "$1" = --version ] && exec /usr/bin/rsync "$@"\nenv >&2; exit 23\n',
    ).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    with pytest.raises(SyncError, match=r"(?s)rsync failed with exit 23: .*LC_ALL=C") as caught:
        push(connection, root)
    assert "hunter2" not in str(caught.value)


def test_a_long_list_reaches_an_rsync_that_is_slow_to_read_it(
    connection, root, workdir, tmp_path, monkeypatch
):
    """More names than a pipe holds, and more than the second after which the link is looked at."""
    fake = tmp_path / "bin"
    script = '#!/bin/sh\n[ "$1" = --version ] || sleep 1.5\nexec /usr/bin/rsync "$@"\n'
    write(fake, "rsync", script).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    (root / "many").mkdir()
    for number in range(900):
        (root / "many" / f"{number:0100}").touch()
    assert push(connection, root).method == "rsync"
    assert len(list((workdir / "many").iterdir())) == 900


def test_an_interrupted_rsync_is_killed(connection, root, tmp_path, monkeypatch):
    fake = tmp_path / "bin"
    write(
        fake,
        "rsync",
        '#!/bin/sh\n[ "$1" = --version ] && exec /usr/bin/rsync "$@"\n'
        f"echo $$ >'{tmp_path}/pid'; sleep 60; true\n",
    ).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")

    def interrupt(process: subprocess.Popen[bytes], *_: object, **__: object) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sync._rsync(connection, root, ["kernel.py"])
    group = int((tmp_path / "pid").read_text())
    states = [
        stat.read_text().rpartition(")")[2].split()
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.exists()
    ]
    assert not [fields for fields in states if fields[2] == str(group) and fields[0] != "Z"]

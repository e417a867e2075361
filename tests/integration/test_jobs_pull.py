"""Files that are pulled in parts, over links that break."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConnectionLost, PullError
from orchestrator.jobs.collect import collect
from orchestrator.transport.files import is_partial


def listed(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_partial(path.name)]


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, bytes]:
    data = os.urandom(20 << 20)
    (tmp_path / "remote").write_bytes(data)
    return tmp_path / "remote", data


@pytest.mark.parametrize("after", [8 << 20, 10 << 20], ids=["between windows", "within one"])
def test_a_pull_goes_on_where_the_link_broke(connection, big, tmp_path, after):
    remote, data = big
    local = tmp_path / "new" / "local"

    def cut(seen: bytes) -> None:
        nonlocal received
        received += len(seen)
        if received >= after:
            connection.transport.sock.inner.shutdown(2)
            connection.transport.join(10)  # so that the next window is asked for on a dead link

    received = 0
    with pytest.raises(ConnectionLost):
        connection.download(str(remote), local, **listed(data), inspect=cut)
    assert not local.exists()
    (partial,) = partials(local.parent)
    kept = partial.stat().st_size
    assert after - (1 << 20) <= kept < len(data)
    assert data.startswith(partial.read_bytes())
    connection.close()
    connection.open()
    # What is on the pod in place of the part that is here shows that it is not pulled again.
    with remote.open("r+b") as file:
        file.write(bytes(kept))
    connection.download(str(remote), local, **listed(data))
    assert local.read_bytes() == data
    assert partials(local.parent) == []


def test_a_part_that_is_not_its_beginning_is_pulled_anew(connection, big, tmp_path):
    remote, data = big
    local = tmp_path / "new" / "local"
    local.parent.mkdir()
    for wrong in (b"something else", bytes(len(data)), data + b"more"):
        (local.parent / f".{listed(data)['sha256']}.part").write_bytes(wrong)
        connection.download(str(remote), local, **listed(data))
        assert local.read_bytes() == data
        assert partials(local.parent) == []
        local.unlink()


def test_a_part_that_is_a_link_is_not_followed(connection, tmp_path):
    (tmp_path / "remote").write_bytes(b"data")
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / f".{listed(b'data')['sha256']}.part").symlink_to(tmp_path / "victim")
    local = tmp_path / "local"
    connection.download(str(tmp_path / "remote"), local, **listed(b"data"))
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not local.is_symlink()
    assert local.read_bytes() == b"data"


def test_a_file_that_is_here_already_is_not_asked_for(connection, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(b"data")
    connection.download("/nowhere", local, **listed(b"data"))
    with pytest.raises(PullError, match="/nowhere"):
        connection.download("/nowhere", local, **listed(b"atad"))
    assert local.read_bytes() == b"data"


def test_a_checksum_is_never_taken_for_a_path(connection, tmp_path):
    with pytest.raises(PullError, match="no file has"):
        connection.download("/etc/hostname", tmp_path / "local", size=1, sha256="../../x")


def test_a_part_of_a_file_that_has_changed_since_does_not_stay(runner):
    ended = runner.run(runner.spec('echo x >"$ORCH_OUT/file"'))
    runner.into.mkdir()
    (runner.into / f".{'0' * 64}.part").write_bytes(b"left")
    assert len(runner.collect(ended)[0]) == 1
    assert [path.name for path in runner.into.iterdir()] == ["file"]


def test_a_full_disk_here_says_what_fills_it(runner, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (small / "ballast").write_bytes(bytes(1 << 20))
        runner.log, runner.into = small / "log", small / "artifacts"
        with pytest.raises(
            OSError, match=r"0\.0 MiB are free, log has 1\.0 MiB and its folder 2\.0"
        ):
            runner.run(runner.spec("yes | head -c 3000000"))
        assert runner.log.stat().st_size <= 1 << 20
        (small / "ballast").unlink()
        (small / "log").unlink()
        ended = runner.run(
            runner.spec('head -c 3000000 /dev/zero >"$ORCH_OUT/f"', "k"), log_limit=10
        )
        with pytest.raises(OSError, match=r"No space left.*are free"):
            collect(
                runner.launcher,
                runner.connection,
                "k",
                runner.into,
                lambda _a: None,
                ended.manifest,
            )
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)

"""`orchestrate pods check` against a real sshd."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.engine.pods import Fitness, PodCheck, check
from orchestrator.transport.hostkeys import HostKey, HostKeys, known_as


def findings(found: PodCheck) -> dict[str, tuple[Fitness, str]]:
    return {finding.about: (finding.fitness, finding.message) for finding in found.findings}


def only(found: PodCheck) -> tuple[str, str]:
    """Message and remedy of a pod that was not reached."""
    [finding] = found.findings
    assert not found.ok
    assert found.system is None
    assert (finding.about, finding.fitness) == ("connection", Fitness.BAD)
    return finding.message, finding.remedy or ""


def test_a_fit_pod(sshd, host_keys, tmp_path) -> None:
    found = check(sshd.pod(tmp_path / "a" / "b", python=sys.executable), host_keys)
    assert found.ok
    assert found.address == f"{sshd.pod(tmp_path).user}@127.0.0.1:{sshd.port}"
    said = findings(found)
    assert list(said) == [
        *("connection", "machine", "gpu", "python", "disk", "rsync", "workdir"),
    ]
    assert said["workdir"] == (Fitness.OK, f"{tmp_path}/a/b can be made in {tmp_path}")
    assert said["python"][1].endswith(sys.version.split()[0])
    assert "CPUs" in said["machine"][1]
    assert said["rsync"][0] is Fitness.OK
    assert not (tmp_path / "a").exists()  # nothing was made


def test_what_is_not_fit_is_said_all_at_once(sshd, host_keys, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    pod = sshd.pod(tmp_path / "file" / "w", python="no-such-python", gpu="RTX 9999")
    found = check(pod, host_keys)
    assert not found.ok
    bad = {name: text for name, (fitness, text) in findings(found).items() if fitness == "bad"}
    assert sorted(bad) == ["gpu", "python", "workdir"]
    assert "declared with RTX 9999" in bad["gpu"]
    assert "no-such-python does not run there" in bad["python"]
    assert f"{tmp_path}/file cannot be written to" in bad["workdir"]


def test_an_old_python_is_refused(sshd, host_keys, tmp_path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.6.9\n")
    old.chmod(0o755)
    said = findings(check(sshd.pod(tmp_path, python=str(old)), host_keys))
    assert said["python"] == (Fitness.BAD, f"{old} is 3.6.9")


def test_a_wrong_key(sshd, host_keys, tmp_path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    message, remedy = only(check(sshd.pod(tmp_path, identity_file=key), host_keys))
    assert f"refused key {key}" in message
    assert "authorized_keys" in remedy


def test_an_unknown_host_key(sshd, host_keys, tmp_path) -> None:
    message, remedy = only(check(sshd.pod(tmp_path, known_hosts_file=None), host_keys))
    assert "unknown host key" in message
    assert "fingerprint" in remedy


def test_a_changed_host_key(sshd, tmp_path) -> None:
    pod = sshd.pod(tmp_path, known_hosts_file=None)
    keys = HostKeys(tmp_path / "pins", lambda _: pytest.fail("asked"), known_hosts=())
    other = HostKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32))
    keys.file_for(pod).parent.mkdir()
    keys.file_for(pod).write_text(other.line(known_as("127.0.0.1", sshd.port)))
    message, remedy = only(check(pod, keys))
    assert "has changed" in message
    assert "ssh-keygen -R" in remedy


def test_a_port_where_nothing_listens(sshd, host_keys, tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    message, remedy = only(check(sshd.pod(tmp_path, port=port), host_keys))
    assert f"127.0.0.1:{port} refuses connections" in message
    assert "is the pod running?" in remedy


# -- as a user types it -------------------------------------------------------------------------


@pytest.fixture
def orchestrate(sshd, tmp_path, monkeypatch):
    """The command, in a folder and a home that have nothing in them."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("ORCHESTRATE_PODS", raising=False)
    (tmp_path / "home").mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "orchestrator", *arguments]
        return subprocess.run(
            argv,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return call


def fingerprint(sshd) -> str:
    argv = ["ssh-keygen", "-l", "-f", str(sshd.folder / "host_ed25519.pub")]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]


def test_from_a_pasted_ssh_line_to_a_checked_pod(sshd, orchestrate, tmp_path: Path) -> None:
    user = sshd.pod(tmp_path).user
    line = f"ssh {user}@127.0.0.1 -p {sshd.port} -i {sshd.folder / 'id'}"
    work = ("--workdir", str(tmp_path / "w"), "--python", sys.executable)
    assert orchestrate("pods", "add", "box", line, *work).returncode == 0

    refused = orchestrate("pods", "check")
    assert refused.returncode == 3
    assert "unknown host key" in refused.stdout
    assert "Traceback" not in refused.stderr

    accepted = orchestrate("pods", "check", "box", "--accept-host-key", fingerprint(sshd))
    assert accepted.returncode == 0, accepted.stdout
    assert accepted.stdout.startswith(f"box  {user}@127.0.0.1:{sshd.port}  OK\n")

    [found] = json.loads(orchestrate("pods", "check", "--json").stdout)  # pinned by now
    assert (found["pod"], found["ok"]) == ("box", True)
    assert found["system"]["python"] == sys.version.split()[0]


def test_one_bad_pod_of_several_is_exit_3(sshd, orchestrate, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    (tmp_path / "pods.toml").write_text(
        f"[pods.gone]\nhost = '127.0.0.1'\nport = {closed}\n"
        f"[pods.box]\nhost = '127.0.0.1'\nport = {sshd.port}\nuser = '{sshd.pod(tmp_path).user}'\n"
        f"identity_file = '{sshd.folder / 'id'}'\nknown_hosts_file = '{sshd.known_hosts}'\n"
        f"workdir = '{tmp_path / 'w'}'\ngpu = 'RTX 9999'\n"
    )
    done = orchestrate("pods", "check")
    assert done.returncode == 3
    assert "refuses connections" in done.stdout
    assert "the pod is declared with RTX 9999" in done.stdout
    assert "correct `gpu` of the pod" in done.stdout


def test_a_pod_that_is_not_there_is_exit_2(orchestrate) -> None:
    done = orchestrate("pods", "check", "gpu-a")
    assert done.returncode == 2
    assert "there is no pod 'gpu-a'" in done.stderr
    assert "orchestrate pods add gpu-a" in done.stderr

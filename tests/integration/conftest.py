"""Two pods for every test: the embedded one, and a real OpenSSH server on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.hostkeys import HostKeys, known_as
from tests.integration.lab import Lab

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_rsa
HostKey {folder}/host_ed25519
PidFile none
AuthorizedKeysFile {folder}/id.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 100:30:200
Subsystem sftp internal-sftp
SetEnv HOME={folder}
"""  # HOME: bash reads the user's .bashrc under sshd, which may be slow or say things


@dataclass(frozen=True)
class Sshd:
    """A private OpenSSH server."""

    folder: Path
    port: int

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def public_key(self, kind: str) -> str:
        """`type base64` of the host key of that kind."""
        text = (self.folder / f"host_{kind}.pub").read_text(encoding="ascii")
        return " ".join(text.split()[:2])

    def pod(self, workdir: Path, **changes: object) -> Pod:
        fields: dict[str, object] = {
            "name": "box",
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "identity_file": self.folder / "id",
            "known_hosts_file": self.known_hosts,
            "workdir": str(workdir),
        }
        return Pod.model_validate(fields | changes)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.exit(f"the integration tests need {name}: run tests/system-packages.sh", 3)
    return found


def _keygen(path: Path, kind: str) -> None:
    argv = [_tool("ssh-keygen"), "-q", "-t", kind, "-N", "", "-f", str(path)]
    if kind == "rsa":
        argv += ["-b", "2048"]  # made in a fraction of the time
    subprocess.run(argv, check=True, timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = _tool("sshd")
    _tool("rsync")
    folder = tmp_path_factory.mktemp("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd drops its privileges there
    for name, kind in (("host_rsa", "rsa"), ("host_ed25519", "ed25519"), ("id", "ed25519")):
        _keygen(folder / name, kind)
    found = Sshd(folder, _free_port())
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=found.port, folder=folder), encoding="utf-8")
    found.known_hosts.write_text(
        f"{known_as('127.0.0.1', found.port)} {found.public_key('ed25519')}\n", encoding="ascii"
    )
    # absolute paths: sshd starts itself anew from /
    process = subprocess.Popen([server, "-D", "-f", str(config), "-E", str(folder / "log")])
    try:
        deadline = time.monotonic() + 10
        while not _answers(found.port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text(encoding="utf-8"))
            time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("embedded")
    with embedded_pod(folder / "work", folder / "venv", "python3") as pod:
        yield pod


@pytest.fixture(params=["embedded", "openssh"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Pod:
    """Both kinds of pod, with a workdir that does not exist yet and has a blank in its name."""
    workdir = tmp_path / "on the pod"
    if request.param == "openssh":
        server: Sshd = request.getfixturevalue("sshd")
        return server.pod(workdir)
    shared: Pod = request.getfixturevalue("embedded")
    return shared.model_copy(update={"workdir": str(workdir)})


@pytest.fixture
def host_keys(tmp_path: Path) -> HostKeys:
    return HostKeys(tmp_path / "pins", known_hosts=())


@pytest.fixture
def connection(pod: Pod, host_keys: HostKeys) -> Iterator[Connection]:
    with Connection(pod, host_keys=host_keys) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)

"""A private OpenSSH server on loopback, for tests and benchmarks."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.models.pod import Pod
from orchestrator.transport.hostkeys import known_as

_OPTIONS = """\
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 100:30:200
Subsystem sftp internal-sftp
"""


def sshd_config(folder: Path, host: str, port: int, host_keys: Sequence[str], **env: str) -> str:
    """A server's configuration: the key `id` may enter; `env` is that of its sessions."""
    # bash reads the user's .bashrc under sshd, which may be slow or say things
    session = {"HOME": str(folder), **env}
    lines = [
        f"ListenAddress {host}",
        f"Port {port}",
        f"AuthorizedKeysFile {folder}/id.pub",
        *(f"HostKey {folder}/{key}" for key in host_keys),
        "SetEnv " + " ".join(f"{name}={value}" for name, value in session.items()),
    ]
    return _OPTIONS + "\n".join(lines) + "\n"


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
        raise SystemExit(f"{name} is needed: run tests/system-packages.sh")
    return found


def _keygen(path: Path, kind: str) -> None:
    argv = [_tool("ssh-keygen"), "-q", "-t", kind, "-N", "", "-f", str(path)]
    if kind == "rsa":
        argv += ["-b", "2048"]  # made in a fraction of the time
    subprocess.run(argv, check=True, timeout=30)


def free_port() -> int:
    """One on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False


@contextmanager
def private_sshd(folder: Path) -> Iterator[Sshd]:
    """Start a server that accepts one key made for it, and end it."""
    server = _tool("sshd")
    _tool("rsync")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd drops its privileges there
    for name, kind in (("host_rsa", "rsa"), ("host_ed25519", "ed25519"), ("id", "ed25519")):
        _keygen(folder / name, kind)
    found = Sshd(folder, free_port())
    config = folder / "sshd_config"
    keys = ("host_rsa", "host_ed25519")
    config.write_text(sshd_config(folder, "127.0.0.1", found.port, keys), encoding="utf-8")
    found.known_hosts.write_text(
        f"{known_as('127.0.0.1', found.port)} {found.public_key('ed25519')}\n", encoding="ascii"
    )
    # absolute paths: sshd starts itself anew from /
    process = subprocess.Popen([server, "-D", "-f", str(config), "-E", str(folder / "log")])
    try:
        deadline = time.monotonic() + 10
        while not _answers(found.port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
            time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=10)

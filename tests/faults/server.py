"""A real OpenSSH server that can be killed and started again."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from orchestrator.transport.hostkeys import known_as
from tests.integration.lab import POD_PATH
from tests.integration.sshd import free_port, sshd_config

PATH = f"{POD_PATH}:/usr/sbin:/sbin"


class Server:
    """`prefix` is put before sshd's command line: another network namespace."""

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", port: int = 0, prefix: tuple[str, ...] = ()
    ) -> None:
        folder.mkdir()
        self.folder, self.host, self.port = folder, host, port or free_port()
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("host", "id"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(argv, check=True, timeout=30)
        self._config = folder / "sshd_config"
        self._config.write_text(sshd_config(folder, host, self.port, ("host",), PATH=PATH))

    def start(self) -> None:
        sshd = shutil.which("sshd", path=PATH)
        assert sshd, "no sshd: run tests/system-packages.sh"
        log = self.folder / "log"
        before = log.read_text().count("Server listening") if log.exists() else 0
        self._process = subprocess.Popen(
            [*self._prefix, sshd, "-D", "-f", str(self._config), "-E", str(log)]
        )
        deadline = time.monotonic() + 10
        while not log.exists() or log.read_text().count("Server listening") == before:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """The listener and every session, as when the machine's sshd is killed."""
        if self._process is None:
            return
        sessions = _children(self._process.pid)
        for pid in (self._process.pid, *sessions):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # noqa: PERF203 - it was quicker
                continue
        self._process.wait(timeout=10)
        self._process = None

    def stanza(self, workdir: Path, *, port: int | None = None, python: str = "python3") -> str:
        """A table for pods.toml; pins the host key for the port that is connected to."""
        port = port or self.port
        key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        hosts = self.folder / f"known_hosts.{port}"
        hosts.write_text(f"{known_as(self.host, port)} {key}\n")
        fields = {
            "host": self.host,
            "user": getpass.getuser(),
            "identity_file": self.folder / "id",
            "known_hosts_file": hosts,
            "workdir": workdir,
            "python": python,
        }
        lines = [f'{name} = "{value}"' for name, value in fields.items()]
        return "\n".join(["[pods.box]", f"port = {port}", *lines, ""])


def _children(pid: int) -> list[int]:
    """sshd's sessions below `pid`; not what was started in them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().partition("(")[2].rsplit(")", 1)
        except (OSError, ValueError):
            continue
        if int(fields.split()[1]) == pid and name.startswith("sshd"):
            found += [int(stat.parent.name), *_children(int(stat.parent.name))]
    return found

"""Who may connect, to whom, and what stays closed."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paramiko
import pytest

from orchestrator.errors import ConnectError
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.hostkeys import HostKey, HostKeys, known_as
from orchestrator.transport.sync import push
from tests.integration.agents import eventually

TRUE = Command(("true",))


def fingerprint(public_key_file: Path) -> str:
    argv = ["ssh-keygen", "-l", "-f", str(public_key_file)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]


def left_behind(before: list[threading.Thread]) -> set[str]:
    """Threads that are not from `before`, which may have held some that were about to end.

    asyncio's own, of an embedded pod that other tests use, come and go when they will.
    """
    new = [thread for thread in threading.enumerate() if thread not in before]
    return {thread.name for thread in new if not thread.name.startswith("asyncio")}


# -- keys of users ------------------------------------------------------------------------------


def test_a_wrong_key_names_host_user_key_and_remedy(pod, host_keys, tmp_path):
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(key)], check=True)
    before = threading.enumerate()
    with pytest.raises(ConnectError) as caught:
        Connection(pod.model_copy(update={"identity_file": key}), host_keys=host_keys).open()
    for part in (f"{pod.user}@127.0.0.1:{pod.port} refused key {key}", "authorized_keys"):
        assert part in str(caught.value)
    # each looks once more whether its session is over
    assert eventually(lambda: not left_behind(before)), left_behind(before)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "does not exist"), ("no key", "not a private key")]
)
def test_a_key_file_that_is_none_is_named(sshd, host_keys, tmp_path, content, says):
    key = tmp_path / "key"
    if content:
        key.write_text(content)
    with pytest.raises(ConnectError, match=f"key {key} .*{says}"):
        Connection(sshd.pod(tmp_path, identity_file=key), host_keys=host_keys).open()


def test_a_locked_key_says_how_to_unlock_it(sshd, host_keys, tmp_path, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = tmp_path / "locked"
    shutil.copy(sshd.folder / "id", key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)], check=True)
    with pytest.raises(ConnectError, match="ssh-add"):
        Connection(sshd.pod(tmp_path, identity_file=key), host_keys=host_keys).open()


# -- addresses ----------------------------------------------------------------------------------


def test_nothing_listening_is_refused(sshd, host_keys, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port} refuses connections"):
        Connection(sshd.pod(tmp_path, port=port), host_keys=host_keys).open()


def test_an_unknown_name_is_named(sshd, host_keys, tmp_path):
    with pytest.raises(ConnectError, match=r"cannot resolve .* no-such\.invalid"):
        Connection(sshd.pod(tmp_path, host="no-such.invalid"), host_keys=host_keys).open()


@pytest.mark.parametrize(
    ("greeting", "says"),
    [(b"", "did not answer|not an SSH server"), (b"HTTP/1.1 400\r\n\r\n", "not an SSH server")],
)
def test_a_server_that_is_none(sshd, host_keys, tmp_path, greeting, says):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(greeting)
                if not greeting:
                    time.sleep(1.5)

        thread = threading.Thread(target=answer)
        thread.start()
        pod = sshd.pod(tmp_path, port=server.getsockname()[1])
        with pytest.raises(ConnectError, match=says):
            Connection(pod, host_keys=host_keys, connect_timeout=20 if greeting else 1).open()
        thread.join()


# -- host keys ----------------------------------------------------------------------------------


@pytest.fixture
def unknown(sshd, tmp_path) -> Pod:
    """The real server as a pod that nobody has met."""
    return sshd.pod(tmp_path / "w", known_hosts_file=None)


def test_an_unknown_host_key_is_refused_by_default(sshd, unknown, host_keys):
    with pytest.raises(ConnectError, match="unknown host key") as caught:
        Connection(unknown, host_keys=host_keys).open()
    assert fingerprint(sshd.folder / "host_ed25519.pub") in str(caught.value)
    assert not host_keys.file_for(unknown).exists()


def test_a_confirmed_host_key_is_pinned_for_paramiko_and_ssh(sshd, unknown, tmp_path):
    asked = []

    def confirm(question) -> bool:
        asked.append(question)
        return True

    pins = tmp_path / "pins"
    with Connection(unknown, host_keys=HostKeys(pins, confirm, known_hosts=())) as connection:
        argv = [*connection.ssh_command(), connection.host, "echo", "hello"]
    assert [question.key.fingerprint for question in asked] == [
        fingerprint(sshd.folder / "host_ed25519.pub")
    ]
    assert (pins / "box").stat().st_mode & 0o777 == 0o600
    with Connection(unknown, host_keys=HostKeys(pins, known_hosts=())) as connection:
        assert connection.run(TRUE).ok
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_a_changed_host_key_shows_both_and_never_asks(sshd, unknown, tmp_path):
    other = HostKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32))
    pins = tmp_path / "pins"
    pins.mkdir()
    (pins / "box").write_text(other.line(known_as("127.0.0.1", sshd.port)))
    keys = HostKeys(pins, lambda _: pytest.fail("asked about a changed key"), known_hosts=())
    with pytest.raises(ConnectError, match="has changed") as caught:
        Connection(unknown, host_keys=keys).open()
    assert other.fingerprint in str(caught.value)
    assert fingerprint(sshd.folder / "host_ed25519.pub") in str(caught.value)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_any_of_the_servers_keys_may_be_the_pinned_one(sshd, unknown, tmp_path, kind):
    pins = tmp_path / "pins"
    pins.mkdir()
    name = known_as("127.0.0.1", sshd.port)
    (pins / "box").write_text(f"{name} {sshd.public_key(kind)}\n")
    with Connection(unknown, host_keys=HostKeys(pins, known_hosts=())) as connection:
        argv = [*connection.ssh_command(), connection.host, "true"]
        assert connection.run(TRUE).ok
    assert subprocess.run(argv, timeout=20, check=False).returncode == 0


def test_the_users_known_hosts_count_and_are_copied_to_the_pin(sshd, unknown, tmp_path):
    keys = HostKeys(tmp_path / "pins", known_hosts=(sshd.known_hosts,))
    with Connection(unknown, host_keys=keys) as connection:
        assert connection.run(TRUE).ok
    key = HostKey("ssh-ed25519", base64.b64decode(sshd.public_key("ed25519").split()[1]))
    assert HostKeys(tmp_path / "pins", known_hosts=()).known(
        unknown, known_as("127.0.0.1", sshd.port)
    ) == [key]


# -- the user's ssh configuration ---------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    return tmp_path / "home"


def configured(sshd, home: Path, more: str = "") -> Pod:
    (home / ".ssh" / "config").write_text(
        f"Include extra\nHost box jump\n  HostName 127.0.0.1\n  User {sshd.pod(home).user}\n{more}"
    )
    (home / ".ssh" / "extra").write_text(
        f"Host box jump\n  Port {sshd.port}\n  IdentityFile {sshd.folder / 'id'}\n"
    )
    return Pod(name="box", host="box", workdir=str(home.parent / "w"))


def test_addresses_and_keys_come_from_the_ssh_configuration(sshd, home, tmp_path):
    pod = configured(sshd, home)
    keys = HostKeys(tmp_path / "pins", known_hosts=(sshd.known_hosts,))
    with Connection(pod, host_keys=keys) as connection:
        assert connection.address == f"{sshd.pod(home).user}@127.0.0.1:{sshd.port}"


def test_a_jump_host_is_used_by_paramiko_and_rsync(sshd, home, tmp_path):
    pod = configured(sshd, home, "Host box\n  ProxyJump jump\n")
    keys = HostKeys(tmp_path / "pins", known_hosts=(sshd.known_hosts,))
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "file").write_text("x")
    before = threading.enumerate()
    with Connection(pod, host_keys=keys) as connection:
        assert not isinstance(connection.transport.sock, socket.socket)
        assert any(" -W " in word for word in connection.ssh_command())
        assert push(connection, tmp_path / "repository").method == "rsync"
    assert (tmp_path / "w" / "file").read_text() == "x"
    # each looks once more whether its session is over
    assert eventually(lambda: not left_behind(before)), left_behind(before)


def test_a_proxy_command_is_used_and_reaped(sshd, home, tmp_path):
    script = tmp_path / "copy.py"
    script.write_text(_COPY)
    pod = configured(sshd, home, f"Host box\n  ProxyCommand {sys.executable} {script} %h %p\n")
    keys = HostKeys(tmp_path / "pins", known_hosts=(sshd.known_hosts,))
    with Connection(pod, host_keys=keys) as connection:
        assert connection.run(TRUE).ok
    assert not children(str(sshd.port))


_COPY = """
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while d := os.read(0, 65536): s.sendall(d)
    s.shutdown(1)
threading.Thread(target=up, daemon=True).start()
while d := s.recv(65536): os.write(1, d)
"""


def test_nothing_is_forwarded_and_no_local_command_runs_whatever_the_user_set(
    sshd, home, tmp_path, monkeypatch
):
    agent_socket = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent_socket))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pod = configured(
        sshd,
        home,
        "  ForwardAgent $SSH_AUTH_SOCK\n  ForwardX11 yes\n  PermitLocalCommand=yes\n"
        f"  LocalCommand touch {tmp_path}/ran\n  RemoteCommand touch {tmp_path}/ran\n"
        f"  LocalForward {port} 127.0.0.1:{sshd.port}\n  RemoteForward {port} 127.0.0.1:22\n",
    )
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "file").write_text("x")
    keys = HostKeys(tmp_path / "pins", known_hosts=(sshd.known_hosts,))
    with Connection(pod, host_keys=keys) as connection:
        seen = connection.run(Command(("sh", "-c", "echo $SSH_AUTH_SOCK$DISPLAY")))
        argv = [*connection.ssh_command(), connection.host, "echo $SSH_AUTH_SOCK$DISPLAY"]
        over_ssh = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        push(connection, tmp_path / "repository")
    assert seen.stdout == over_ssh.stdout == "\n"
    assert not (tmp_path / "ran").exists()


# -- the embedded pod ---------------------------------------------------------------------------


def children(word: str) -> list[int]:
    """Living processes with `word` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and word in line.split():
            found.append(int(entry.name))
    return found


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders go: nothing else does."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_embedded_pod_refuses_all_forwarding(tmp_path, host_keys):
    with (
        embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod,
        Connection(pod, host_keys=host_keys) as connection,
    ):
        transport = connection.transport
        for kind, destination in (("direct-tcpip", ("127.0.0.1", 22)), ("x11", None)):
            with pytest.raises(paramiko.ChannelException):
                transport.open_channel(kind, destination, ("127.0.0.1", 1), timeout=5)
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)
        with transport.open_session() as channel, pytest.raises(paramiko.SSHException):
            channel.get_pty()
        ssh = [*connection.ssh_command(), "-o", "ForwardAgent=yes", connection.host]
        environment = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "no-agent")}
        done = subprocess.run(
            [*ssh, "echo [$SSH_AUTH_SOCK]"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert done.stdout == "[]\n"


def test_the_embedded_pod_shows_no_secret_of_the_controller(tmp_path, host_keys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    with (
        embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod,
        Connection(pod, host_keys=host_keys) as connection,
    ):
        seen = connection.run(Command(("env",))).stdout
    assert "hunter2" not in seen
    assert "PIP_INDEX_URL=https://pypi.example/simple\n" in seen


def test_the_embedded_pod_keeps_its_keys_private(tmp_path, temporary):
    with embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod:
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert pod.identity_file is not None
        assert pod.identity_file.parent == folder


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_the_embedded_pod_leaves_nothing_behind(tmp_path, temporary, host_keys, ending):
    before = threading.enumerate()
    tag, detached = f"{os.getpid()}.25", f"{os.getpid()}.75"
    # one of them has to be killed
    stubborn = "trap '' TERM; " if ending is RuntimeError else ""
    script = f"{stubborn}setsid sleep {detached} >/dev/null 2>&1 & sleep {tag} & sleep {tag}; true"
    opened: list[Connection] = []
    with contextlib.ExitStack() as stack:
        if ending:
            stack.enter_context(pytest.raises(ending))
        with embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod:
            opened.append(Connection(pod, host_keys=host_keys).open())
            channel = opened[0].transport.open_session()
            channel.exec_command(script)
            while len(children(tag)) < 2 or not children(detached):
                time.sleep(0.02)
            if ending:
                raise ending
    opened[0].close()
    assert not children(tag)
    (job,) = children(detached)  # not the server's any more
    os.kill(job, signal.SIGKILL)
    assert list(temporary.iterdir()) == []
    # each looks once more whether its session is over
    assert eventually(lambda: not left_behind(before)), left_behind(before)


def test_a_client_that_leaves_ends_no_command_but_one_that_writes(tmp_path, host_keys):
    with embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod:
        first = Connection(pod, host_keys=host_keys).open()
        talker, worker = (first.transport.open_session() for _ in range(2))
        talker.exec_command("exec yes some-text-nobody-else-writes")
        worker.exec_command(f"sleep 0.5; echo done >'{tmp_path}/result'")
        while not children("some-text-nobody-else-writes"):
            time.sleep(0.02)
        first.close()
        deadline = time.monotonic() + 30
        while not (tmp_path / "result").exists() or children("some-text-nobody-else-writes"):
            assert time.monotonic() < deadline
            time.sleep(0.05)

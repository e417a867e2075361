"""Commands, streams and files over both kinds of server."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import stat
import threading
from pathlib import Path

import paramiko
import pytest

from orchestrator.errors import ConnectionLost, InfraError, PullError
from orchestrator.models.command import Command
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.hostkeys import HostKeys
from tests.integration import sshd as sshd_module
from tests.integration.agents import eventually
from tests.integration.sshd import private_sshd

AWKWARD = ["", "a b", "it's", '"$HOME"', "`id`", "line\nline", "-n", "*", "ünï", "\\", "a=b", "!x"]


def sh(script: str, *arguments: str) -> Command:
    return Command(("sh", "-c", script, "sh", *arguments))


def test_arguments_arrive_as_they_were(connection):
    result = connection.run(sh('printf "%s|" "$@"', *AWKWARD))
    assert result.stdout == "".join(f"{word}|" for word in AWKWARD)


def test_environment_and_folder_arrive(connection, tmp_path):
    result = connection.run(
        Command(("sh", "-c", 'echo "$NOTE"; pwd'), env={"NOTE": "a 'b'"}, cwd=str(tmp_path))
    )
    assert result.stdout == f"a 'b'\n{tmp_path}\n"


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_status_is_the_commands(connection, code):
    assert connection.run(sh(f"exit {code}")).exit_code == code


def test_a_command_killed_by_a_signal_is_not_a_lost_connection(connection):
    assert connection.run(sh("kill -9 $$")).exit_code == 137
    assert connection.run(sh("kill -TERM $$")).exit_code == 143


def test_a_missing_program_is_127(connection):
    assert connection.run(Command(("no-such-program",))).exit_code == 127


def test_both_streams_are_kept_apart_and_drained_together(connection):
    # more than a channel's window on each: whoever reads one after the other never ends
    script = "head -c 5000000 /dev/zero >&2; head -c 5000000 /dev/zero; echo end >&2"
    result = connection.run(sh(script))
    assert (len(result.stdout), len(result.stderr)) == (5_000_000, 5_000_004)


def test_stdin_is_delivered_whole_and_ends(connection):
    data = os.urandom(3_000_000)
    result = connection.run(Command(("sha256sum",)), stdin=data)
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert connection.run(Command(("cat",))).stdout == ""


def test_a_command_may_answer_while_it_reads_and_leave_input_unread(connection):
    data = bytes(4_000_000)
    assert len(connection.run(Command(("cat",)), stdin=data).stdout) == len(data)
    assert connection.run(sh("head -c 3"), stdin=b"abc" + data).stdout == "abc"


def test_output_that_is_not_utf8_is_replaced_not_fatal(connection):
    assert connection.run(sh(r"printf '\377ok'")).stdout == "\ufffdok"


def test_too_much_output_for_run_is_an_error(connection):
    with pytest.raises(InfraError, match="more than 16 MiB"):
        connection.run(sh("head -c 20000000 /dev/zero"))
    assert connection.run(Command(("true",))).ok


def test_leaving_a_talking_command_costs_the_session_nothing(connection):
    def stop(_: bytes) -> None:
        raise StopIteration

    for _ in range(10):  # a race of Paramiko's own, between closing and data that arrives
        with pytest.raises(StopIteration):
            connection.stream(sh("exec head -c 3000000 /dev/zero"), stop)
    assert connection.run(Command(("true",))).ok


def test_a_command_that_takes_too_long_says_so(connection):
    with pytest.raises(InfraError, match=r"sleep did not finish within 0\.3 s") as caught:
        connection.run(Command(("sleep", "5")), timeout=0.3)
    assert not isinstance(caught.value, ConnectionLost)
    assert connection.run(Command(("true",))).ok


def test_a_long_stream_is_complete_and_takes_no_memory(connection):
    size = 64 * 2**20
    digest, length = hashlib.sha256(), 0

    def sink(data: bytes) -> None:
        nonlocal length
        length += len(data)
        digest.update(data)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = connection.stream(sh(f"yes | head -c {size}; exit 3"), sink)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (status, length) == (3, size)
    assert digest.hexdigest() == hashlib.sha256(b"y\n" * (size // 2)).hexdigest()
    assert grown_kib < 40 * 1024


def test_an_error_of_the_sink_is_the_callers_own(connection):
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        connection.stream(sh("echo x; sleep 0.1; echo y"), full)


def test_the_socket_sends_at_once_and_notices_a_cut_link(connection):
    sock = connection.transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6000


def test_a_session_killed_on_the_pod_is_lost_not_done(sshd, tmp_path, host_keys):
    script = "echo before; read _ _ _ parent _ </proc/$PPID/stat; kill -9 $parent; sleep 0.2"
    received = bytearray()
    with Connection(sshd.pod(tmp_path / "w"), host_keys=host_keys) as connection:
        with pytest.raises(ConnectionLost, match=r"pod box: connection to .* lost"):
            connection.stream(sh(script), received.extend)
        assert bytes(received) in (b"before\n", b"")
        with pytest.raises(ConnectionLost):
            connection.run(Command(("true",)))


def test_a_server_that_goes_away_is_lost(tmp_path, host_keys):
    with embedded_pod(tmp_path / "w", tmp_path / "v", "python3") as pod:
        connection = Connection(pod, host_keys=host_keys).open()
        started = threading.Event()
        errors: list[BaseException] = []

        def follow() -> None:
            try:
                connection.stream(sh("echo up; exec sleep 60"), lambda _: started.set())
            except ConnectionLost as error:
                errors.append(error)

        follower = threading.Thread(target=follow)
        follower.start()
        assert started.wait(10)
    follower.join(10)
    connection.close()
    assert len(errors) == 1


# -- servers that refuse ------------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path, host_keys, monkeypatch, request):
    """A session with an OpenSSH server of another configuration."""
    monkeypatch.setattr(sshd_module, "_OPTIONS", request.param(sshd_module._OPTIONS))
    folder = tmp_path / "strict"
    folder.mkdir()
    with private_sshd(folder) as server:
        pod = server.pod(tmp_path / "w")
        with Connection(pod, host_keys=HostKeys(tmp_path / "pins2", known_hosts=())) as opened:
            yield opened


@pytest.mark.parametrize(
    "strict",
    [
        lambda text: text.replace("Subsystem sftp internal-sftp\n", ""),
        lambda text: text.replace("internal-sftp", "/nowhere/sftp-server"),
        lambda text: text.replace("internal-sftp", "/bin/echo Welcome, dear user of this pod"),
    ],
    indirect=True,
    ids=["none", "missing", "chatty"],
)
def test_a_pod_without_sftp_is_no_lost_connection(strict, tmp_path):
    with pytest.raises(InfraError, match="has no SFTP") as refused:
        strict.upload(b"x", str(tmp_path / "x"))
    assert not isinstance(refused.value, ConnectionLost)
    assert "Subsystem" in str(refused.value.remedy)
    assert strict.run(Command(("true",))).ok


@pytest.mark.parametrize(
    "strict", [lambda text: text.replace("internal-sftp", "/nowhere/sftp-server")], indirect=True
)
def test_nor_where_it_has_ended_before_anything_is_said_to_it(strict, tmp_path, monkeypatch):
    begin = paramiko.SFTPClient._send_version

    def late(client):
        assert eventually(lambda: client.get_channel().closed)
        return begin(client)

    monkeypatch.setattr(paramiko.SFTPClient, "_send_version", late)
    with pytest.raises(InfraError, match="has no SFTP") as refused:
        strict.upload(b"x", str(tmp_path / "x"))
    assert not isinstance(refused.value, ConnectionLost)


@pytest.mark.parametrize("strict", [lambda text: f"MaxSessions 1\n{text}"], indirect=True)
def test_a_refused_session_is_no_lost_connection(strict, tmp_path):
    strict.upload(b"x", str(tmp_path / "x"))  # keeps its session
    with pytest.raises(InfraError, match="refuses another session") as refused:
        strict.run(Command(("true",)))
    assert not isinstance(refused.value, ConnectionLost)
    assert "MaxSessions" in str(refused.value.remedy)


@pytest.mark.parametrize("strict", [lambda text: f"MaxSessions 0\n{text}"], indirect=True)
def test_a_pod_without_any_session_is_no_lost_connection(strict, tmp_path):
    for use in (lambda: strict.run(Command(("true",))), lambda: strict.upload(b"x", "x")):
        with pytest.raises(InfraError, match="refuses another session") as refused:
            use()
        assert not isinstance(refused.value, ConnectionLost)


# -- files --------------------------------------------------------------------------------------


def test_upload_writes_with_its_mode_and_replaces(connection, tmp_path):
    target = tmp_path / "agent ünï.py"
    connection.upload(b"one", str(target))
    connection.upload(b"two", str(target), mode=0o755)
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir() if "agent" in path.name] == [target.name]


def test_upload_into_nowhere_names_the_file(connection):
    with pytest.raises(InfraError, match="/nowhere/x"):
        connection.upload(b"", "/nowhere/x")


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 9_000_001])
def test_download_is_verified(connection, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "remote").write_bytes(data)
    local = tmp_path / "new" / "local"
    connection.download(
        str(tmp_path / "remote"), local, size=size, sha256=hashlib.sha256(data).hexdigest()
    )
    assert local.read_bytes() == data


def assert_refused(connection: Connection, remote: Path, match: str, size: int = 4) -> None:
    local = remote.parent / "pulled" / "local"
    with pytest.raises(PullError, match=match) as caught:
        connection.download(
            str(remote), local, size=size, sha256=hashlib.sha256(b"data").hexdigest()
        )
    assert remote.name in str(caught.value)
    assert list(local.parent.iterdir()) == []


def test_download_refuses_what_is_not_as_listed(connection, tmp_path):
    remote = tmp_path / "artifact"
    remote.write_bytes(b"atad")
    assert_refused(connection, remote, "SHA-256")
    remote.write_bytes(b"data and more")
    assert_refused(connection, remote, "13 bytes, the manifest says 4")
    remote.write_bytes(b"dat")
    assert_refused(connection, remote, "3 bytes, the manifest says 4")


def test_download_refuses_everything_but_regular_files(connection, tmp_path):
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "fifo", "folder"):
        assert_refused(connection, tmp_path / name, "not a regular file")
    assert_refused(connection, tmp_path / "absent", "cannot be read")

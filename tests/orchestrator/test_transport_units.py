"""Parts of the transport that need no server."""

from __future__ import annotations

import subprocess

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConnectError, ConnectionLost
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport import sshconfig
from orchestrator.transport.border import map_connect_errors, map_ssh_errors
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import pod_environment
from orchestrator.transport.hostkeys import HostKeys
from orchestrator.transport.inventory import Item, Remote, plan
from orchestrator.transport.sync import _rsh_word

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
POD = Pod(name="gpu-a", host="203.0.113.7", port=40001, user="root")


@given(arguments=st.lists(words, max_size=5), value=words)
@settings(max_examples=100, deadline=None)
def test_words_survive_a_real_shell(arguments, value):
    script = r'printf "%s\0" "$PWD" "$VALUE" "$@"'
    command = Command(("sh", "-c", script, "sh", *arguments), env={"VALUE": value}, cwd="/")
    done = subprocess.run(["/bin/sh", "-c", command.shell()], capture_output=True, check=True)
    assert done.stdout == "".join(f"{word}\0" for word in ["/", value, *arguments]).encode()


@given(st.lists(words.filter(bool), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_rsync_splits_its_remote_shell_back_into_our_words(arguments):
    assert _split_as_rsync(" ".join(_rsh_word(word) for word in arguments)) == arguments


def _split_as_rsync(text: str) -> list[str]:
    """The loop of rsync's do_cmd(), in Python."""
    found: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        word, quote = "", ""
        while position < len(text) and (quote or text[position] != " "):
            char = text[position]
            position += 1
            if char in "'\"" and not quote:
                quote = char
            elif char == quote:
                if text[position : position + 1] == quote:
                    word += quote
                    position += 1
                else:
                    quote = ""
            else:
                word += char
        found.append(word)
    return found


def test_ssh_gets_the_same_address_key_and_pins_and_nothing_of_the_users(tmp_path):
    pod = POD.model_copy(update={"identity_file": tmp_path / "a key", "embedded": True})
    connection = Connection(pod, host_keys=HostKeys(tmp_path / "100% pins"))
    argv = connection.ssh_command()
    assert argv[:7] == ["ssh", "-F", "none", "-p", "40001", "-l", "root"]
    for option in (
        "StrictHostKeyChecking=yes",
        f'UserKnownHostsFile="{tmp_path}/100%% pins/gpu-a"',
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        f'IdentityFile="{tmp_path}/a key"',
        "BatchMode=yes",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "ServerAliveInterval=2",
        "ServerAliveCountMax=3",
        "ConnectTimeout=15",
    ):
        assert argv[argv.index(option) - 1] == "-o"


def test_using_a_connection_that_is_not_open_is_an_error_of_ours(tmp_path):
    connection = Connection(POD, host_keys=HostKeys(tmp_path))
    with pytest.raises(ConnectionLost, match="not open"):
        connection.run(Command(("true",)))
    connection.close()


def test_only_listed_variables_reach_the_embedded_pod():
    assert pod_environment(
        {"PATH": "p", "LC_ALL": "C", "PIP_INDEX_URL": "i", "https_proxy": "h", "AWS_KEY": "s"}
        | {"SSH_AUTH_SOCK": "s", "PIPE": "s", "PYTHONPATH": "s", "LD_PRELOAD": "s"}
    ) == {"PATH": "p", "LC_ALL": "C", "PIP_INDEX_URL": "i", "https_proxy": "h"}


# -- ssh configuration --------------------------------------------------------------------------


def test_includes_are_read_where_they_stand(tmp_path):
    (tmp_path / "config").write_text(
        f"Include {tmp_path}/conf.d/*\nHost a\n  Include {tmp_path}/more\n  User me\nPort 1\n"
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "1").write_text("Host b\n  User bee\n  Port 2\n")
    (tmp_path / "more").write_text("HostName 203.0.113.1\nHost b\n  HostName 203.0.113.2\n")
    config = sshconfig.load((tmp_path / "config", tmp_path / "missing"))
    a, b = config.lookup("a"), config.lookup("b")
    assert (a["hostname"], a["user"], a["port"]) == ("203.0.113.1", "me", "1")
    assert (b["hostname"], b["user"], b["port"]) == ("203.0.113.2", "bee", "2")
    assert "user" not in config.lookup("c")


def test_an_include_of_itself_ends(tmp_path):
    (tmp_path / "config").write_text(f"Include {tmp_path}/config\nUser me\n")
    assert sshconfig.load((tmp_path / "config",)).lookup("x")["user"] == "me"


def test_what_opens_a_way_back_is_dropped_however_it_is_written(tmp_path):
    (tmp_path / "config").write_text(
        "ForwardAgent yes\nforwardagent=yes\n  LOCALFORWARD 1 a:2\nLocalCommand = rm -rf /\n"
        "Host *\n  RemoteForward\t1 a:2\n  ForwardX11 yes\n  User me\n"
    )
    found = sshconfig.load((tmp_path / "config",)).lookup("x")
    assert set(found) == {"hostname", "user"}


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "did not answer within 3 s"),
        (ConnectionRefusedError(111, "refused"), "refuses connections"),
        (OSError(113, "No route to host"), "is unreachable"),
        (OSError(101, "Network is unreachable"), "is unreachable"),
        (ConnectionResetError(104, "reset"), "closed the connection during the handshake"),
        (EOFError(), "closed the connection during the handshake"),
        (paramiko.SSHException("Error reading SSH protocol banner"), "not an SSH server"),
        (paramiko.ChannelException(2, "Connect failed"), "jump host cannot reach"),
        (paramiko.SSHException("odd"), "no SSH session with .*: odd"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_every_failure_to_connect_names_pod_and_address(error, says):
    with (
        pytest.raises(ConnectError, match=f"pod gpu-a: .*{says}") as caught,
        map_connect_errors(POD, "203.0.113.7:40001", timeout=3),
    ):
        raise error
    assert "203.0.113.7:40001" in str(caught.value)


def test_errors_that_are_no_business_of_ssh_pass():
    with pytest.raises(ZeroDivisionError), map_ssh_errors(POD):
        _ = 1 / 0


# -- plans --------------------------------------------------------------------------------------

FILE = Item("f", 5, 1_700_000_000_123_456_789)


def there(items: dict[str, Item], *protected: str) -> Remote:
    return Remote(has_rsync=True, items=items, protected=frozenset(protected))


@pytest.mark.parametrize(
    ("mtime_ns", "same"),
    [
        (1_700_000_000_123_456_789, True),
        (1_700_000_000_123_456_700, True),
        (1_700_000_000_123_456_000, True),
        (1_700_000_000_000_000_000, True),
        (1_700_000_000_123_456_788, False),
        (1_700_000_001_000_000_000, False),
    ],
)
def test_times_are_compared_as_well_as_the_pod_can_keep_them(mtime_ns, same):
    assert FILE.same_as(Item("f", 5, mtime_ns)) is same


def test_a_plan_sends_what_differs_and_deletes_what_is_stale():
    link = Item("l", target="a")
    folder = Item("d")
    todo = plan(
        {"same": FILE, "new": FILE, "mode": Item("f", 5, FILE.mtime_ns, True), "l": link},
        there(
            {
                "same": FILE,
                "mode": FILE,
                "l": Item("l", target="b"),
                "old/deep/x": FILE,
                "old": folder,
                "old/deep": folder,
                "own": folder,
                "own/stale": FILE,
                "thesis.txt": FILE,
                "theirs": folder,
            },
            "own/.venv",
        ),
        {"same", "old/deep/x", "own/stale", "gone/already"},
    )
    assert todo.send == ["l", "mode", "new"]
    assert todo.delete == ["old/deep/x", "own/stale"]
    assert todo.delete_folders == ["old/deep", "old"]
    assert plan({"same": FILE}, there({"same": FILE}), {"same"}).empty

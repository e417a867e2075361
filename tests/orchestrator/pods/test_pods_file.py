"""pods.toml: what it may say, and adding to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pods_files import TWO, read, refusal

from orchestrator.config.pod_lookup import resolve_pod
from orchestrator.config.pods_file import open_pods, with_pod
from orchestrator.config.pods_path import pod_names
from orchestrator.engine.pods import add
from orchestrator.errors import ConfigError, UsageError
from orchestrator.models.pod import Pod


def test_every_field_reaches_the_pod(tmp_path: Path) -> None:
    text = (
        '[pods.gpu-a]\nhost = "203.0.113.7"\nport = 12181\nuser = "root"\n'
        'identity_file = "~/.ssh/id"\nknown_hosts_file = "hosts"\nworkdir = "/w"\nvenv = "/v"\n'
        'python = "python3.11"\ngpu = "RTX 4090"\n'
    )
    assert read(text, str(tmp_path / "pods.toml")).pods == {
        "gpu-a": Pod(
            name="gpu-a",
            host="203.0.113.7",
            port=12181,
            user="root",
            identity_file=tmp_path / "home/.ssh/id",
            known_hosts_file=tmp_path / "hosts",  # beside the file, wherever one stands
            workdir="/w",
            venv="/v",
            python="python3.11",
            gpu="RTX 4090",
        )
    }


def test_an_ssh_line_stands_for_the_address(tmp_path: Path) -> None:
    text = '[pods.a]\nssh = "ssh -A root@203.0.113.7 -p 12181 -i ~/k"\ngpu = "A100"\n'
    file = read(text)
    pod = file.pods["a"]
    assert (pod.name, pod.address, pod.gpu) == ("a", "root@203.0.113.7:12181", "A100")
    assert pod.identity_file == tmp_path / "home" / "k"
    assert file.notes["a"] == ("the agent is never forwarded: -A is left out",)


@pytest.mark.parametrize(
    ("text", "where", "says", "remedy"),
    [
        ("[pods.a\n", "1:8", "expected ']'", None),
        ('[pods.a]\nhost = "x\n', "2:10", "illegal character", None),
        ("[pods.a]\nhost = root\n", "2:8", "invalid value", 'text needs quotes: "root"'),
        ("[pods.a]\nport 22\n", "2:6", "expected '='", None),
        ('[pods.a]\nhost = "', "2:9", "unterminated", None),
        ('[pods.a]\nhost="x"\nhost="y"\n', "3:1", "'host' is there twice; first in line 2", None),
        ("[pods.a]\nhost='x'\n[pods.a]\n", "3:7", "'a' is there twice; first in line 1", None),
        ("[pods]\na={host='x', host='y'}", "2:14", "'host' is there twice", None),
        ("pods = {}\n[pods.b]\n", "2:8", "twice", None),
        ("a=" + "[" * 5000, "1:1", "nested too deep", None),
        ("a=" + "9" * 5000, "1:1", "too long", None),
        ('[pods.a]\nhots = "x"\n', "2:1", "unknown key; did you mean 'host'?", None),
        ('[pods.a]\nhost="x"\ncolour = "x"\n', "3:1", "unknown key", "keys: host, port"),
        ("[pod.a]\n", "1:2", "unknown key; did you mean 'pods'?", "[pods.NAME]"),
        ("[gpu-a]\nhost = 'x'\n", "1:2", "unknown key", "[pods.NAME]"),
        ('[pods.a]\nhost="x"\nport = "22"\n', "3:8", "expected a whole number, got '22'", None),
        ('[pods.a]\nhost="x"\nport = 99999\n', "3:8", "at most 65535, got 99999", None),
        ('[pods.a]\nhost="x"\nport = true\n', "3:8", "expected a whole number, got true", None),
        ("[pods.a]\nhost = 7\n", "2:8", "expected text, got 7; put it in quotes", None),
        ('[pods.a]\nhost = ["x"]\n', "2:8", "expected text, got a list of 1", None),
        ("[pods]\na = 1\n", "2:5", "expected keys and values, got 1", None),
        ("pods = 1\n", "1:8", "expected keys and values, got 1", None),
        ("[[pods]]\nhost='x'\n", "1:3", "expected keys and values", None),
        ("[pods.a]\nuser = 'root'\n", "1:7", "host: required, but missing", "ssh = "),
        ("[pods.a]\nhost = ''\n", "2:8", "must not be empty", None),
        ("[pods.a]\nhost = '-oProxyCommand=x'\n", "2:8", "cannot name a host", None),
        ('[pods.a]\nhost = "x\\u0000"\n', "2:8", "control characters", None),
        ("[pods.a]\nhost = 'x'\nworkdir = 'w'\n", "3:11", "absolute path below /", None),
        ("[pods.a]\nhost = 'x'\nidentity_file = '~nobody-x/k'\n", "3:17", "home dir", None),
        ("[pods.'a b']\nhost = 'x'\n", "1:7", "'a b' is not a name", None),
        ("[pods.embedded]\nhost = 'x'\n", "1:7", "this name is taken", None),
        ("[pods.a]\nssh = 'ssh x'\nport = 22\n", "3:1", "the pod has `ssh`", "keep one"),
        ("[pods.a]\nssh = 'ssh -J j x'\n", "2:7", "'-J' cannot be used", "ProxyJump j"),
        ("[pods.a]\nssh = 'mosh x'\n", "2:7", "no ssh command line", None),
        ("[pods.a]\nssh = 'ssh -- -x'\n", "2:7", "cannot name a host", None),
    ],
)
def test_what_is_wrong_is_placed_and_explained(text, where, says, remedy) -> None:
    error = refusal(text)
    assert error.where == f"pods.toml:{where}"
    assert says in error.message
    assert remedy is None or remedy in (error.remedy or "")


def test_all_that_is_wrong_is_said_at_once() -> None:
    error = refusal("[pods.a]\nhots = 'x'\n[pods.b]\nport = 'x'\nhost = 'y'\n[pod]\n")
    assert [line.rpartition(": ")[2] for line in error.message.split("\n")] == [
        "unknown key; did you mean 'host'?",
        "expected a whole number, got 'x'",
        "unknown key; did you mean 'pods'?",
    ]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"[pods.a]\nhost = '\xff'\n")
    for path, says in (
        (tmp_path / "none.toml", "there is no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "bytes.toml", "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_pods(path)


def test_adding_keeps_what_was_there(tmp_path: Path) -> None:
    before = '# mine\n[pods.a]  # first\nhost = "x"'
    Path("real.toml").write_text(before)
    Path("real.toml").chmod(0o640)
    Path("pods.toml").symlink_to("real.toml")
    added = add("b.c", "ssh -A root@203.0.113.7 -p 22 -i ~/k", gpu='"RTX" 4090 é', workdir="/w")
    assert Path("real.toml").read_text() == before + (
        '\n\n[pods."b.c"]\nhost = "203.0.113.7"\nport = 22\nuser = "root"\n'
        'identity_file = "~/k"\nworkdir = "/w"\ngpu = "\\"RTX\\" 4090 é"\n'
    )
    assert Path("pods.toml").is_symlink()
    assert Path("real.toml").stat().st_mode & 0o777 == 0o640
    assert added.notes == ["the agent is never forwarded: -A is left out"]
    assert resolve_pod("b.c") == added.pod
    assert added.pod.identity_file == tmp_path / "home" / "k"


def test_adding_makes_the_file_where_it_is_named(tmp_path: Path) -> None:
    add("a", "203.0.113.7", identity="k")
    assert Path("pods.toml").stat().st_mode & 0o777 == 0o600
    assert resolve_pod("a").identity_file == tmp_path / "work" / "k"
    add("a", "203.0.113.7", pods_file=tmp_path / "new/folder/p.toml")
    assert pod_names(tmp_path / "new/folder/p.toml") == ["a"]


@pytest.mark.parametrize(
    ("before", "name", "address", "options", "says"),
    [
        (TWO, "gpu-a", "h.example", {}, "has a pod gpu-a already"),
        (TWO, "a b", "h.example", {}, "'a b' is not a name"),
        (TWO, "embedded", "h.example", {}, "this name is taken"),
        (TWO, "c", "a@b@c", {}, "is no address"),
        (TWO, "c", "ssh -z h", {}, "'-z' cannot be used"),
        (TWO, "c", "h.example", {"workdir": "w"}, "absolute path below /"),
        (TWO, "c", "h.example", {"gpu": "\x1b"}, "control characters"),
        (TWO, "c", "h.example", {"gpu": ""}, "must not be empty"),
        ("[pods.a]\nhots = 1\n", "c", "h.example", {}, "pods.toml:2:1"),
        ("pods = {}\n", "c", "h.example", {}, "cannot be added to pods.toml"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_alone(before, name, address, options, says) -> None:
    Path("pods.toml").write_text(before)
    with pytest.raises(UsageError, match=says):
        add(name, address, **options)
    assert Path("pods.toml").read_text() == before
    assert [path.name for path in Path().iterdir()] == ["pods.toml"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        add("a", "203.0.113.7", pods_file=tmp_path / "file" / "pods.toml")


def test_line_ends_stay() -> None:
    text = with_pod("[pods.a]\r\nhost = 'x'\r\n", "b", {"host": "y"}, file="f")
    assert text == "[pods.a]\r\nhost = 'x'\r\n\r\n[pods.b]\r\nhost = \"y\"\r\n"

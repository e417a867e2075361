from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.app import cli
from orchestrator.cli.completion import profile_names
from orchestrator.config.document import Source
from orchestrator.config.pod_lookup import resolve_pod
from orchestrator.config.pods_file import PodsFile, open_pods, parse_pods, with_pod
from orchestrator.config.pods_path import find_pods_file, pod_names
from orchestrator.config.resources import shipped_playbooks
from orchestrator.config.ssh_hosts import is_ssh_host
from orchestrator.config.ssh_line import SshLine, parse_ssh_line
from orchestrator.config.toml import parse_toml
from orchestrator.engine import pods as engine
from orchestrator.engine.pods import Fitness, add
from orchestrator.errors import ConfigError, OrchestrateError, UsageError
from orchestrator.evidence.facts import GpuFacts, SystemFacts
from orchestrator.models.pod import Pod

CHECKOUT = Path(__file__).parents[2]
TWO = '[pods.gpu-a]\nhost = "203.0.113.7"\n\n[pods.gpu-b]\nssh = "ssh root@203.0.113.8 -p 22"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home that have nothing in them."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORCHESTRATE_PODS", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def read(text: str, file: str = "pods.toml") -> PodsFile:
    return parse_pods(Source(file, text, ""))


def result_of(call: Callable[[str], object], text: str) -> object:
    """What comes of it, or the error that a user would see."""
    try:
        return call(text)
    except OrchestrateError as error:
        return error


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value


# -- the file -----------------------------------------------------------------------------------


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


# -- places in TOML -----------------------------------------------------------------------------


def test_every_key_and_value_has_its_place() -> None:
    text = (
        "a.b = 1 # c\n"
        '"x y" = [ 1, "two", # three\n  { k = 2020-01-01 00:00:00 } ]\n'
        "m = '''\n[no]\n'''\n"
        'q = """a "quoted" \\" word""""\n'
        "[t.u]\nk = ']'\n[[l]]\nn = 1\n[[l]]\n[l.sub]\nn=2\n"
    )
    document = parse_toml(Source("f", text, ""))
    for at, where in (
        (("a", "b"), "f:1:7"),
        (("x y", 1), "f:2:14"),
        (("x y", 2, "k"), "f:3:9"),
        (("m",), "f:4:5"),
        (("q",), "f:7:5"),
        (("t", "u", "k"), "f:9:5"),
        (("l", 0, "n"), "f:11:5"),
        (("l", 1, "sub", "n"), "f:14:3"),
    ):
        assert document.where(at) == where


_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=5)
_DATA = st.recursive(
    st.integers(-9, 9) | st.booleans() | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[ " + ",\n ".join(map(_toml, value)) + "\n]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(st.dictionaries(_KEYS, _DATA, max_size=4))
def test_the_scan_agrees_with_the_parser(data: dict[str, object]) -> None:
    text = "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in data.items())
    document = parse_toml(Source("f", text, ""))
    assert document.data == data

    def check(value: object, at: tuple[str | int, ...]) -> None:
        children = value.items() if isinstance(value, dict) else ()
        children = enumerate(value) if isinstance(value, list) else children
        for key, child in children:
            here = (*at, key)
            span = document._values[here]
            assert document.text[span.start : span.end].strip() == _toml(child)
            check(child, here)

    check(data, ())


_PIECES = st.sampled_from(
    [
        *(
            "[pods.a]\n",
            "[pods]\n",
            "[[pods]]\n",
            "pods",
            "a",
            ".",
            "=",
            " = ",
            "\n",
            "{",
            "}",
            "[",
        ),
        *(
            "]",
            ",",
            '"',
            "'",
            '"""',
            "\\",
            "#",
            "host",
            "ssh",
            "port",
            "'ssh root@h -p 2'",
            "'~x/y'",
        ),
        *("22", "1e400", "nan", "2020-01-01", "true", '"\\u0000"', "\x00", "\ud7ff", "-o", "é"),
    ]
)


@settings(max_examples=300)
@given(st.lists(_PIECES, max_size=14).map("".join) | st.text(max_size=60))
def test_no_file_raises_anything_else(text: str) -> None:
    result = result_of(read, text)
    assert isinstance(result, PodsFile | ConfigError)
    assert isinstance(result, PodsFile) or result.where.startswith("pods.toml:")


# -- an ssh command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh box", ("box", None, None, None)),
        ("ssh root@203.0.113.7 -p 12181 -i ~/.ssh/id", ("203.0.113.7", 12181, "root", "~/.ssh/id")),
        ("ssh -p12181 -i'my key' root@h", ("h", 12181, "root", "my key")),
        ("ssh -l root h", ("h", None, "root", None)),
        ("ssh -tt -vv -q -tp 22 root@h", ("h", 22, "root", None)),
        ("ssh -o Port=22 -o User=me -o 'IdentityFile ~/k' h", ("h", 22, "me", "~/k")),
        ("ssh -oport=22 h", ("h", 22, None, None)),
        ("ssh ssh://root@h:22", ("h", 22, "root", None)),
        ("ssh ssh://root@[2001:db8::7]:22/", ("2001:db8::7", 22, "root", None)),
        ("ssh root@2001:db8::7", ("2001:db8::7", None, "root", None)),
        ("ssh me@corp@h", ("h", None, "me@corp", None)),
        ("ssh \\\n  root@h \\\n  -p 22", ("h", 22, "root", None)),
        ("ssh -o LogLevel=ERROR -o ServerAliveInterval=30 h", ("h", None, None, None)),
        ("ssh -p 22 ssh://h:22", ("h", 22, None, None)),
        ("ssh -- h", ("h", None, None, None)),
        ("ssh -o ForwardAgent=no h", ("h", None, None, None)),
    ],
)
def test_ssh_lines(text: str, expected: tuple[object, ...]) -> None:
    line = parse_ssh_line(text)
    assert (line.host, line.port, line.user, line.identity_file) == expected
    assert line.notes == []


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("ssh -A h", "the agent is never forwarded: -A is left out"),
        ("ssh -tA h", "the agent is never forwarded: -A is left out"),
        ("ssh -X h", "no display is forwarded: -X is left out"),
        ("ssh h -L 8080:localhost:8080", "nothing is forwarded: -L 8080:localhost:8080 is left"),
        ("ssh -D1080 h", "nothing is forwarded: -D 1080 is left out"),
        ("ssh -R 1:h:1 h", "nothing is forwarded: -R 1:h:1 is left out"),
        ("ssh -o ForwardAgent=yes h", "the agent is never forwarded: -o ForwardAgent=yes"),
        ("ssh -o StrictHostKeyChecking=no h", "host keys are checked here anyway: -o Strict"),
        ("ssh -o UserKnownHostsFile=/dev/null h", "host keys are checked here anyway"),
    ],
)
def test_what_is_left_out_of_an_ssh_line_is_said(text: str, note: str) -> None:
    line = parse_ssh_line(text)
    assert line.host == "h"
    assert len(line.notes) == 1
    assert line.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("text", "token", "remedy"),
    [
        ("ssh -J jump h", "'-J'", "ProxyJump jump"),
        ("ssh -o ProxyJump=jump h", "'-o ProxyJump=jump'", "ProxyJump jump"),
        ("ssh -o ProxyCommand=x h", "'-o ProxyCommand=x'", "a ProxyCommand"),
        ("ssh h nvidia-smi", "'nvidia-smi'", "without it"),
        ("ssh h && rm x", "'&&'", "without it"),
        ("ssh -W h:22 j", "'-W'", "leave it out"),
        ("ssh -F conf h", "'-F'", "leave it out"),
        ("ssh -z h", "'-z'", "leave it out"),
        ("ssh --gpu h", "'--gpu'", "leave it out"),
        ("ssh -o Frobnicate=1 h", "'-o Frobnicate=1'", "leave it out"),
        ("ssh -o Port h", "'-o Port'", None),
        ("ssh -p x h", "'-p'", None),
        ("ssh -p 0 h", "'-p'", None),
        ("ssh -p99999 h", "'-p99999'", None),
        ("ssh h -p", "'-p'", None),
        ("ssh -p 1 -p 2 h", "'-p'", None),
        ("ssh -l a b@h", "'b@h'", None),
        ("ssh @h", "'@h'", None),
        ("ssh root@h:22", "'root@h:22'", "-p PORT"),
        ("ssh root@<address>", "'root@<address>'", None),
        ("ssh 'a\x1b[2J'", "'a\\x1b[2J'", None),
        ("ssh", "'ssh'", "a complete line"),
        ("ssh -p 22", "names no host", "a complete line"),
        ("ssh 'x", "no closing quotation", None),
        ("sshpass -p x ssh h", "no ssh command line", None),
    ],
)
def test_what_cannot_be_used_of_an_ssh_line_is_named(text, token, remedy) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ssh_line(text)
    assert token in caught.value.message
    assert remedy is None or remedy in (caught.value.remedy or "")


_WORDS = st.sampled_from(
    [
        *("-p", "-p22", "22", "-i", "~/k", "~x/k", "-l", "-o", "Port=2", "User=", "h", "u@h", "-A"),
        *("ssh://", "ssh://u@h:x", "ssh://[::1]:2", "-J", "--", "-", "-tt", "-L", "'", "\\", "["),
        *("é", "\x00"),
    ]
)


@settings(max_examples=300)
@given(st.lists(_WORDS, max_size=7).map(" ".join) | st.text(max_size=40))
def test_no_ssh_line_raises_anything_else(text: str) -> None:
    assert isinstance(result_of(parse_ssh_line, f"ssh {text}"), SshLine | UsageError)
    assert isinstance(result_of(resolve_pod, f"ssh {text}"), Pod | UsageError)


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_no_pod_argument_raises_anything_else(text: str) -> None:
    assert isinstance(result_of(resolve_pod, text), Pod | UsageError)


# -- which file, which pod ----------------------------------------------------------------------


def test_the_first_file_that_exists_counts(tmp_path: Path, monkeypatch) -> None:
    assert find_pods_file() is None
    users = tmp_path / "home/.config/orchestrate/pods.toml"
    users.parent.mkdir(parents=True)
    users.write_text("")
    assert find_pods_file() == users
    moved = tmp_path / "xdg/orchestrate/pods.toml"
    moved.parent.mkdir(parents=True)
    moved.write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert find_pods_file() == moved
    Path("pods.toml").write_text("")
    assert find_pods_file() == Path("pods.toml")
    monkeypatch.setenv("ORCHESTRATE_PODS", "/named.toml")  # named: missing is an error, not passed
    assert find_pods_file() == Path("/named.toml")
    assert find_pods_file(Path("x")) == Path("x")


def test_a_name_wins_over_an_address_and_options_over_the_file() -> None:
    Path("pods.toml").write_text('[pods."h.example"]\nhost = "203.0.113.7"\nworkdir = "/w"\n')
    assert resolve_pod("h.example").host == "203.0.113.7"
    changed = resolve_pod("h.example", identity_file=Path("/k"), workdir="/x")
    assert (changed.identity_file, changed.workdir) == (Path("/k"), "/x")
    with pytest.raises(UsageError, match="--workdir 'x' is not an absolute path"):
        resolve_pod("h.example", workdir="x")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("root@203.0.113.7:12181", "root@203.0.113.7:12181"),
        ("203.0.113.7", "203.0.113.7"),
        ("gpu:22", "gpu:22"),
        ("localhost", "localhost"),
        (" ssh root@203.0.113.7 -p 22 ", "root@203.0.113.7:22"),
    ],
)
def test_addresses_and_ssh_lines_need_no_file(text: str, address: str) -> None:
    assert resolve_pod(text).address == address


def test_an_address_does_not_mind_a_broken_file() -> None:
    Path("pods.toml").write_text("[pods.a\n")
    assert resolve_pod("root@h").address == "root@h"
    with pytest.raises(ConfigError, match=r"pods\.toml:1:8"):
        resolve_pod("h.example")


def test_the_embedded_pod_is_the_runs_own() -> None:
    with pytest.raises(UsageError, match="made by the run itself"):
        resolve_pod("embedded")


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(UsageError, match="there is no pod 'gpu-c'") as caught:
        resolve_pod("gpu-c")
    assert "there is no pods.toml" in str(caught.value)
    Path("pods.toml").write_text(TWO)
    with pytest.raises(UsageError, match=r"did you mean 'gpu-[ab]'") as caught:
        resolve_pod("gpu-c")
    assert "pods.toml has gpu-a, gpu-b" in str(caught.value)
    assert "orchestrate pods add gpu-c user@host:port" in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        resolve_pod("gpu-a", pods_file=Path("none.toml"))


def test_what_was_left_out_of_a_pods_ssh_line_is_told_when_it_is_used() -> None:
    Path("pods.toml").write_text('[pods.a]\nssh = "ssh -A h"\n')
    told: list[str] = []
    resolve_pod("a", on_note=told.append)
    assert told == ["pod a: the agent is never forwarded: -A is left out"]


def test_a_host_of_the_ssh_configuration_is_a_pod(tmp_path: Path) -> None:
    config = tmp_path / "home/.ssh/config"
    config.write_text("Include more/*\nHost *\n  User me\nHost=box gpu-? !gpu-9\nMatch host m\n")
    (tmp_path / "home/.ssh/more").mkdir()
    (tmp_path / "home/.ssh/more/a").write_text('host "lab"\nInclude ~/.ssh/config\n')
    assert [name for name in ("box", "BOX", "gpu-1", "lab") if not is_ssh_host(name)] == []
    assert [name for name in ("gpu-9", "m", "other", "User") if is_ssh_host(name)] == []
    assert resolve_pod("box").host == "box"
    with pytest.raises(UsageError, match="there is no pod 'other'"):
        resolve_pod("other")


# -- adding -------------------------------------------------------------------------------------


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


# -- judging a machine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "seen", "error", "fitness"),
    [
        (None, (), None, Fitness.OK),
        (None, (), "driver mismatch", Fitness.WARNING),
        ("rtx4090", ("NVIDIA GeForce RTX 4090",), None, Fitness.OK),
        ("A100", ("NVIDIA GeForce RTX 4090",), None, Fitness.BAD),
        ("A100", (), None, Fitness.BAD),
        ("A100", (), "driver mismatch", Fitness.BAD),
    ],
)
def test_the_gpu_is_the_declared_one(declared, seen, error, fitness) -> None:
    gpus = tuple(
        GpuFacts(index=0, name=name, uuid="u", driver_version="1", memory_mib=1, pci_bus_id="0")
        for name in seen
    )
    finding = engine._gpu(
        Pod(name="a", host="h", gpu=declared), SystemFacts(gpus=gpus, gpu_error=error)
    )
    assert finding.fitness is fitness
    assert (error or "") in finding.message


@pytest.mark.parametrize(
    ("version", "fitness"),
    [
        ("3.7.17", Fitness.BAD),
        ("3.8.0", Fitness.OK),
        ("3.13.0rc1", Fitness.OK),
        (None, Fitness.BAD),
        ("2.7", Fitness.BAD),
    ],
)
def test_the_python_is_new_enough(version, fitness) -> None:
    assert engine._python(Pod(name="a", host="h"), version).fitness is fitness


# -- the commands -------------------------------------------------------------------------------


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    return result.output


def test_list() -> None:
    assert "orchestrate pods add NAME user@host:port" in invoke("pods", "list")
    assert json.loads(invoke("pods", "list", "--json")) == {"file": None, "pods": []}
    Path("pods.toml").write_text(TWO)
    lines = invoke("pods", "list").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["pod", "address"],
        ["gpu-a", "203.0.113.7"],
        ["gpu-b", "root@203.0.113.8:22"],
    ]
    listed = json.loads(invoke("pods", "list", "--json"))
    assert [pod["name"] for pod in listed["pods"]] == ["gpu-a", "gpu-b"]


def test_add_takes_a_pasted_line_with_and_without_quotes() -> None:
    invoke("pods", "add", "a", "ssh root@203.0.113.7 -p 22 -i /k")
    output = invoke(
        *("pods", "add", "b", "ssh", "-p22", "root@203.0.113.7", "-i", "/k", "--gpu", "RTX 4090"),
        *("-A", "-oStrictHostKeyChecking=no"),
    )
    assert "note: the agent is never forwarded" in output
    pods = read(Path("pods.toml").read_text()).pods
    assert pods["b"] == pods["a"].model_copy(update={"name": "b", "gpu": "RTX 4090"})


def test_check_without_pods_says_how_to_add_one() -> None:
    with pytest.raises(UsageError, match=r"there is no pods\.toml"):
        invoke("pods", "check")
    with pytest.raises(UsageError, match="there is no pod 'gpu-a'"):
        invoke("pods", "check", "gpu-a")


# -- completion ---------------------------------------------------------------------------------


def complete(line: str) -> list[str]:
    words = line.split(" ")
    environment = {
        **os.environ,
        "_ORCHESTRATE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    argv = [sys.executable, "-m", "orchestrator"]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_completion_knows_pods_runs_playbooks_profiles() -> None:
    Path("pods.toml").write_text(TWO + "broken = = no\n".replace("broken = = no", "x = 1"))
    for run in ("20250102-030405-aaaa", "20250103-030405-bbbb"):
        (Path("runs") / run).mkdir(parents=True)
        (Path("runs") / run / "run.json").write_text("{}")
    (Path("runs") / "other").mkdir()
    assert complete("orchestrate run --pod ") == ["plain,gpu-a", "plain,gpu-b", "plain,embedded"]
    assert complete("orchestrate pods check gpu-b") == ["plain,gpu-b"]
    assert complete("orchestrate status ") == [
        "plain,latest",
        "plain,20250103-030405-bbbb",
        "plain,20250102-030405-aaaa",
    ]
    assert complete("orchestrate run m4") == ["plain,m4-02-selection"]
    assert complete("orchestrate run ./x") == ["file,./x"]
    assert complete("orchestrate run --profile c") == ["plain,cuda", "plain,cpu"]
    assert complete("orchestrate pods ") == ["plain,add", "plain,check", "plain,list"]


def test_completion_is_fast_and_light() -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli.app import cli\n"
        "from click.shell_completion import BashComplete\n"
        "ask = BashComplete(cli, {}, 'orchestrate', 'X').get_completions\n"
        "for words in ('run --pod', 'run --profile', 'run', 'status', 'pods check'):\n"
        "    ask(words.split(), '')\n"
        "heavy = {'pydantic', 'paramiko', 'fabric', 'asyncssh', 'jinja2', 'ruamel', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    took = []
    for _ in range(3):  # the best of three: the machine may be busy
        started = time.perf_counter()
        complete("orchestrate run --pod ")
        took.append(time.perf_counter() - started)
    assert min(took) < 0.6  # 0.15 s on a machine with nothing else to do


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_scripts_name_our_command(shell: str) -> None:
    script = invoke("completion", shell)
    assert f"_ORCHESTRATE_COMPLETE={shell}_complete" in script
    assert "_orchestrate_completion" in script


def test_the_bash_script_is_bash() -> None:
    script = invoke("completion", "bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)


def test_profile_names_are_those_of_the_loader() -> None:
    text = shipped_playbooks()["m4-02-selection"].read_text(encoding="utf-8")
    assert profile_names(text) == ["cuda", "cpu"]
    assert profile_names("profiles: # x\n\n  # y\n  'a':\n    b: 1\n  c: {}\nd:\n  e:\n") == [
        "a",
        "c",
    ]
    assert profile_names("name: x\n") == []

"""An ssh command line as it is pasted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pods_files import result_of

from orchestrator.config.pod_lookup import resolve_pod
from orchestrator.config.ssh_line import SshLine, parse_ssh_line
from orchestrator.errors import UsageError
from orchestrator.models.pod import Pod

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

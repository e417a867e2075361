"""known_hosts files: what counts as known, changed, revoked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import ConnectError
from orchestrator.models.pod import Pod
from orchestrator.transport.hostkeys import HostKey, HostKeyQuestion, HostKeys, known_as

KEY = HostKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32)
OTHER = HostKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"o" * 32)
OTHER_TYPE = HostKey("ecdsa-sha2-nistp256", b"\0\0\0\x13ecdsa")
NAME = "[203.0.113.7]:40001"
POD = Pod(name="gpu-a", host="203.0.113.7", port=40001)


def store(tmp_path: Path, known: str = "", *, accept: bool | None = None) -> HostKeys:
    """A store whose user knows `known`; asking it fails the test unless `accept` says otherwise."""
    (tmp_path / "known_hosts").write_text(known)

    def confirm(question: HostKeyQuestion) -> bool:
        assert accept is not None, f"asked: {question}"
        return accept

    return HostKeys(tmp_path / "pins", confirm, known_hosts=[tmp_path / "known_hosts"])


def hashed(name: str) -> str:
    salt = b"s" * 20
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def test_names_are_those_of_known_hosts():
    assert known_as("Example.org", 22) == "example.org"
    assert known_as("203.0.113.7", 40001) == NAME
    assert known_as("2001:db8::1", 2222) == "[2001:db8::1]:2222"


def test_the_fingerprint_is_ssh_keygens(tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True
    )
    kind, blob = (tmp_path / "key.pub").read_text().split()[:2]
    argv = ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert HostKey(kind, base64.b64decode(blob)).fingerprint == said.split()[1]


def test_an_unknown_key_is_refused_unless_confirmed(tmp_path):
    with pytest.raises(ConnectError, match="unknown host key"):
        HostKeys(tmp_path / "pins", known_hosts=()).check(POD, NAME, KEY)
    assert not (tmp_path / "pins").exists()


def test_a_confirmed_key_is_pinned_privately_and_known_from_then_on(tmp_path):
    store(tmp_path, accept=True).check(POD, NAME, KEY)
    pin = tmp_path / "pins" / "gpu-a"
    assert pin.read_text() == KEY.line(NAME)
    assert pin.stat().st_mode & 0o777 == 0o600
    assert pin.parent.stat().st_mode & 0o777 == 0o700
    store(tmp_path).check(POD, NAME, KEY)


def test_pins_are_per_pod_and_address(tmp_path):
    store(tmp_path, accept=True).check(POD, NAME, KEY)
    with pytest.raises(ConnectError, match="unknown"):
        store(tmp_path, accept=False).check(POD, "[203.0.113.7]:40002", KEY)
    store(tmp_path, accept=True).check(POD, "[203.0.113.7]:40002", OTHER)
    store(tmp_path).check(POD, NAME, KEY)
    with pytest.raises(ConnectError, match="unknown"):
        store(tmp_path, accept=False).check(POD.model_copy(update={"name": "b"}), NAME, KEY)


@pytest.mark.parametrize("presented", [OTHER, OTHER_TYPE], ids=["same-type", "another-type"])
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "known"])
def test_a_changed_key_shows_both_and_is_never_asked_about(tmp_path, presented, pinned):
    keys = store(tmp_path, known="" if pinned else KEY.line(NAME))
    if pinned:
        (tmp_path / "pins").mkdir()
        (tmp_path / "pins" / "gpu-a").write_text(KEY.line(NAME))
    with pytest.raises(ConnectError, match="changed") as caught:
        keys.check(POD, NAME, presented)
    assert KEY.fingerprint in str(caught.value)
    assert presented.fingerprint in str(caught.value)
    assert "ssh-keygen -R" in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        NAME,
        f"other,{NAME}",
        "[203.0.113.*]:40001",
        "[203.0.113.?]:*",
        hashed(NAME),
    ],
)
def test_the_users_known_hosts_count_in_every_notation(tmp_path, names):
    store(tmp_path, known=f"# comment\n\nbroken\n{KEY.line(names)}").check(POD, NAME, KEY)
    assert (tmp_path / "pins" / "gpu-a").read_text() == KEY.line(NAME)


@pytest.mark.parametrize(
    "names",
    [
        "203.0.113.7",
        "2",
        f"*,!{NAME}",
        hashed("203.0.113.7"),
        "|1|bad",
        f"@cert-authority {NAME}",
    ],
)
def test_what_does_not_name_the_host_does_not_count(tmp_path, names):
    with pytest.raises(ConnectError, match="unknown"):
        store(tmp_path, known=KEY.line(names), accept=False).check(POD, NAME, KEY)


def test_a_revoked_key_is_refused_even_where_it_is_known(tmp_path):
    keys = store(tmp_path, known=f"{KEY.line(NAME)}@revoked {KEY.line('*')}")
    with pytest.raises(ConnectError, match="revoked"):
        keys.check(POD, NAME, KEY)


def test_a_pin_outweighs_known_hosts(tmp_path):
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "gpu-a").write_text(KEY.line(NAME))
    keys = store(tmp_path, known=OTHER.line(NAME))
    keys.check(POD, NAME, KEY)
    with pytest.raises(ConnectError, match="changed"):
        keys.check(POD, NAME, OTHER)


def test_a_pods_own_known_hosts_file_is_the_only_one(tmp_path):
    own = tmp_path / "own"
    pod = POD.model_copy(update={"known_hosts_file": own})
    keys = store(tmp_path, known=KEY.line(NAME))
    with pytest.raises(ConnectError, match=r"is not in .*own"):
        keys.check(pod, NAME, KEY)
    own.write_text(KEY.line(NAME))
    keys.check(pod, NAME, KEY)
    assert not (tmp_path / "pins").exists()

"""Which pods file counts, and which pod is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from pods_files import TWO

from orchestrator.config.pod_lookup import resolve_pod
from orchestrator.config.pods_path import find_pods_file
from orchestrator.config.ssh_hosts import is_ssh_host
from orchestrator.errors import ConfigError, UsageError


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

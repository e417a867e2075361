"""What a job leaves: its log, with secrets masked, and its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.agents import every_python


def test_follow_resumes_where_it_was_cut_without_loss_or_repetition(agent):
    agent.submit("for i in $(seq 1 150); do echo line $i; sleep 0.003; done")
    received = b""
    for _ in range(3):
        with subprocess.Popen(agent.command("follow", len(received)), stdout=-1) as follower:
            received += os.read(follower.stdout.fileno(), 100)
            follower.kill()
            received += follower.stdout.read()
    last = subprocess.run(agent.command("follow", len(received)), stdout=-1, check=True, timeout=20)
    assert (received + last.stdout).decode() == "".join(f"line {i}\n" for i in range(1, 151))
    assert agent("status")["result"]  # follow ends only when there is one


def test_follow_carries_20_mb(agent):
    agent.submit("seq 1 2700000")
    followed = subprocess.run(agent.command("follow", 0), stdout=-1, check=True, timeout=20).stdout
    result = agent("status")["result"]
    assert len(followed) == result["log_bytes"] > 20e6
    assert hashlib.sha256(followed).hexdigest() == result["log_sha256"]
    assert followed.endswith(b"\n2700000\n")


def test_follow_notices_that_nobody_reads(agent):
    agent.submit("sleep 60")
    with subprocess.Popen(agent.command("follow", 0), stdout=-1, stderr=-1) as follower:
        time.sleep(0.2)
        follower.stdout.close()
        assert follower.wait(20) == 0
        assert follower.stderr.read() == b""
    agent("cancel")


def test_follow_says_on_stderr_why_it_cannot(agent):
    done = subprocess.run(agent.command("follow", 0), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"")
    assert "no job" in json.loads(done.stderr)["error"]
    assert subprocess.run(agent.command("follow", "-1"), stderr=-1, check=False).returncode == 2


# -- secrets


def test_a_secret_is_used_and_masked_and_nowhere_to_be_found(agent, tmp_path):
    script = f"""
        [ "$TOKEN" = "$(printf 'tiger'; printf -- '-7Yq')" ] && echo same
        echo "all $TOKEN end"; printf "%s" "${{TOKEN:0:4}}"; sleep 0.3; echo "${{TOKEN:4}}!"
        printf "%s" "${{TOKEN:0:5}}"; until [ -e {tmp_path}/seen ]; do sleep 0.05; done
        """
    status = agent.submit(script, secrets={"TOKEN": SECRET})
    time.sleep(0.2)  # half of it is out now
    assert "tige" not in agent.log()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert SECRET.encode() not in (process / "cmdline").read_bytes()
    supervisor = Path(f"/proc/{status['supervisor_pid']}/environ")
    assert SECRET.encode() not in supervisor.read_bytes()
    (tmp_path / "seen").touch()
    assert agent.wait()["state"] == "SUCCEEDED"
    assert agent.log() == "same\nall *** end\n***!\ntiger"
    for path in agent.dir.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert json.loads((agent.dir / "job.json").read_text())["secret_names"] == ["TOKEN"]


def test_secrets_are_masked_wherever_reads_cut_them_and_however_they_overlap(agent, tmp_path):
    pieces = ["abab", "ab", "abcab", "cdx", "a", "babc", "bcde", "bcd", "aaaa", "aaa", "zab"]
    script = tmp_path / "script"
    script.write_text("".join(f"printf {piece}; sleep 0.02\n" for piece in pieces))
    agent.run("", argv=["bash", str(script)], secrets={"A": "ababc", "B": "bcde", "C": "aaa"})
    # ababababcabcdxababcbcdebcdaaaaaaazab: the union of all occurrences, touching ones apart
    assert agent.log() == "abab***abcdx******bcd***zab"


def test_a_long_masked_stream_arrives_whole(agent):
    secret = "heron-3Kq"  # noqa: S105 - not what the test above looks for in every command line
    command = f"yes 'line with '$TOKEN' and '{secret[:5]} | head -n 200000"
    result = agent.run(command, secrets={"TOKEN": secret})
    assert result["state"] == "SUCCEEDED"
    assert agent.log() == f"line with *** and {secret[:5]}\n" * 200000


@pytest.mark.parametrize("field", ["argv", "env"])
def test_a_secret_in_the_open_is_refused_without_repeating_it(agent, field):
    leak = {"argv": ["echo", f"--token={SECRET}"], "env": {"X": SECRET}}[field]
    answer = agent.submit("", exit_code=2, secrets={"TOKEN": SECRET}, **{field: leak})
    assert "TOKEN" in answer["error"]
    assert SECRET not in answer["error"]
    assert not agent.dir.exists()


# -- what a job leaves


@every_python
def test_manifest_lists_files_and_refuses_the_rest_by_name(agent):
    agent.run(
        r"""cd out; mkdir -p a/b; printf x >a/b/f; printf yy >$'odd\n"\' name'; : >$'\xff'
        ln -s /etc/passwd link; ln -s /etc up; mkfifo pipe; truncate -s 5000 big"""
    )
    manifest = agent("manifest", 4000)
    digest = hashlib.sha256(b"x").hexdigest()
    assert {"path": "a/b/f", "size": 1, "sha256": digest} in manifest["files"]
    assert [entry["path"] for entry in manifest["files"]] == ["a/b/f", "odd\n\"' name"]
    assert {entry["path"]: entry["reason"] for entry in manifest["refused"]} == {
        "big": "5000 bytes, more than 4000",
        "link": "symbolic link",
        "pipe": "fifo",
        "up": "symbolic link",
        "\\xff": "its name is not UTF-8",
    }
    assert manifest["free_bytes"] > 0
    assert len(agent("manifest")["files"]) == 3


def test_manifest_does_not_follow_out_itself(agent):
    agent.run("rmdir out; ln -s /etc out")
    manifest = agent("manifest")
    assert manifest["files"] == []
    assert manifest["refused"] == [{"path": ".", "reason": "symbolic link"}]


SECRET = "tiger-7Yq"  # noqa: S105 - the one that must not be found

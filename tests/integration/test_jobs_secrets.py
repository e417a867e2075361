"""Jobs with secrets: what has one stays on the pod."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal

import pytest

from orchestrator.jobs.collect import collect
from orchestrator.jobs.job import JobSpec
from orchestrator.models.command import Command, Secret
from tests.integration.agents import eventually

TOKEN = "tok'en\\" + '"7Yq+\u00e9?>'
TELL = r"""
import base64, json, os, pathlib
out, token = pathlib.Path(os.environ["ORCH_OUT"]), os.environ["TOKEN"]
(out / "plain").write_text("x" * 262140 + token)  # across two reads
(out / "json").write_text(json.dumps([token]))
for n in range(3):
    (out / f"base64-{n}").write_bytes(base64.b64encode(b"abc"[:n] + token.encode() + b"more"))
(out / f"named {token}").write_text("fine")
(out / f"link {token}").symlink_to("/etc/passwd")
(out / "innocent").write_text("fine")
print(token, json.dumps(token), base64.b64encode(token.encode()).decode(), sep="\n")
"""


@pytest.mark.parametrize("known", [TOKEN, "another-value", None], ids=["same", "other", "unset"])
def test_what_has_a_secret_stays_on_the_pod_whatever_the_secret_is_now(runner, known):
    command = Command(("python3", "-c", TELL))
    runner.run(JobSpec("j", command, secrets={"TOKEN": Secret(TOKEN)}))
    found = collect(
        runner.launcher,
        runner.connection,
        "j",
        runner.into,
        lambda _artifact: None,
        secrets={"TOKEN": Secret(known)} if known else {},
    )
    assert [path.name for path in runner.into.iterdir()] == ["innocent"]
    names = ["base64-0", "base64-1", "base64-2", "json", "named ***", "plain"]
    assert found.quarantined == [f"{name!r}: the value of TOKEN is in it" for name in names]
    assert found.refused == ["'link ***': symbolic link"]
    result = (runner.dir() / "result.json").read_text()
    for form in (TOKEN, json.dumps(TOKEN)[1:-1], repr(TOKEN)[1:-1]):
        assert form not in result + runner.log.read_text()
    assert base64.b64encode(TOKEN.encode()).decode()[:12] not in runner.log.read_text()


def test_a_job_with_secrets_that_was_never_searched_shows_no_files(runner):
    script = 'echo "$TOKEN" >"$ORCH_OUT/file"; echo up; sleep 60'
    runner.launcher.submit(runner.spec(script, secrets={"TOKEN": Secret(TOKEN)}))
    assert eventually(lambda: (runner.dir() / "log").read_text() == "up\n")
    process = json.loads((runner.dir() / "process.json").read_text())
    os.kill(process["supervisor"]["pid"], signal.SIGKILL)
    os.killpg(process["command"]["pid"], signal.SIGKILL)
    manifest = runner.launcher.manifest("j")
    assert manifest.files == []
    assert "never searched" in manifest.refused[0].reason


def test_a_refused_name_is_masked_before_it_is_quoted(runner):
    os_takes = TOKEN.replace('"', "")
    ended = runner.run(runner.spec(f"ln -s /etc {shlex.quote(f'out/l{os_takes}')}"))
    secrets = {"TOKEN": Secret(os_takes)}
    found = collect(
        *(runner.launcher, runner.connection, "j", runner.into, lambda _a: None, ended.manifest),
        secrets,
    )
    assert found.refused == ["'l***': symbolic link"]

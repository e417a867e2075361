"""`orchestrate run` from the outside: a small playbook over real SSH, every way it can end.

What ends after phase 2 (KEEP_OFF, a crash, no device) is in test_later_phases.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import time

import pytest

from tests.integration.lab import Lab


def test_a_kernel_that_wins_is_enabled_from_the_smallest_length(lab: Lab) -> None:
    done = lab.run()
    assert done.code == 0, done.stderr
    assert done.last["decision"]["outcome"] == "ENABLE"
    assert done.last["decision"]["min_L"] == 64
    assert [phase["verdict"] for phase in done.last["phases"][:3]] == ["PASS"] * 3
    assert (done.run / "sel_dense.csv").read_text().startswith("mode,N,H,D,Dv,L,streams,tri_ms")
    assert (done.run / "sel_varlen.csv").read_text().startswith("mode,N,H,D,Dv,L,nspans,streams")
    assert "ENABLE" in (done.run / "report/selection_report.md").read_text()
    assert (done.run / "selection_report.md").exists()
    assert "| collecting" in done.stderr  # the job's log, as it ran
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("settings", "code", "verdict", "outcome", "reason"),
    [
        ({"bench": "wins-late"}, 0, "PASS", "ENABLE", None),
        ({"bench": "wrong"}, 1, "FAIL", "UNDECIDED", "error-too-large"),
        ({"bench": "first-key"}, 5, "INVALID", "UNDECIDED", "reference-wrong"),
        ({"parity": "skipped"}, 4, "NOT_VERIFIED", None, "too-few-tests"),
        ({"parity": "fallback"}, 5, "INVALID", None, "fallback-ran"),
        ({"parity": "crash"}, 1, "FAIL", None, "job-failed"),
        ({"seconds": 30, "timeout": 1}, 1, "FAIL", None, "job-failed"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_every_ending_has_its_verdict(
    lab: Lab,
    settings: dict[str, str],
    code: int,
    verdict: str,
    outcome: str | None,
    reason: str | None,
) -> None:
    done = lab.run(**settings)
    assert done.code == code, done.stderr
    assert done.last["verdict"] == verdict
    assert (done.last["decision"] or {}).get("outcome") == outcome
    assert reason is None or reason in done.reasons, done.last["reasons"]
    if settings == {"bench": "wins-late"}:
        assert done.last["decision"]["min_L"] == 128


WAIVE = ("--waive", "bench sel_dense.csv", "--reason", "the fallback is being replaced")


def test_a_waived_gate_is_named_wherever_the_decision_is(lab: Lab) -> None:
    done = lab.run("--phase", "0-2", bench="weak-fallback")
    assert (done.code, done.reasons) == (1, {"weak-fallback"})
    second = ("--waive", "bench sel_varlen.csv", "--reason", "likewise")
    done = lab.run(*WAIVE, *second, bench="weak-fallback")
    assert done.code == 0, done.stderr
    assert done.last["decision"]["outcome"] == "ENABLE"
    waived = "bench sel_dense.csv (the fallback is being replaced)"
    assert waived in done.last["decision"]["summary"]
    report = (done.run / "report/selection_report.md").read_text()
    assert "- `bench sel_dense.csv`, which was **FAIL**: the fallback is being replaced" in report
    assert f"Waived: {waived}" in lab.git("log", "--all", "--format=%B")


def test_evidence_that_cannot_be_true_cannot_be_waived(lab: Lab) -> None:
    done = lab.run("--phase", "0-2", *WAIVE, bench="first-key")
    assert done.code == 5
    assert "It cannot be waived" in json.dumps(done.last["reasons"])


def test_a_waiver_names_a_gate_and_a_reason(lab: Lab) -> None:
    done = lab.run("--waive", "bench sel_dense.csvv", "--reason", "x")
    assert done.code == 2
    assert "did you mean 'bench sel_dense.csv'" in done.stderr
    done = lab.run("--waive", "bench sel_dense.csv")
    assert done.code == 2
    assert "each waiver needs a reason" in done.stderr


def test_a_csv_of_a_card_that_the_pod_does_not_have_is_invalid(lab: Lab) -> None:
    done = lab.run("--phase", "0-2", device="NVIDIA H200")
    assert done.code == 5
    assert "wrong-gpu" in done.reasons


def test_nothing_is_measured_on_a_red_gate(lab: Lab) -> None:
    done = lab.run(parity="broken")
    assert (done.code, done.last["verdict"], done.last["decision"]) == (1, "FAIL", None)
    assert "error-too-large" in done.reasons
    benchmark = done.last["phases"][2]
    assert benchmark["verdict"] is None
    assert benchmark["skipped"] == "phase 1 (parity) is FAIL: nothing is measured on a red gate"
    assert not (done.run / "sel_dense.csv").exists()


def test_a_phase_alone_decides_nothing_for_the_others_were_not_shown(lab: Lab) -> None:
    assert lab.run("--phase", "0").code == 0
    done = lab.run("--phase", "2")
    assert done.code == 4
    assert done.last["decision"]["outcome"] == "UNDECIDED"
    assert "not-run" in done.reasons


def test_report_and_status_need_the_run_directory_alone(lab: Lab) -> None:
    done = lab.run(device="cpu-interpreter")
    report = done.run / "report/selection_report.md"
    text = report.read_text()
    report.unlink()
    shutil.rmtree(lab.repo)
    shutil.rmtree(lab.env["ORCHESTRATE_CACHE"])
    again = lab.call("report", done.last["run_id"][:-1])
    assert (again.code, again.stdout.strip()) == (0, str(report))
    assert report.read_text() == text
    status = lab.call("status", "--json")
    assert json.loads(status.stdout)["verdict"] == "NOT_VERIFIED"
    assert [row["run_id"] for row in json.loads(lab.call("runs", "--json").stdout)] == [
        done.last["run_id"]
    ]
    assert "collecting" in lab.call("logs", "--step", "parity").stdout


def test_the_second_sync_sends_nothing(lab: Lab) -> None:
    lab.run("--phase", "0")
    done = lab.run("--phase", "0")
    assert re.search(r"\b0 of \d+ files sent, 0 deleted", done.stderr)


def test_control_sequences_of_a_job_stay_in_its_log(lab: Lab) -> None:
    done = lab.run("--phase", "0,1", parity="escapes")
    assert "| cleared" in done.stderr
    assert "\x1b" not in done.stderr
    assert b"\x1b[2J" in (done.run / "phase-1/parity/1/log").read_bytes()
    assert "\x1b" not in lab.call("logs").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_an_interrupted_run_leaves_nothing_running(lab: Lab, number: signal.Signals) -> None:
    playbook = str(lab.repo / "playbook.yaml")
    controller = lab.begin("run", playbook, "--set", "seconds=60", fresh=True)  # for `leftovers`
    controller.wait_until(lambda: "| collecting" in controller.said)
    controller.signal(number)
    outcome = controller.end()
    assert outcome.code in (130, 128 + number), outcome.stdout
    deadline = time.monotonic() + 10
    while lab.leftovers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert lab.leftovers() == []
    status = json.loads(lab.call("status", "--json").stdout)
    assert status["verdict"] != "PASS"


def test_what_was_changed_after_the_run_is_not_believed(lab: Lab) -> None:
    done = lab.run("--phase", "0-2")
    assert done.code == 0, done.stderr
    step = done.run / "phase-2/dense/1"
    csv, result, plan = (
        step / "artifacts/sel_dense.csv",
        step / "result.json",
        done.run / "run.json",
    )
    kept = {path: path.read_bytes() for path in (csv, result, plan)}
    csv.write_bytes(kept[csv].replace(b"\n", b"\r\n"))
    before, after = (hashlib.sha256(data).hexdigest() for data in (kept[csv], csv.read_bytes()))
    result.write_bytes(kept[result].replace(before.encode(), after.encode()))
    status = json.loads(lab.call("status", "--json").stdout)
    assert status["verdict"] == "INVALID"
    assert "had another SHA-256 when it was pulled" in json.dumps(status)
    for path in (csv, result):
        path.write_bytes(kept[path])
    (done.run / "facts.json").unlink()  # the log still knows which card the pod has
    assert json.loads(lab.call("status", "--json").stdout)["verdict"] == "PASS"
    events = done.run / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b"RTX 4090", b"RTX 3090"))
    assert json.loads(lab.call("status", "--json").stdout)["verdict"] == "INVALID"
    plan.write_bytes(kept[plan].replace(b'"margin": 1.2', b'"margin": 1.1'))
    refused = lab.call("status")
    assert refused.code != 0
    assert "was changed after the run began" in refused.stderr


def test_a_secret_in_what_the_run_keeps_is_refused(lab: Lab) -> None:
    playbook = lab.repo / "playbook.yaml"
    playbook.write_text(
        playbook.read_text().replace("\nphases:\n", "\nsecrets: [FIXTURE_TOKEN]\nphases:\n", 1)
    )
    value = "s3cret-value-of-the-fixture"
    lab.env["FIXTURE_TOKEN"] = value
    refused = lab.run(bench=value)
    assert refused.code == 2
    assert "the value of FIXTURE_TOKEN is in what the run would keep: " in refused.stderr
    (lab.repo / "bench.py").write_text(f"# {value}\n")
    refused = lab.run()
    assert refused.code == 2
    assert "keep: uncommitted changes of bench.py" in refused.stderr
    assert value not in refused.stderr
    assert not lab.runs_dir.exists()

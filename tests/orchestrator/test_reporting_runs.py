"""The report of a run: decided, undecided, died, damaged, and what a pod may not do to it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from evidence_samples import (
    PARITY,
    RTX_4090,
    case,
    failure,
    junit,
    row,
)
from report_runs import (
    DASH,
    HOSTILE,
    TEMPLATES,
    Run,
    assert_harmless,
    bare,
    complete,
    new_run,
    rendered,
    repulled,
    run_file,
    section,
)

from orchestrator.engine.waivers import waived
from orchestrator.errors import StoreError
from orchestrator.models.run import (
    JobState,
)
from orchestrator.models.verdict import (
    GateResult,
    Obstacle,
    Reason,
    Verdict,
    Waiver,
)
from orchestrator.reporting import render_report
from orchestrator.store.events import EventLog
from orchestrator.store.paths import RunPaths


def test_a_run_without_a_gpu(tmp_path):
    text = rendered(complete(tmp_path))
    assert text.startswith(f"# UNDECIDED {DASH} M4-02: Triton selection\n\n**UNDECIDED.** The pod")
    assert "- `no-cuda-device`: 6 of 6 rows" in text
    assert "Run the same playbook on a pod with an NVIDIA GPU" in text
    assert "**2 passed, 0 failed, 1 skipped**; max MAE 3.0e-04 against the fp64 oracle." in text
    assert text.count("**Not timings.**") == 2
    assert re.search(r"\| +0 \| Environment +\| skipped ", text)
    assert "there is no CUDA device" in text
    assert "failed (optional)" in text
    assert "- `flash-attn`: resource failed (optional, pip): no nvcc" in text
    assert "1 test of parity.xml: skipped; not counted as passed" in text
    assert "Profile `cpu` sets `N=4`." in text
    assert "orchestrate run --phase 0-5 --set 'title=a b'" in text
    assert "cd /root/nsa-vibe && python bench-dense.py" in text
    assert "**with uncommitted changes**" in text
    assert hashlib.sha256(run_file(tmp_path, "bench-dense", "sel_dense.csv")).hexdigest() in text
    assert "private_key" not in text


def test_a_run_on_a_gpu(tmp_path):
    text = rendered(complete(tmp_path, row, RTX_4090))
    assert text.startswith(f"# ENABLE(L>=64) {DASH} M4-02: Triton selection\n")
    assert "Set `runtime.sel_triton_min_L` to 64" in text
    assert "1.50x [1.45, 1.55]" in text
    assert "Not timings" not in text
    assert "In the way" not in text
    assert f"iters 50, warmup 5, on `{RTX_4090}`. Speedup with its 95 % interval." in text
    assert "sm_89, 24.0 GiB" in text


def test_how_firm_a_decision_is(tmp_path):
    def make(mode, length):
        # at operator level the strongest reference is hard to beat below 128
        low = {64: 1.15, 128: 1.25, 256: 1.35}[length]
        bounds = {"operator_strongest_lo": low, "operator_strongest_hi": 1.55}
        settled = "no: <b>noisy</b>" if length == 256 else "yes"
        own = {"speedup_lo": low, "speedup_hi": 1.55}
        return row(mode, length, **bounds, settled=settled) | own

    text = rendered(complete(tmp_path, make, RTX_4090))
    assert text.startswith("# ENABLE(L>=128)")
    firm = text.partition("## How firm the decision is")[2].partition("\n## ")[0]
    assert "It holds for `NVIDIA GeForce RTX 4090`, at operator level over the strongest" in firm
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in firm.split("\n")]
    assert ["kernel", "shipped", "64", "1.80x"] in cells
    assert ["operator", "strongest", "128", "1.15x"] in cells
    assert [c for c in cells if len(c) == 2][2:] == [["1.1", "64"], ["1.2", "128"], ["1.3", "256"]]
    assert firm.count("holds the margin 1.2") == 2
    assert "<b>" not in firm
    assert "noisy" in firm
    four = text.partition("Speedup at both levels, over both references:")[2]
    assert "1.80x [1.75, 1.85]" in four
    assert "1.50x [1.15, 1.55]" in four


def test_what_was_waived_stands_under_the_decision(tmp_path):
    run = complete(tmp_path, row, RTX_4090)
    waiver = Waiver(gate="bench sel_dense.csv", reason="the fallback is <i>being</i> replaced")
    step = next(s for s in run.steps[2] if s.step == "bench-dense")
    index = run.steps[2].index(step)
    failed = GateResult(
        gate=waiver.gate, verdict=Verdict.FAIL, reason=Reason.WEAK_FALLBACK, message="Slow."
    )
    gates = [waived(failed, [waiver]) if g.gate == waiver.gate else g for g in step.gates]
    run.steps[2][index] = step.model_copy(update={"gates": gates})
    text = rendered(run)
    head = text.partition("\n## ")[0]
    assert text.startswith("# ENABLE(L>=64)")
    assert "Waived: bench sel_dense.csv" in head.partition("Run `")[0]
    assert "- `bench sel_dense.csv`, which was **FAIL**: the fallback is" in head
    assert "<i>" not in text


def test_tables_are_tables(tmp_path):
    """Every row has as many cells as its header, and the source is aligned."""
    cells = 0
    for line in rendered(complete(tmp_path)).splitlines():
        if not line.startswith("|"):
            cells = 0
            continue
        count = line.replace(r"\|", "").count("|")
        assert count == (cells or count)
        cells = count


def test_a_run_that_died_in_phase_0(tmp_path):
    paths = new_run(tmp_path, profile=None)
    refused = Obstacle(reason=Reason.UNREACHABLE, message="192.0.2.7 refused the connection.")
    judgement = bare(paths, Verdict.INFRA, refused)
    EventLog(paths.events).append("run.error", reason="unreachable", message="refused")
    text = rendered(Run(paths), judgement=judgement)
    assert text.startswith(f"# No decision {DASH} M4-02: Triton selection\n")
    assert "192.0.2.7 refused the connection." in text
    assert "verdict **INFRA**, exit code 6" in text
    for empty in ("No test results.", "No measurements.", "No gate has judged anything."):
        assert empty in text
    assert "the run ended before it" in text
    assert "(did not run)" in text
    assert "--csv ./sel_dense.csv" in text
    assert "run.error: reason=unreachable, message=refused" in text


def asked(tmp_path: Path, *phases: int, verdict: Verdict = Verdict.PASS) -> str:
    paths = new_run(tmp_path, phases=list(phases))
    return rendered(Run(paths), judgement=bare(paths, verdict))


def test_a_run_of_phase_0_alone(tmp_path):
    text = asked(tmp_path, 0)
    head = f"# Phase 0 only: PASS {DASH} M4-02: Triton selection\n\nAll gates passed."
    assert text.startswith(f"{head} The decision is made in phase 2.\n")
    assert "- Phases 1-3: not asked for (--phase 0)\n" in text
    assert text.count("not asked for (") == 1
    assert "o decision" not in text


def test_a_run_of_some_phases_that_did_not_pass(tmp_path):
    text = asked(tmp_path, 0, 1, verdict=Verdict.NOT_VERIFIED)
    assert text.startswith(
        f"# Phases 0-1 only: NOT_VERIFIED {DASH} M4-02: Triton selection\n\nWhat"
    )


def test_a_run_that_was_asked_to_decide_and_could_not(tmp_path):
    text = asked(tmp_path, 2, verdict=Verdict.NOT_VERIFIED)
    assert "- Phases 0-1,3: not asked for (--phase 2)" in text
    assert text.startswith("# No decision")
    assert "\n\nNo decision was made.\n" in text
    assert "clones the repository" not in text


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([], 4),
        ([("run.error", {"reason": "pod-error"})], 3),
        ([("run.error", {"reason": "unreachable"})], 6),
        ([("run.error", {"reason": "not-run"})], 130),
        ([("run.error", {"reason": "not-landed"})], 2),
        ([("run.error", {"reason": ["?"]})], 3),
        ([("run.error", {"reason": "pod-error"}), ("run.finished", {"exit_code": 130})], 130),
        ([("run.error", {"reason": "pod-error"}), ("run.finished", {"exit_code": 77})], 3),
        ([("run.finished", {"exit_code": 0})], 4),
    ],
)
def test_the_exit_code_is_the_runs(tmp_path, events, code):
    paths = new_run(tmp_path)
    for name, data in events:
        EventLog(paths.events).append(name, **data)
    text = rendered(Run(paths), judgement=bare(paths, Verdict.NOT_VERIFIED))
    assert f"exit code {code}," in text


def test_a_csv_that_was_edited_is_not_shown(tmp_path):
    run = complete(tmp_path, row, RTX_4090)
    judgement = run.judgement()
    honest = section(rendered(run, judgement=judgement), "Benchmarks")
    assert "### Dense" in honest
    csv = run.paths.attempt(2, "bench-dense", 1).artifacts / "sel_dense.csv"
    csv.write_bytes(csv.read_bytes().replace(b",0.1,", b",0.01,"))
    text = rendered(run, judgement=judgement)
    assert "### Dense" not in section(text, "Benchmarks")
    assert "### Varlen" in section(text, "Benchmarks")
    assert "sel_dense.csv of step bench-dense was changed after it was pulled" in section(
        text, "Failures and runtime issues"
    )


def test_damaged_evidence_is_said(tmp_path):
    run = complete(tmp_path)
    judgement = run.judgement()
    repulled(run, 1, "parity-dense", "parity.xml", b"<!DOCTYPE x>")
    csv = run.paths.attempt(2, "bench-dense", 1).artifacts / "sel_dense.csv"
    csv.unlink()
    csv.symlink_to("/etc/hostname")
    repulled(run, 2, "bench-varlen", "sel_varlen.csv", b"\xff")
    run.paths.attempt(2, "threshold", 1).result.write_text("{}")
    run.paths.facts.write_text("[]")
    text = rendered(run, judgement=judgement)
    for problem in (
        "document type or entity",
        "sel_dense.csv of step bench-dense leads out of the run directory",
        "not UTF-8",
        "result of step threshold is unreadable",
        "pod's facts are unreadable",
    ):
        assert problem in text


def test_a_run_without_its_plan_cannot_be_reported(tmp_path):
    judgement = bare(RunPaths(tmp_path))
    with pytest.raises(StoreError):
        render_report(RunPaths(tmp_path), judgement, templates=TEMPLATES)


def test_failures_are_listed(tmp_path):
    run = Run(new_run(tmp_path))
    xml = junit(case("bad", PARITY, failure("MAE 0.15")))
    run.file(1, "parity-dense", "parity.xml").write_bytes(xml)
    aborted = {"state": JobState.FAILED, "reason": "signal", "signal": 6, "exit_code": None}
    run.job(1, "parity-dense", **aborted)
    run.bench("dense", lambda mode, length: row(mode, length, status="error: MLIR assertion"))
    text = rendered(run)
    assert "- `bad`: MAE 0.15" in text
    assert "- `parity-dense`: job ended: signal" in text
    assert "- `sel_dense.csv, L=64`: error: MLIR assertion" in text
    assert "**FAIL**" in text


def test_text_of_the_pod_cannot_shape_the_report(tmp_path):
    run = complete(tmp_path)
    hostile = {**PARITY, "kernel_path": "triton." + HOSTILE, "device": HOSTILE}
    xml = junit(case(HOSTILE.replace("\x1b", ""), hostile, failure(HOSTILE.replace("\x1b", ""))))
    (run.paths.attempt(1, "parity-dense", 1).artifacts / "parity.xml").write_bytes(
        xml.replace(b"\x1b", b"")
    )
    run.steps.pop(1)
    run.job(1, "parity-dense")
    EventLog(run.paths.events).append("job.lost", why=HOSTILE + "```")
    text = rendered(run)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\n# owned" not in text
    assert "owned" in text
    assert_harmless(text)

"""The document that KEEP_OFF lands, rendered by the report's own code from a run directory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from evidence_samples import RTX_4090, row, write_csv

from orchestrator.evidence.bench import parse_bench
from orchestrator.evidence.facts import Device, DeviceFacts, Facts
from orchestrator.gates.decision import decide
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import Artifact, Judgement, RunPlan, SourceRecord, StepResult
from orchestrator.models.verdict import Decision, GateResult, Outcome, Verdict
from orchestrator.reporting import render_rationale
from orchestrator.reporting.context import build
from orchestrator.reporting.render import render
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

LENGTHS = (64, 128, 256)
TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"

SHOWN = tuple(
    GateResult(gate=f"{kind} p.xml", verdict=Verdict.PASS, message="Fine.", measured={"n": 1})
    for kind in ("tests", "parity")
)


def bench(mode: str) -> dict[str, object]:
    name = f"sel_{mode}.csv"
    gate = {"gate": "bench", "file": name, "mode": mode, "lengths": list(LENGTHS)}
    return {
        "id": f"bench-{mode}", "action": "job", "command": ["bench"],
        "artifacts": [name], "gates": [gate],
    }  # fmt: skip


PLAYBOOK = Playbook.model_validate(
    {
        "version": 1,
        "name": "m4-02-selection",
        "title": "M4-02: Triton selection",
        "phases": [
            {
                "id": 2,
                "name": "benchmark",
                "title": "Microbenchmarks",
                "steps": [
                    bench("dense"),
                    bench("varlen"),
                    {
                        "id": "threshold",
                        "action": "decide",
                        "dense": "bench-dense/sel_dense.csv",
                        "varlen": "bench-varlen/sel_varlen.csv",
                    },
                ],
            }
        ],
    }
)


def slower(mode: str, length: int) -> dict[str, object]:
    """Dense wins at one length only, which is not enough; varlen never does."""
    speedup = 1.5 if (mode, length) == ("dense", 128) else 0.7
    ms = length / 320 * (1.0 if mode == "dense" else 1.001)
    times = {"tri_ms": ms / speedup, "ref_ms": ms, "speedup": speedup}
    return row(mode, length, **times, speedup_lo=speedup - 0.05, speedup_hi=speedup + 0.05)


def keep_off(folder: Path, name: str = RTX_4090) -> tuple[RunPaths, Judgement]:
    plan = RunPlan(
        run_id="20250102-030405-9f3a",
        created_at="2025-01-02T03:04:05.000+00:00",
        version="0.1.0",
        argv=["orchestrate", "run", "--phase", "0-5"],
        playbook=PLAYBOOK,
        playbook_path="playbooks/m4-02-selection.yaml",
        playbook_sha256="ab" * 32,
        profile=None,
        phases=[2],
        pod=Pod(name="gpu-a", host="192.0.2.7", user="root"),
        source=SourceRecord(root="/src", sha="c0ffee" * 6, dirty=False, fingerprint="cd" * 32),
    )
    paths = runs.create(folder, plan, b"", {})
    gpu = Device(name=name, capability=(8, 9), memory_bytes=24 * 2**30)
    device = DeviceFacts(
        python="3.11.7", torch="2.3.1", cuda_runtime="12.1", cuda_available=True, devices=(gpu,),
        triton="2.3.1", flash_attn=None,
    )  # fmt: skip
    runs.write(paths.facts, Facts(device=device))
    gates, rows = [], {}
    for mode in ("dense", "varlen"):
        file = f"sel_{mode}.csv"
        attempt = paths.attempt(2, f"bench-{mode}", 1)
        attempt.artifacts.mkdir(parents=True)
        data = write_csv(attempt.artifacts / file, mode, (slower(mode, at) for at in LENGTHS))
        digest = hashlib.sha256(data).hexdigest()
        result = StepResult(
            phase=2, step=f"bench-{mode}", attempt=1, action="job", title=mode, duration_s=70,
            started_at=plan.created_at, command="bench",
            artifacts=[Artifact(path=file, size=len(data), sha256=digest)],
        )  # fmt: skip
        runs.write(attempt.result, result)
        rows[mode] = parse_bench(data, file).rows
        step = next(s for s in PLAYBOOK.phases[0].steps if s.id == f"bench-{mode}")
        gates += [judge_gate(gate, {file: data}.get) for gate in step.gates]
    decision = decide(rows["dense"], rows["varlen"], 1.2, [*gates, *SHOWN])
    judgement = Judgement(
        run_id=plan.run_id, verdict=Verdict.PASS, phases=[], decision=decision, reasons=[]
    )
    return paths, judgement


def test_it_says_what_why_and_what_would_change_it(tmp_path):
    paths, judgement = keep_off(tmp_path)
    assert judgement.decision.outcome is Outcome.KEEP_OFF
    text = render_rationale(paths, judgement, templates=TEMPLATES)
    assert text.startswith(
        f"# Triton selection stays off on {RTX_4090}\n\n**Decision: KEEP_OFF.** "
    )
    assert "`runtime.sel_triton_min_L` is 2048 or above" in text
    assert f"- `{RTX_4090}`, sm_89, 24.0 GiB" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == [
        "## What was measured, and where",
        "## Are the results right?",
        "## Are they fast enough?",
        "### Dense (few spans)",
        "### Varlen (many spans)",
        "## Why it stays off",
        "## What would change it",
        "## Provenance",
    ]
    assert (
        "at best 1.50x [1.45, 1.55], at L=128, which reaches the margin, but not at every" in text
    )
    assert "at best 0.70x [0.65, 0.75], at L=64." in text
    assert "orchestrate run --phase 0-5" in text
    assert "\n\n\n" not in text
    for mode in ("dense", "varlen"):
        data = (paths.attempt(2, f"bench-{mode}", 1).artifacts / f"sel_{mode}.csv").read_bytes()
        assert hashlib.sha256(data).hexdigest() in text


def test_what_the_landing_left_does_not_change_it(tmp_path):
    """Or landing the same run again would be another landing."""
    paths, judgement = keep_off(tmp_path)
    before = render_rationale(paths, judgement, templates=TEMPLATES)
    event = {"at": "2025-01-02T03:05:00.000+00:00", "name": "run.error", "data": {"why": "gh"}}
    paths.events.write_text(json.dumps(event) + "\n")
    assert render_rationale(paths, judgement, templates=TEMPLATES) == before


@pytest.mark.parametrize("facts", [True, False])
def test_text_of_the_pod_is_escaped_and_gaps_are_said(tmp_path, facts):
    paths, judgement = keep_off(tmp_path, "<img src=x> | @team\n# owned")
    if not facts:
        paths.facts.unlink()
    text = render_rationale(paths, judgement, templates=TEMPLATES)
    assert "<img" not in text.replace("`<img", "").replace("<code>", "")
    assert "\n# owned" not in text
    assert ("name no CUDA device" in text) is not facts


def test_a_run_without_evidence_renders(tmp_path):
    paths, judgement = keep_off(tmp_path)
    for mode in ("dense", "varlen"):
        paths.attempt(2, f"bench-{mode}", 1).result.unlink()
    decision = Decision(outcome=Outcome.KEEP_OFF, min_L=4096, margin=1.3, summary="KEEP_OFF: slow")
    bare = judgement.model_copy(update={"decision": decision})
    text = render_rationale(paths, bare, templates=TEMPLATES)
    assert "No measurements." in text
    assert "is 4096 or above" in text
    assert "reaches 1.3 from" in text


def test_variants_that_were_tried_are_named(tmp_path):
    paths, judgement = keep_off(tmp_path)
    tried = SimpleNamespace(
        id="db", environment=("NSA_SEL_TRITON_DB=1",), verdict=None, decision=judgement.decision
    )
    unrun = SimpleNamespace(id="warps", environment=("W=8",), verdict=None, decision=None)
    comparison = SimpleNamespace(variants=(tried, unrun))
    report = replace(build(paths, judgement), comparison=comparison)
    text = render(report, templates=TEMPLATES, name="rationale.md.j2")
    assert "- `db` (`NSA_SEL_TRITON_DB=1`): KEEP_OFF\n" in text
    assert "- `warps` (`W=8`): did not run" in text

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from evidence_samples import (
    PARITY,
    RTX_4090,
    case,
    csv_of,
    failure,
    interpreted,
    junit,
    row,
    skip,
    write_csv,
)
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kernels.bench.contract import CPU_INTERPRETER
from orchestrator.engine.expand import expand
from orchestrator.engine.waivers import waived
from orchestrator.errors import ConfigError, StoreError, UsageError
from orchestrator.evidence.bench import parse_bench
from orchestrator.evidence.facts import Device, DeviceFacts, Facts, GpuFacts, SystemFacts
from orchestrator.gates import decide, job_gate, judge_gate
from orchestrator.models.playbook import Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import (
    Artifact,
    Inheritance,
    JobOutcome,
    JobState,
    Judgement,
    PhaseJudgement,
    ResourceOutcome,
    RunPlan,
    SourceRecord,
    StepJudgement,
    StepResult,
    VariantJudgement,
)
from orchestrator.models.verdict import (
    Decision,
    GateResult,
    Obstacle,
    Outcome,
    Reason,
    Verdict,
    Waiver,
    worst,
)
from orchestrator.reporting import markdown, render_rationale, render_report
from orchestrator.store import runs
from orchestrator.store.events import EventLog
from orchestrator.store.paths import RunPaths

TEMPLATES = Path(__file__).parents[2] / "reports" / "templates"
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
DASH = markdown.NOTHING
LENGTHS = (64, 128, 256)
GATES = {
    "parity-dense": [
        {"gate": "tests", "file": "parity.xml"},
        {"gate": "parity", "file": "parity.xml", "paths": ["triton.dense"]},
    ],
    "bench-dense": [
        {"gate": "bench", "file": "sel_dense.csv", "mode": "dense", "lengths": list(LENGTHS)}
    ],
    "bench-varlen": [
        {"gate": "bench", "file": "sel_varlen.csv", "mode": "varlen", "lengths": list(LENGTHS)}
    ],
}


def job(step: str, *command: str) -> dict[str, object]:
    return {
        "id": step,
        "action": "job",
        "title": f"Job {step}",
        "command": [".venv/bin/python", *command],
        "env": {"NSA_TEST_TRITON_SEL": "1"},
        "artifacts": [str(GATES[step][0]["file"])],
        "gates": GATES[step],
    }


PLAYBOOK = Playbook.model_validate(
    {
        "version": 1,
        "name": "m4-02-selection",
        "title": "M4-02: Triton selection",
        "environment": {"PYTHONPATH": "."},
        "profiles": {"cpu": {"description": "Interpreter, small shapes.", "variables": {"N": 4}}},
        "phases": [
            {
                "id": 0,
                "name": "environment",
                "title": "Environment",
                "steps": [
                    {"id": "sync", "action": "sync"},
                    {
                        "id": "provision",
                        "action": "provision",
                        "resources": [{"id": "venv", "resource": "venv"}],
                    },
                ],
            },
            {
                "id": 1,
                "name": "parity",
                "title": "Parity",
                "steps": [job("parity-dense", "-m", "pytest", "-k", "triton_sel_parity")],
            },
            {
                "id": 2,
                "name": "benchmark",
                "title": "Microbenchmarks and threshold",
                "steps": [
                    job(
                        "bench-dense", "bench.py", "--dist", "few", "--csv", "${out}/sel_dense.csv"
                    ),
                    job("bench-varlen", "bench.py", "--dist", "many"),
                    {
                        "id": "threshold",
                        "action": "decide",
                        "dense": "bench-dense/sel_dense.csv",
                        "varlen": "bench-varlen/sel_varlen.csv",
                    },
                ],
            },
            {"id": 3, "name": "diagnostics", "title": "Diagnostics", "when": "underperformance"},
        ],
    }
)


def new_run(
    folder: Path, *, profile: str | None = "cpu", playbook: Playbook = PLAYBOOK, **more: object
) -> RunPaths:
    playbook, variants = expand(playbook)
    plan = RunPlan(
        run_id="20250102-030405-9f3a",
        created_at="2025-01-02T03:04:05.000+00:00",
        version="0.1.0",
        argv=["orchestrate", "run", "--phase", "0-5", "--set", "title=a b"],
        playbook=playbook,
        variants=variants,
        playbook_path="playbooks/m4-02-selection.yaml",
        playbook_sha256="ab" * 32,
        profile=profile,
        profile_description="Interpreter, small shapes." if profile else None,
        phases=[phase.id for phase in playbook.phases],
        pod=Pod(
            name="gpu-a",
            host="192.0.2.7",
            port=12181,
            user="root",
            gpu="RTX 4090",
            identity_file=Path("/home/someone/.ssh/private_key"),
        ),
        source=SourceRecord(root="/src", sha="c0ffee" * 6, dirty=True, fingerprint="cd" * 32),
    )
    return runs.create(folder, plan.model_copy(update=more), b"", {})


class Run:
    """A run directory, filled as the engine fills it."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.plan = runs.read_plan(paths)
        self.steps: dict[int, list[StepJudgement]] = {}
        self.rows = {}

    def step(self, phase: int, step: str, **fields: object) -> StepResult:
        attempt = self.paths.attempt(phase, step, 1)
        attempt.artifacts.mkdir(parents=True, exist_ok=True)
        artifacts = [
            Artifact(
                path=file.name,
                size=file.stat().st_size,
                sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            )
            for file in sorted(attempt.artifacts.iterdir())
        ]
        result = StepResult(
            phase=phase,
            step=step,
            attempt=1,
            title=step,
            started_at="2025-01-02T03:04:06.000+00:00",
            duration_s=75.2,
            artifacts=artifacts,
            **{"action": "job", **fields},
        )
        runs.write(attempt.result, result)
        return result

    def job(self, phase: int, step: str, **outcome: object) -> None:
        ended = JobOutcome(
            job_id=step, duration_s=70, **{"state": JobState.SUCCEEDED, "exit_code": 0, **outcome}
        )
        self.step(phase, step, job=ended, command=f"cd /root/nsa-vibe && python {step}.py")
        folder = self.paths.attempt(phase, step, 1).artifacts
        planned = next(s for s in self.plan.playbook.phases[phase].steps if s.id == step)

        def read(name: str) -> bytes | None:
            return (folder / name).read_bytes() if (folder / name).exists() else None

        gates = [job_gate(ended), *(judge_gate(gate, read) for gate in planned.gates)]
        self.steps.setdefault(phase, []).append(
            StepJudgement(
                phase=phase,
                step=step,
                title=step,
                attempt=1,
                verdict=worst(gate.verdict for gate in gates),
                gates=gates,
            )
        )

    def file(self, phase: int, step: str, name: str) -> Path:
        folder = self.paths.attempt(phase, step, 1).artifacts
        folder.mkdir(parents=True)
        return folder / name

    def parity(self, make: bytes, phase: int = 1, step: str = "parity-dense") -> None:
        self.file(phase, step, "parity.xml").write_bytes(make)
        self.job(phase, step)

    def bench(self, mode: str, make, phase: int = 2, variant: str = "") -> None:
        step, name = f"{variant}bench-{mode}", f"sel_{mode}.csv"
        file = self.file(phase, step, name)
        write_csv(file, mode, (make(mode, length) for length in LENGTHS))
        if not variant:
            self.rows[mode] = parse_bench(file.read_bytes(), name).rows
        self.job(phase, step)

    def judgement(self) -> Judgement:
        gates = [gate for steps in self.steps.values() for step in steps for gate in step.gates]
        decision = decide(self.rows.get("dense", ()), self.rows.get("varlen", ()), 1.2, gates)
        phases = [
            PhaseJudgement(
                id=phase.id,
                name=phase.name,
                title=phase.title,
                verdict=worst(s.verdict for s in self.steps[phase.id])
                if phase.id in self.steps
                else None,
                skipped=None if phase.id in self.steps else "there is no CUDA device",
                steps=self.steps.get(phase.id, []),
            )
            for phase in self.plan.playbook.phases
        ]
        return Judgement(
            run_id=self.paths.run_id,
            verdict=Verdict.NOT_VERIFIED,
            phases=phases,
            decision=decision,
            reasons=list(decision.obstacles),
        )


def facts(*devices: Device) -> Facts:
    system = SystemFacts(
        uname="Linux 6.1 x86_64",
        os="Debian GNU/Linux 12",
        cpus=16,
        memory_bytes=64 * 2**30,
        disk_path="/root",
        disk_total_bytes=200 * 2**30,
        disk_free_bytes=120 * 2**30,
        python="3.11.7",
        gpus=(
            GpuFacts(
                index=0,
                name=RTX_4090,
                uuid="GPU-1",
                driver_version="550.54.15",
                memory_mib=24564,
                pci_bus_id="0:1",
            ),
        )
        if devices
        else (),
    )
    device = DeviceFacts(
        python="3.11.7",
        torch="2.13.0+cpu",
        cuda_runtime=None,
        cuda_available=bool(devices),
        devices=devices,
        triton="3.9.0",
        flash_attn=None,
    )
    return Facts(system=system, device=device)


def complete(folder: Path, make=interpreted, device: str = CPU_INTERPRETER) -> Run:
    """A whole run, by default on a machine without a GPU."""
    run = Run(new_run(folder))
    on_gpu = device != CPU_INTERPRETER
    gpu = Device(name=device, capability=(8, 9), memory_bytes=24 * 2**30)
    runs.write(run.paths.facts, facts(*([gpu] if on_gpu else [])))
    run.step(
        0,
        "provision",
        action="provision",
        resources=[
            ResourceOutcome(id="venv", resource="venv", action="unchanged", duration_s=0.2),
            ResourceOutcome(
                id="flash-attn",
                resource="pip",
                action="failed",
                optional=True,
                detail="no nvcc",
                duration_s=31,
            ),
        ],
    )
    run.step(0, "sync", action="sync")
    passed = {**PARITY, "device": device}
    xml = junit(
        case("a", passed),
        case("b", {**passed, "mae": "3e-4", "kernel_path": "triton.varlen"}),
        case("c", inner=skip("x")),
    )
    run.file(1, "parity-dense", "parity.xml").write_bytes(xml)
    run.job(1, "parity-dense")
    run.bench("dense", make)
    run.bench("varlen", make)
    run.step(2, "threshold", action="decide")
    return run


def rendered(run: Run, **more: object) -> str:
    judgement = more.pop("judgement", None) or run.judgement()
    path = render_report(run.paths, judgement, templates=TEMPLATES, **more)
    assert path == run.paths.report / "selection_report.md"
    text = path.read_text(encoding="utf-8")
    assert "\n\n\n" not in text
    return text


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


def bare(paths: RunPaths, verdict: Verdict = Verdict.INFRA, *reasons: Obstacle) -> Judgement:
    return Judgement(
        run_id=paths.run_id, verdict=verdict, phases=[], decision=None, reasons=list(reasons)
    )


def run_file(folder: Path, step: str, name: str) -> bytes:
    (file,) = folder.glob(f"*/phase-2/{step}/1/artifacts/{name}")
    return file.read_bytes()


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


def repulled(run: Run, phase: int, step: str, name: str, data: bytes) -> None:
    """Another content of an artifact, as if the pod had had that."""
    attempt = run.paths.attempt(phase, step, 1)
    (attempt.artifacts / name).write_bytes(data)
    result = runs.read(attempt.result, StepResult)
    sha256 = hashlib.sha256(data).hexdigest()
    artifacts = [
        a.model_copy(update={"sha256": sha256}) if a.path == name else a for a in result.artifacts
    ]
    runs.write(attempt.result, result.model_copy(update={"artifacts": artifacts}))


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


HOSTILE = "x | `y` <img src=x onerror=1>\n# owned\n@everyone [a](javascript:1) \x1b[31m\u202ez $k$"


def assert_harmless(text: str) -> None:
    tokens = [t for block in MARKDOWN.parse(text) for t in (block, *(block.children or ()))]
    html = {t.content.strip() for t in tokens if t.type in ("html_inline", "html_block")}
    known = ("<details><summary>", "</details>", "<code>", "</code>", "<!-- -->")
    assert all(tag.startswith(known) for tag in html)
    assert not {t.type for t in tokens} & {"link_open", "image", "em_open", "s_open"}
    headings = [after.content for t, after in pairwise(tokens) if t.type == "heading_open"]
    assert not [heading for heading in headings if "owned" in heading]
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


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


# --- phases 3 to 5 --------------------------------------------------------------------------------


def full_playbook() -> Playbook:
    """The playbook with diagnostics, two variants and a landing."""
    debug = {"gate": "diagnostics", "file": "diagnostics.jsonl"}
    late = [
        {
            "id": 3,
            "name": "diagnostics",
            "title": "Diagnostics",
            "steps": [
                {"id": "debug", "action": "job", "command": ["debug"], "gates": [debug]},
            ],
        },
        {
            "id": 4,
            "name": "fixes",
            "title": "Targeted fixes",
            "repeat": [1, 2],
            "variants": [
                {"id": "db", "title": "Double `buffer`", "environment": {"NSA_SEL_TRITON_DB": 1}},
                {"id": "code", "title": "Changed code", "changed_code": True},
            ],
        },
        {
            "id": 5,
            "name": "landing",
            "title": "Landing",
            "steps": [
                {
                    "id": "land",
                    "action": "land",
                    "config_file": "configs/base.yaml",
                    "rationale_doc": "docs/why.md",
                }
            ],
        },
    ]
    early = PLAYBOOK.model_dump(mode="json", exclude_unset=True)
    return Playbook.model_validate({**early, "phases": early["phases"][:3] + late})


DIFF = """--- a/configs/base.yaml
+++ b/configs/base.yaml
@@ -1,2 +1,2 @@
 runtime:
-  sel_triton_min_L: 2048  # ``` high
+  sel_triton_min_L: 64  # ``` high
"""


def slow(mode: str, length: int) -> dict[str, object]:
    return row(mode, length, speedup=0.5, speedup_lo=0.4, speedup_hi=0.6, ref_ms=0.05 * length / 64)


def call(path: str, length: int, **more: object) -> bytes:
    return json.dumps({"path": path, "kernels": [], "bucket": length, "L": length, **more}).encode()


def repaired(tmp_path: Path, **landing: object) -> tuple[Run, Judgement]:
    """Slow at first; variant `db` is fast, variant `code` did not run; landed."""
    run = Run(new_run(tmp_path, playbook=full_playbook()))
    passed = {**PARITY, "mae": "4e-4"}
    run.parity(junit(case("a", passed), case("b", passed)))
    for mode in ("dense", "varlen"):
        run.bench(mode, slow)
    torn = call("triton.ranges.head", 256, ms=1.5, mae=0.02) + b"\n" + b'{"path": "tri'
    run.file(3, "debug", "diagnostics.jsonl").write_bytes(torn)
    run.job(3, "debug")
    run.parity(junit(case("a", PARITY), case("b", PARITY)), 4, "db.parity-dense")
    for mode in ("dense", "varlen"):
        run.bench(mode, row, 4, "db.")
    for step in ("parity-dense", "bench-dense", "bench-varlen", "threshold"):
        EventLog(run.paths.events).append("step.skipped", step=f"code.{step}", why="code is equal")
    run.step(5, "land", action="land", **landing)
    measured = {"outcome": "KEEP_OFF", "min_L": 2048}
    kept = GateResult(gate="decision", verdict=Verdict.PASS, message="off.", measured=measured)
    run.steps[2][-1].gates.append(kept)
    judgement = run.judgement()
    good = Decision(
        outcome=Outcome.ENABLE,
        min_L=64,
        margin=1.2,
        summary="ENABLE from L=64: fast.",
        variant="db",
        environment={"NSA_SEL_TRITON_DB": "1"},
    )
    variants = [
        VariantJudgement(id="db", title="x", verdict=Verdict.PASS, decision=good),
        VariantJudgement(id="code", title="y", verdict=Verdict.NOT_VERIFIED, decision=None),
    ]
    phases = [
        phase.model_copy(update={"superseded": "db"}) if phase.id in (1, 2) else phase
        for phase in judgement.phases
    ]
    update = {"decision": good, "variants": variants, "adopted": "db", "phases": phases}
    return run, judgement.model_copy(update=update)


LANDED = {
    "branch": "m4-02/enable-64",
    "commit": "c0ffee",
    "pr_url": "https://example.com/pull/7",
    "diff": DIFF,
    "files": ["configs/base.yaml", "reports/a|b.csv"],
    "notes": ["Opened with `gh`."],
}


def section(text: str, title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


def test_before_and_after(tmp_path):
    run, judgement = repaired(tmp_path)
    shown = section(rendered(run, judgement=judgement), "Before and after")
    assert "Before: phases 1 and 2 of this run.\nAdopted: `db`" in shown
    assert "which needs `NSA_SEL_TRITON_DB=1`." in shown
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line.split("|")] for line in tables]
    assert ["before", "", DASH, "2 of 2", "4.0e-04", "PASS", "KEEP_OFF", "no"] in [
        line[1:-1] for line in lines
    ]
    db = next(line for line in lines if "`db`" in line and "ENABLE(L>=64)" in line)
    assert db[2:-1] == [
        "Double `buffer`", "`NSA_SEL_TRITON_DB=1`", "2 of 2", "2.1e-04", "PASS", "ENABLE(L>=64)",
        "**yes**",
    ]  # fmt: skip
    assert "did not run" in next(line for line in lines if "`code`" in line)
    rows = [line for line in lines if line[1].startswith(("dense few", "varlen many"))]
    assert [int(line[2]) for line in rows] == [*LENGTHS, *LENGTHS]
    assert {tuple(line[3:7]) for line in rows} == {
        ("0.50x [0.40, 0.60]", "2.0e-04", "1.50x [1.45, 1.55]", "2.0e-04")
    }


def test_a_cell_that_broke_before_or_after(tmp_path):
    run, judgement = repaired(tmp_path)
    broken = csv_of("dense", row("dense", 64, status="error: MLIR | assertion"))
    repulled(run, 4, "db.bench-dense", "sel_dense.csv", broken)
    text = rendered(run, judgement=judgement)
    assert r"| error: MLIR \| assertion |" in re.sub(" +", " ", section(text, "Before and after"))
    assert f"| {DASH} | {DASH} |" in re.sub(" +", " ", section(text, "Before and after"))
    assert "- `db: sel_dense.csv, L=64`: error: MLIR" in text


def test_base_sections_leave_variants_out(tmp_path):
    run, judgement = repaired(tmp_path)
    text = rendered(run, judgement=judgement)
    assert section(text, "Parity").count("parity.xml") == 1
    assert section(text, "Benchmarks").count("### ") == 2
    assert "1.50x" not in section(text, "Benchmarks")
    assert re.search(r"\| +1 \| Parity .*variant db takes its place", text)
    assert "- Variant code: code is equal\n" in text
    assert "code.parity-dense" not in section(text, "What did not run")


def test_what_a_variant_has_repaired_calls_for_nothing(tmp_path):
    run, judgement = repaired(tmp_path)
    red = GateResult(
        gate="x", verdict=Verdict.FAIL, reason=Reason.JOB_FAILED, message="m.", next_step="Fix it."
    )
    judgement.phases[1].steps[0].gates.append(red)
    text = rendered(run, judgement=judgement)
    assert "- Fix it." not in text
    assert "| Fix it." in text
    alone = [phase.model_copy(update={"superseded": None}) for phase in judgement.phases]
    judgement = judgement.model_copy(update={"adopted": None, "phases": alone})
    text = rendered(run, judgement=judgement)
    assert "- Fix it." in text
    assert "No variant was adopted." in text


def test_diagnostics(tmp_path):
    run, judgement = repaired(tmp_path)
    shown = section(rendered(run, judgement=judgement), "Diagnostics")
    assert (
        "- **Large MAE at L >= 128** (step `debug`): L=256: 2.0e-02 (triton.ranges.head)." in shown
    )
    assert "Remedy: Verify two-pass FP32 LSE and scaling; check inv_sqrt_d use" in shown
    assert "Confirm the group-centric path (NSA_SEL_TRITON_GROUP=1)" in shown
    bucket = "| `debug` | 256 | `triton.ranges.head` | 1 | 1.50 | 2.0e-02 |"
    assert bucket in re.sub(" +", " ", shown)
    assert "ends in a line that was cut off" in shown


def test_text_of_the_pod_cannot_shape_the_later_sections(tmp_path):
    run, judgement = repaired(tmp_path, details={**LANDED, "notes": [HOSTILE], "pr_url": HOSTILE})
    file = run.paths.attempt(3, "debug", 1).artifacts / "diagnostics.jsonl"
    file.write_bytes(
        call(HOSTILE, 128, reason=HOSTILE) + b"\n" + call("x", 64, reason="MLIR " + HOSTILE) + b"\n"
    )
    (gate,) = run.plan.playbook.phases[3].steps[0].gates
    judgement.phases[3].steps[0].gates.append(
        judge_gate(gate, lambda _name: file.read_bytes()),
    )
    text = rendered(run, judgement=judgement)
    assert "MLIR/broadcast shape issue" in section(text, "Diagnostics")
    assert "owned" in section(text, "Diagnostics")
    assert_harmless(text)


def test_a_landing(tmp_path):
    run, judgement = repaired(tmp_path, details=LANDED)
    text = rendered(run, judgement=judgement)
    shown = section(text, "Landing")
    assert (
        "Branch `m4-02/enable-64`, commit `c0ffee`, pull request <https://example.com/pull/7>."
        in (shown)
    )
    assert "\n````diff\n" + DIFF + "````\n" in shown
    assert "<code>reports/a&#124;b.csv</code>" in shown
    assert "- Opened with `gh`." in shown
    assert "- Review the pull request: <https://example.com/pull/7>." in text
    assert "- Set `NSA_SEL_TRITON_DB=1` wherever the kernel runs" in text
    titles = re.findall("^## (.*)$", text, re.MULTILINE)
    assert titles[:2] == ["Summary", "Landing"]


def test_a_landing_without_a_pull_request(tmp_path):
    details = {**LANDED, "pr_url": None, "diff": "", "files": "x", "notes": None}
    run, judgement = repaired(tmp_path, details=details)
    text = rendered(run, judgement=judgement)
    assert "commit `c0ffee`, no pull request." in text
    assert "- Review branch `m4-02/enable-64` and merge it." in text
    assert "- Config: `configs/base.yaml` has the value already." in text


def test_a_landing_that_was_refused(tmp_path):
    run, judgement = repaired(tmp_path, error="configs/base.yaml has uncommitted changes")
    text = rendered(run, judgement=judgement)
    assert "Not landed: configs/base.yaml has uncommitted changes" in section(text, "Landing")
    assert "- Config: not changed: configs/base.yaml has" in text
    assert "- Set `runtime.sel_triton_min_L` to 64 and open a pull request." in text


@pytest.mark.parametrize(
    "url", ["javascript:1", "https://x/<b>", "https://x y", "http://x", "https://a`b"]
)
def test_only_a_plain_address_is_a_link(url):
    assert "<http" not in markdown.link(url)


def test_the_short_summary(tmp_path):
    run, judgement = repaired(tmp_path, details=LANDED)
    shown = section(rendered(run, judgement=judgement), "Summary")
    assert "- Parity: **2 passed, 0 failed, 0 skipped**; max MAE 4.0e-04 against the fp64" in shown
    assert "With the adopted variant: **2 passed, 0 failed, 0 skipped**; max MAE 2.1e-04" in shown
    assert (
        "- Issues: no failed test, job or cell. Diagnostics show: Large MAE at L >= 128; " in shown
    )
    assert "- Config: `configs/base.yaml` changed on branch `m4-02/enable-64`" in shown


def test_the_summary_names_the_first_issues(tmp_path):
    run = Run(new_run(tmp_path))
    run.parity(junit(*(case(f"t{n}", PARITY, failure("MLIR")) for n in range(5))))
    shown = section(rendered(run), "Summary")
    assert "- Issues: 5: `t0`: MLIR; `t1`: MLIR; `t2`: MLIR; and 2 more below." in shown
    assert "- Config: not changed: nothing was decided." in shown


def test_a_test_in_two_files_counts_once(tmp_path):
    parity = PLAYBOOK.phases[1]
    second = parity.steps[0].model_copy(update={"id": "parity-gpu"})
    playbook = PLAYBOOK.model_copy(
        update={
            "phases": [
                PLAYBOOK.phases[0],
                parity.model_copy(update={"steps": [*parity.steps, second]}),
                *PLAYBOOK.phases[2:],
            ]
        }
    )
    run = Run(new_run(tmp_path, playbook=playbook))
    xml = (case("a", PARITY), case("b", PARITY), case("c", inner=skip("x")), case("d", PARITY))
    run.parity(junit(*xml))
    other = (
        case("b", {**PARITY, "mae": "5e-4"}),
        case("c", PARITY),
        case("d", inner=failure("no")),
    )
    run.parity(junit(*other), step="parity-gpu")
    shown = section(rendered(run), "Parity")
    assert (
        "**3 passed, 1 failed, 0 skipped** (distinct tests; 3 of them in more than one file); "
        "max MAE 5.0e-04 against the fp64 oracle." in shown
    )
    rows = [re.findall(r"\d+(?= \|)", re.sub(" +", " ", r)) for r in shown.splitlines()]
    assert [r[:3] for r in rows if len(r) >= 3] == [["3", "0", "1"], ["2", "1", "0"]]


# --- inherited phases -----------------------------------------------------------------------------


def inheriting(tmp_path: Path, source: Path, **more: object) -> Run:
    inherits = Inheritance(run_id="20250101-000000-aaaa", path=str(source), phases=[0, 1], **more)
    run = Run(new_run(tmp_path / "new", phases=[2], inherits=inherits))
    for mode in ("dense", "varlen"):
        run.bench(mode, row)
    return run


def inherited(run: Run) -> Judgement:
    judgement = run.judgement()
    update = {"verdict": Verdict.PASS, "inherited": "20250101-000000-aaaa"}
    phases = [p.model_copy(update=update) if p.id < 2 else p for p in judgement.phases]
    return judgement.model_copy(update={"phases": phases})


def test_inherited_phases(tmp_path):
    source = complete(tmp_path / "old", row, RTX_4090)
    run = inheriting(tmp_path, source.paths.root)
    text = rendered(run, judgement=inherited(run))
    assert "Phases 0, 1 of run `20250101-000000-aaaa` were reused: playbook" in section(
        text, "Inherited"
    )
    assert "**2 passed, 0 failed, 1 skipped**; max MAE 3.0e-04" in section(text, "Parity")
    assert re.search(r"\| +1 \| Parity .*inherited from run 20250101-000000-aaaa", text)
    assert "Phase 3: not asked for (--phase 2)" in section(text, "What did not run")
    assert "2 min 30 s of work" in text
    assert "torch 2.13.0+cpu" in text or "CUDA device            | not asked" in text


def test_phases_that_cannot_be_inherited_any_more(tmp_path):
    source = complete(tmp_path / "old", row, RTX_4090)
    changed = [f"kernels/selection/k{n}.py" for n in range(22)]
    run = inheriting(
        tmp_path, source.paths.root, differences=["playbook", "source"], changed_files=changed
    )
    shown = section(rendered(run, judgement=inherited(run)), "Inherited")
    assert "cannot be reused as evidence: not equal are playbook, source." in shown
    assert "22 changed source files: `kernels/selection/k0.py`, " in shown
    assert "`kernels/selection/k19.py` and 2 more." in shown


def test_what_is_inherited_may_be_gone(tmp_path):
    run = inheriting(tmp_path, tmp_path / "nowhere")
    text = rendered(run, judgement=inherited(run))
    assert "Phase 1 is inherited from run 20250101-000000-aaaa, which is unreadable" in text
    assert "No test results." in text


def test_a_run_that_inherits_from_itself(tmp_path):
    run = inheriting(tmp_path, tmp_path / "new" / "20250102-030405-9f3a")
    assert "inherits phase 1 from itself" in rendered(run, judgement=inherited(run))


# --- the rationale --------------------------------------------------------------------------------


def test_the_rationale_has_the_values_of_the_report(tmp_path):
    (tmp_path / "rationale.md.j2").write_text(
        "# {{ report.headline }}\n\n{{ report.summary.parity }}\n\n{{ report.why | prose }}\n"
    )
    run = complete(tmp_path / "runs")
    text = render_rationale(run.paths, run.judgement(), templates=tmp_path)
    assert text.startswith("# UNDECIDED\n\n**2 passed, 0 failed, 1 skipped**; max MAE 3.0e-04")


def test_the_rationale_without_its_template(tmp_path):
    run = complete(tmp_path / "runs")
    with pytest.raises(UsageError, match=r"rationale\.md\.j2 is missing"):
        render_rationale(run.paths, run.judgement(), templates=tmp_path)


# --- templates ------------------------------------------------------------------------------------


def with_template(tmp_path: Path, text: str) -> str:
    file = tmp_path / "mine.md.j2"
    file.write_text(text)
    run = Run(new_run(tmp_path / "runs"))
    judgement = bare(run.paths)
    return rendered(run, judgement=judgement, template=file)


def test_a_template_of_ones_own(tmp_path):
    assert with_template(tmp_path, "{{ report.verdict }} {{ '<b>|' }}") == r"INFRA &lt;b>\|" + "\n"


def test_a_template_may_extend_the_shipped_one(tmp_path):
    mine = "{% extends 'selection_report.md.j2' %}{% block gates %}GATES{% endblock %}"
    text = with_template(tmp_path, mine)
    assert "GATES" in text
    assert "## Provenance" in text
    assert "## Gates" not in text


def test_a_template_that_extends_the_shipped_one_shows_phase_4_too(tmp_path):
    mine = tmp_path / "mine.md.j2"
    mine.write_text("{% extends 'selection_report.md.j2' %}{% block decision %}{% endblock %}")
    run, judgement = repaired(tmp_path)
    assert "1.50x [1.45, 1.55]" in rendered(run, judgement=judgement, template=mine)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a\n{{ report.nothing }}", ":2:1"),
        ("a\n{% if %}", ":2:1"),
        ("{{ ''.__class__.__mro__ }}", ":1:1"),
        ("{{ report.__init__.__globals__ }}", ":1:1"),
        ("{{ report.environment.facts.model_dump_json() }}", ":1:1"),
        ("{{ report.gates.parse_file('/etc/passwd') }}", ":1:1"),
        ("{{ '{0.__class__}'.format(report) }}", ":1:1"),
        ("{% include '../../pyproject.toml' %}", ":1:1"),
        ("{{ 1 / 0 }}", ":1:1"),
    ],
)
def test_a_bad_template_is_a_usage_error_that_says_where(tmp_path, text, where):
    with pytest.raises(ConfigError) as caught:
        with_template(tmp_path, text)
    assert f"mine.md.j2{where}: " in str(caught.value)


def test_a_missing_template(tmp_path):
    run = Run(new_run(tmp_path))
    judgement = bare(run.paths)
    with pytest.raises(UsageError, match="cannot read the template"):
        rendered(run, judgement=judgement, template=tmp_path / "none.j2")


# --- Markdown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("sel_triton_min_L", "sel_triton_min_L"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("<b>&", "&lt;b>&amp;"),
        ("# title", r"\# title"),
        ("1. item", r"1\. item"),
        ("> quote", r"\> quote"),
        ("1.5 ms", "1.5 ms"),
        ("3.11.7", "3.11.7"),
        (-1.5, "-1.5"),
        ("--csv x", "--csv x"),
        ("- item", r"\- item"),
        ("---", r"\---"),
        ("#12", "#12"),
        ("two\nlines\u2028three", "two lines three"),
        ("http://evil www.evil.com", r"http\://evil www\.evil.com"),
        ("hi @team, root@host", "hi @<!-- -->team, root@host"),
        ("\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b", "red"),
        ("a\u202eb\u200bc\ud800", "abc"),
        (None, markdown.NOTHING),
        ("x" * 700, "x" * 599 + "…"),
    ],
)
def test_escape(text, shown):
    assert markdown.escape(text) == shown
    assert markdown.escape(markdown.escape(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Run `orchestrate run` again", "Run `orchestrate run` again"),
        ("`a|b` is *it*", r"<code>a&#124;b</code> is \*it\*"),
        ("one ` alone", r"one \` alone"),
        ("` ` two", r"\` \` two"),
        ("`a` - b", "`a` - b"),
        ("- `a`", r"\- `a`"),
        (markdown.Markdown("**kept**"), "**kept**"),
        (None, markdown.NOTHING),
    ],
)
def test_prose(text, shown):
    assert markdown.prose(text) == shown


@given(st.text(alphabet=st.sampled_from("a1 .-#>*_`|~<>[]()!&\\:/@+=\n$")))
def test_prose_shapes_nothing_but_code(text):
    blocks = MARKDOWN.parse(markdown.prose(text))
    assert [block.type for block in blocks] in (["paragraph_open", "inline", "paragraph_close"], [])
    for part in blocks[1].children if blocks else ():
        assert part.type in ("text", "text_special", "code_inline", "html_inline")
        assert part.type != "html_inline" or part.content in ("<!-- -->", "<code>", "</code>")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|<b>", "<code>a&#124;&lt;b></code>"),
        ("", markdown.NOTHING),
        (None, markdown.NOTHING),
        ("x\ny", "`x y`"),
    ],
)
def test_code(text, shown):
    assert markdown.code(text) == shown


def test_a_block_cannot_be_left():
    assert markdown.block("a\n```\nb\x1b[1m", "sh") == "````sh\na\n```\nb\n````"


@given(st.text())
def test_escaped_text_is_one_line_without_bare_bars_or_tags(text):
    for shown in (markdown.escape(text), markdown.code(text)):
        assert len(shown.splitlines()) <= 1
        assert "|" not in shown.replace(r"\|", "")
        shown.encode()
    assert "<" not in markdown.escape(text).replace("<!-- -->", "")


def test_tidy_aligns_tables_outside_fences():
    text = "|a|b|\n|---|---:|\n|x|1|\n\n\n```\n|a|b|\n|-|-|\n\n\n```\nend"
    assert markdown.tidy(text) == (
        "| a   |   b |\n| --- | --: |\n| x   |   1 |\n\n```\n|a|b|\n|-|-|\n\n\n```\nend\n"
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (markdown.milliseconds(0.038123), "0.0381"),
        (markdown.milliseconds(12.345), "12.3"),
        (markdown.milliseconds(1234.5), "1234"),
        (markdown.milliseconds(0), "0"),
        (markdown.milliseconds(None), None),
        (markdown.error(0.00021), "2.1e-04"),
        (markdown.error(0.0), "0"),
        (markdown.error(None), None),
        (markdown.ratio(1.4321, 1.38, 1.47), "1.43x [1.38, 1.47]"),
        (markdown.ratio(0.0123), "0.0123x"),
        (markdown.ratio(None), None),
        (markdown.size(512), "512 B"),
        (markdown.size(1536), "1.50 KiB"),
        (markdown.size(24 * 2**30), "24.0 GiB"),
        (markdown.size(None), None),
        (markdown.duration(0.44), "0.4 s"),
        (markdown.duration(59.6), "1 min 00 s"),
        (markdown.duration(12), "12 s"),
        (markdown.duration(3720), "1 h 02 min"),
        (markdown.duration(None), None),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected


@given(st.text(alphabet=st.sampled_from("a1 .-#>*_`|~<>[]()!&\\:/@+=\n$")))
def test_escaped_text_reads_as_itself(text):
    """A real parser sees one paragraph of plain text, and in it what was written."""
    blocks = MARKDOWN.parse(markdown.escape(text))
    assert [block.type for block in blocks] in (["paragraph_open", "inline", "paragraph_close"], [])
    if blocks:
        parts = [part for part in blocks[1].children if part.type != "html_inline"]
        assert all(part.type in ("text", "text_special") for part in parts)
        assert "".join(part.content for part in parts) == " ".join(text.split())


@given(st.text(alphabet=st.sampled_from("a `|<>&*\\")))
def test_code_reads_as_itself(text):
    shown = MARKDOWN.parse(f"| a |\n|---|\n| {markdown.code(text)} |")
    (cell,) = [block for n, block in enumerate(shown) if shown[n - 1].type == "td_open"]
    parts = [part.content for part in cell.children if part.type != "html_inline"]
    assert "".join(parts) == (" ".join(text.split()) or markdown.NOTHING)

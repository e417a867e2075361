"""Runs as they lie on disk, to be reported."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

from evidence_samples import (
    PARITY,
    RTX_4090,
    case,
    interpreted,
    junit,
    skip,
    write_csv,
)
from markdown_it import MarkdownIt

from kernels.bench.contract import CPU_INTERPRETER
from orchestrator.engine.expand import expand
from orchestrator.evidence.bench import parse_bench
from orchestrator.evidence.facts import Device, DeviceFacts, Facts, GpuFacts, SystemFacts
from orchestrator.gates.decision import decide
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import (
    Artifact,
    JobOutcome,
    JobState,
    Judgement,
    PhaseJudgement,
    ResourceOutcome,
    RunPlan,
    SourceRecord,
    StepJudgement,
    StepResult,
)
from orchestrator.models.verdict import (
    Obstacle,
    Verdict,
    worst,
)
from orchestrator.reporting import markdown, render_report
from orchestrator.store import runs
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


def bare(paths: RunPaths, verdict: Verdict = Verdict.INFRA, *reasons: Obstacle) -> Judgement:
    return Judgement(
        run_id=paths.run_id, verdict=verdict, phases=[], decision=None, reasons=list(reasons)
    )


def run_file(folder: Path, step: str, name: str) -> bytes:
    (file,) = folder.glob(f"*/phase-2/{step}/1/artifacts/{name}")
    return file.read_bytes()


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


def section(text: str, title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from evidence_samples import (
    PARITY,
    RTX_4090,
    case,
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
from orchestrator.errors import ConfigError, StoreError, UsageError
from orchestrator.evidence.bench import parse_bench
from orchestrator.evidence.facts import Device, DeviceFacts, Facts, GpuFacts, SystemFacts
from orchestrator.gates import decide, job_gate, judge_gate
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
from orchestrator.models.verdict import Obstacle, Reason, Verdict, worst
from orchestrator.reporting import markdown, render_report
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


def new_run(folder: Path, *, profile: str | None = "cpu") -> RunPaths:
    plan = RunPlan(
        run_id="20250102-030405-9f3a",
        created_at="2025-01-02T03:04:05.000+00:00",
        version="0.1.0",
        argv=["orchestrate", "run", "--phase", "0-5", "--set", "title=a b"],
        playbook=PLAYBOOK,
        playbook_path="playbooks/m4-02-selection.yaml",
        playbook_sha256="ab" * 32,
        profile=profile,
        profile_description="Interpreter, small shapes." if profile else None,
        phases=[0, 1, 2, 3],
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
    return runs.create(folder, plan, b"")


class Run:
    """A run directory, filled as the engine fills it."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
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
        planned = next(s for s in PLAYBOOK.phases[phase].steps if s.id == step)

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

    def bench(self, mode: str, make) -> None:
        step, name = f"bench-{mode}", f"sel_{mode}.csv"
        file = self.file(2, step, name)
        write_csv(file, mode, (make(mode, length) for length in LENGTHS))
        self.rows[mode] = parse_bench(file.read_bytes(), name).rows
        self.job(2, step)

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
            for phase in PLAYBOOK.phases
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
    xml = junit(case("a", passed), case("b", {**passed, "mae": "3e-4"}), case("c", inner=skip("x")))
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
    assert "verdict **INFRA**, exit code 3" in text
    for empty in ("No test results.", "No measurements.", "No gate has judged anything."):
        assert empty in text
    assert "the run ended before it" in text
    assert "(did not run)" in text
    assert "--csv ./sel_dense.csv" in text
    assert "run.error: reason=unreachable, message=refused" in text


def test_a_run_that_was_asked_for_one_phase(tmp_path):
    paths = new_run(tmp_path)
    plan = runs.read_plan(paths).model_copy(update={"phases": [2]})
    runs.write(paths.plan, plan)
    judgement = bare(paths, Verdict.NOT_VERIFIED)
    text = rendered(Run(paths), judgement=judgement)
    assert "not asked for (--phase 2)" in text
    assert "\n\nNo decision was asked for.\n" in text
    assert "clones the repository" not in text


def test_damaged_evidence_is_said(tmp_path):
    run = complete(tmp_path)
    judgement = run.judgement()
    (run.paths.attempt(1, "parity-dense", 1).artifacts / "parity.xml").write_bytes(b"<!DOCTYPE x>")
    csv = run.paths.attempt(2, "bench-dense", 1).artifacts / "sel_dense.csv"
    csv.unlink()
    csv.symlink_to("/etc/hostname")
    (run.paths.attempt(2, "bench-varlen", 1).artifacts / "sel_varlen.csv").write_bytes(b"\xff")
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

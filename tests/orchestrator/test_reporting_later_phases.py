"""What the report says of diagnostics, fixes and landing."""

from __future__ import annotations

import re

import pytest
from evidence_samples import (
    PARITY,
    case,
    csv_of,
    failure,
    junit,
    row,
    skip,
)
from report_later_phases import DIFF, LANDED, call, repaired
from report_runs import (
    DASH,
    HOSTILE,
    LENGTHS,
    PLAYBOOK,
    Run,
    assert_harmless,
    new_run,
    rendered,
    repulled,
    section,
)

from orchestrator.gates.judge import judge_gate
from orchestrator.models.verdict import (
    GateResult,
    Reason,
    Verdict,
)
from orchestrator.reporting import markdown


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

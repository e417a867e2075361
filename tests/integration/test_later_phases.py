"""Phases 3 to 5 and single reruns, from the outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.lab import Lab


def test_enable_lands_one_line_on_a_branch_of_its_own(lab: Lab) -> None:
    (lab.repo / "notes.txt").write_text("not committed, none of landing's business")
    done = lab.run()
    assert done.code == 0, done.stderr
    branch = f"orchestrate/{done.last['run_id']}"
    diff = lab.git("diff", "main", branch, "--", "configs/base.yaml")
    changed = [
        line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert changed == [
        "-  sel_triton_min_L: 4096  # keys; high keeps Triton off",
        "+  sel_triton_min_L: 64  # keys; high keeps Triton off",
    ]
    names = lab.git("diff", "--name-only", "main", branch).split()
    assert [Path(name).name for name in names] == [
        "base.yaml", "sel_dense.csv", "sel_varlen.csv", "selection_report.md",
    ]  # fmt: skip
    assert lab.git("branch", "--show-current").strip() == "main"
    assert lab.git("status", "--porcelain").split() == ["??", "notes.txt"]
    assert branch in (done.run / "report/selection_report.md").read_text()
    assert lab.git("ls-remote", "origin").count("refs/heads/") == 1  # nothing was pushed
    assert lab.leftovers() == []


def test_keep_off_writes_the_rationale_and_never_lowers_the_threshold(lab: Lab) -> None:
    done = lab.run(bench="loses")
    assert done.code == 0, done.stderr
    assert done.last["verdict"] == "PASS"
    assert done.last["decision"]["outcome"] == "KEEP_OFF"
    assert done.last["decision"]["min_L"] == 2048
    branch = f"orchestrate/{done.last['run_id']}"
    assert "sel_triton_min_L: 4096" in lab.git("show", f"{branch}:configs/base.yaml")
    assert "KEEP_OFF" in lab.git("show", f"{branch}:docs/why-off.md")
    diagnostics, fixes = done.last["phases"][3:5]
    assert diagnostics["verdict"] == "PASS"
    assert fixes["verdict"] == "PASS"


def test_a_good_variant_repairs_broken_numerics(lab: Lab) -> None:
    done = lab.run(parity="repairable", bench="wins")
    assert done.code == 0, done.stderr
    decision = done.last["decision"]
    assert (decision["outcome"], decision["variant"]) == ("ENABLE", "fixed")
    assert decision["environment"] == {"FIX": "1"}
    verdicts = {phase["id"]: phase["verdict"] for phase in done.last["phases"]}
    assert verdicts == {0: "PASS", 1: "FAIL", 2: None, 3: "PASS", 4: "PASS", 5: "PASS"}
    assert not (done.run / "phase-4/useless.dense").exists()  # no speed on a red gate
    report = (done.run / "report/selection_report.md").read_text()
    assert "FIX=1" in report
    assert "two-pass FP32 LSE" in report  # the document's remedy for a large MAE


def test_a_good_variant_turns_keep_off_into_enable(lab: Lab) -> None:
    done = lab.run(bench="repairable")
    assert done.code == 0, done.stderr
    assert done.last["decision"]["variant"] == "fixed"
    assert done.last["decision"]["min_L"] == 64


def test_undecided_lands_nothing(lab: Lab) -> None:
    done = lab.run(device="cpu-interpreter")
    assert (done.code, done.last["verdict"]) == (4, "NOT_VERIFIED")
    assert done.last["decision"]["outcome"] == "UNDECIDED"
    assert done.reasons == {"no-cuda-device"}
    assert done.last["phases"][5]["verdict"] is None
    assert "nothing may be landed" in done.last["phases"][5]["skipped"]
    assert lab.git("branch", "--list").split() == ["*", "main"]
    assert lab.git("worktree", "list").count("\n") == 1


def test_a_crash_of_the_interpreter_is_diagnosed_and_lands_nothing(lab: Lab) -> None:
    done = lab.run(bench="aborts")
    assert (done.code, done.last["verdict"]) == (1, "FAIL")
    assert done.last["decision"]["outcome"] == "UNDECIDED"
    assert "job-failed" in done.reasons
    assert "SIGABRT" in done.stderr
    assert done.last["phases"][3]["verdict"] == "PASS"
    assert done.last["phases"][5]["verdict"] is None


def test_a_rerun_of_one_phase_inherits_the_others(lab: Lab) -> None:
    first = lab.run("--phase", "0-2")
    second = lab.run("--phase", "2")
    assert second.code == 0, second.stderr
    assert second.last["run_id"] != first.last["run_id"]
    assert second.last["decision"]["outcome"] == "ENABLE"
    assert [p.name for p in second.run.iterdir() if p.name.startswith("phase-")] == ["phase-2"]
    judgement = json.loads((second.run / "judgement.json").read_text())
    inherited = {p["id"]: p["inherited"] for p in judgement["phases"]}
    assert inherited[0] == inherited[1] == first.last["run_id"]
    assert f"from run {first.last['run_id']}" in second.stderr


def test_after_a_change_it_says_which_inheritance_is_void(lab: Lab) -> None:
    first = lab.run("--phase", "0-2")
    (lab.repo / "kernels" / "kernel.py").write_text("changed = True\n")
    done = lab.run("--phase", "2")
    assert done.code == 4
    assert done.last["decision"]["outcome"] == "UNDECIDED"
    messages = [reason["message"] for reason in done.last["reasons"]]
    for phase in ("phase 0", "phase 1"):
        (said,) = {m for m in messages if m.startswith(phase)}
        assert first.last["run_id"] in said
        assert "kernels/kernel.py" in said
    assert "kernels/kernel.py" in done.stderr


def test_from_overrides_the_choice(lab: Lab) -> None:
    first = lab.run("--phase", "0-1", parity="good")
    lab.run("--phase", "0-1")
    done = lab.run("--phase", "2", "--from", first.last["run_id"])
    judgement = json.loads((done.run / "judgement.json").read_text())
    assert judgement["phases"][1]["inherited"] == first.last["run_id"]
    refused = lab.run("--from", first.last["run_id"])
    assert refused.code == 2
    assert "nothing to inherit" in refused.stderr


def test_a_fix_is_tried_by_phase_4_alone(lab: Lab) -> None:
    first = lab.run("--phase", "0-3", parity="repairable", bench="repairable")
    assert first.code == 1
    (lab.repo / "kernels" / "fixed").write_text("now it works\n")
    done = lab.run("--phase", "4", parity="repairable", bench="repairable")
    assert done.code == 0, done.stderr
    assert done.last["decision"]["variant"] == "changed-code"
    (lab.repo / "parity.py").write_text("print('easier tests')\n")
    refused = lab.run("--phase", "4", parity="repairable", bench="repairable")
    assert refused.code == 2
    assert "parity.py" in refused.stderr
    assert "kernels/*" in refused.stderr


def test_phase_5_alone_lands_what_an_earlier_run_decided(lab: Lab) -> None:
    first = lab.run("--phase", "0-2")
    done = lab.run("--phase", "5")
    assert done.code == 0, done.stderr
    decided = first.last["run_id"]
    branch = f"orchestrate/{decided}"  # of the run that decided, so that landing twice is once
    assert "sel_triton_min_L: 64" in lab.git("show", f"{branch}:configs/base.yaml")
    folder = f"reports/runs/{decided}"
    commit = lab.git("rev-parse", branch)
    again = lab.run("--phase", "5")
    assert again.code == 0, again.stderr
    assert lab.git("rev-parse", branch) == commit
    dense = lab.git("show", f"{branch}:{folder}/sel_dense.csv")
    assert dense == (first.run / "sel_dense.csv").read_text()


def test_uncommitted_changes_of_the_config_are_not_trampled(lab: Lab) -> None:
    config = lab.repo / "configs/base.yaml"
    config.write_text(config.read_text().replace("threads: 4", "threads: 8"))
    done = lab.run()
    assert done.code == 2
    assert "uncommitted changes in configs/base.yaml" in done.stderr
    assert "commit them" in done.stderr  # the remedy
    assert done.last["decision"]["outcome"] == "ENABLE"  # the measurement is not lost
    assert lab.git("branch", "--list").split() == ["*", "main"]
    config.write_text(config.read_text().replace("threads: 8", "threads: 4"))


def test_a_pull_request_is_opened_through_gh(lab: Lab, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    gh = tools / "gh"
    # a stand-in for a third party's client: says who it is, lists no request, opens one
    gh.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tools}/calls\n'
        'case "$1 $2" in\n'
        '  "pr list") echo "[]" ;;\n'
        '  "pr create") echo https://forge.example.invalid/pull/7 ;;\n'
        "esac\n"
    )
    gh.chmod(0o755)
    lab.env["PATH"] = f"{tools}:{lab.env['PATH']}"
    done = lab.run("--pr")
    assert done.code == 0, done.stderr
    branch = f"orchestrate/{done.last['run_id']}"
    assert f"refs/heads/{branch}" in lab.git("ls-remote", "origin")
    assert lab.git("ls-remote", "origin", "refs/heads/main").split()[0] == (
        lab.git("rev-parse", "main").strip()
    )
    report = (done.run / "report/selection_report.md").read_text()
    assert "https://forge.example.invalid/pull/7" in report  # rendered again with the link
    assert f"--head {branch}" in (tools / "calls").read_text()


def test_without_gh_nothing_is_pushed(lab: Lab, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("git", "ssh", "rsync", "sh", "python3"):
        found = next(
            (
                Path(folder) / name
                for folder in os.environ["PATH"].split(":")
                if (Path(folder) / name).exists()
            ),
            None,
        )
        if found is not None:
            (bare / name).symlink_to(found)
    driver = lab.env["PATH"].partition(":")[0]
    lab.env["PATH"] = f"{bare}:{driver}:/usr/bin:/bin"
    done = lab.run("--pr")
    if (Path("/usr/bin/gh")).exists():
        pytest.fail("this test needs a machine without gh in /usr/bin")
    assert done.code == 2
    assert "gh" in done.stderr
    assert lab.git("ls-remote", "origin").count("refs/heads/") == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing-column", "mae"),
        ("twice", "appended"),
        ("nan", "nan"),
        ("truncated", "end mark"),
    ],
)
def test_a_csv_that_lies_decides_nothing(lab: Lab, damage: str, message: str) -> None:
    done = lab.run("--phase", "0-2", bench=damage)
    assert done.code in (4, 5)
    assert done.last["decision"]["outcome"] == "UNDECIDED"
    assert message in json.dumps(done.last["reasons"]).lower()
    assert "Traceback" not in done.stderr


def test_a_command_that_does_not_exist_is_named(lab: Lab) -> None:
    playbook = lab.repo / "playbook.yaml"
    playbook.write_text(playbook.read_text().replace("parity.py", "no-such-program.py"))
    done = lab.run("--phase", "0,1")
    assert done.code == 1
    assert "no-such-program.py" in done.stderr

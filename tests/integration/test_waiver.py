"""A waiver through a whole run: whoever reads any of its outputs reads what was waived, and why."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from orchestrator.cli.app import cli
from tests.integration.lab import Lab

GATES = ("bench sel_dense.csv", "bench sel_varlen.csv")
WHY = "the fallback is being replaced"
WAIVED = f"bench sel_dense.csv ({WHY})"


def test_run_report_judge_commit_and_pull_request_all_print_it(lab: Lab, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    gh = tools / "gh"
    # a stand-in for a third party's client: lists no request, opens one, keeps its text
    gh.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        '  "pr list") echo "[]" ;;\n'
        f'  "pr create") cat > {tools}/body; echo https://forge.example.invalid/pull/7 ;;\n'
        "esac\n"
    )
    gh.chmod(0o755)
    lab.env["PATH"] = f"{tools}:{lab.env['PATH']}"
    waive = [word for gate in GATES for word in ("--waive", gate, "--reason", WHY)]
    run = lab.call(
        "run", str(lab.repo / "playbook.yaml"), "--set", "bench=weak-fallback", "--pr", *waive
    )
    assert run.code == 0, run.stderr
    (folder,) = (path for path in lab.runs_dir.iterdir() if (path / "run.json").exists())
    judged = CliRunner().invoke(cli, ["judge", str(folder)], standalone_mode=False)
    assert judged.return_value == 0
    report = (folder / "report/selection_report.md").read_text()
    said = {
        "run": run.stdout + run.stderr,
        "judge": judged.output,
        "report": report,
        "request": (tools / "body").read_text(),
        "commit": lab.git("log", "--all", "--format=%B"),
    }
    for where, text in said.items():
        assert WAIVED in " ".join(text.split()), where
    head = "- `bench sel_varlen.csv`, which was **FAIL**: the fallback is being replaced"
    assert head in report.partition("\n## ")[0]
    assert head in said["request"]

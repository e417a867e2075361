"""`orchestrate judge` as a command: run directories, what is no evidence at all, and `--json`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from judging import FOREIGN, documented, judge, judged
from machine_samples import MACHINE
from report_runs import complete

from orchestrator.cli.app import cli
from orchestrator.errors import UsageError


def _run(folder: Path) -> Path:
    run = complete(folder)
    run.step(0, "sync", action="sync", details={"files": 3})
    return run.paths.root


def _content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_directory_is_judged_again_and_left_as_it_is(tmp_path: Path) -> None:
    run = _run(tmp_path)
    before = _content(run)
    found = judged(run)
    assert found["exit_code"] == 4
    assert found["runs"][0]["decision"]["outcome"] == "UNDECIDED"
    assert _content(run) == before
    shown = judge(run).output
    assert "phase 1 (parity)" in shown
    assert "UNDECIDED" in shown


def test_a_run_whose_csv_was_edited_is_invalid(tmp_path: Path) -> None:
    run = _run(tmp_path)
    file = next(run.rglob("artifacts/sel_dense.csv"))
    file.write_bytes(file.read_bytes().replace(b"2.", b"3.", 1))
    found = judged(run)
    assert found["exit_code"] == 5
    assert "changed after it was pulled" in json.dumps(found)


def test_runs_and_files_go_together_and_the_worst_decides(tmp_path: Path) -> None:
    run = _run(tmp_path)
    found = judged(run, FOREIGN / "appended.csv")
    assert found["exit_code"] == 5
    assert found["runs"]
    assert found["files"] == ["appended.csv"]


def test_json_has_the_documented_keys_whatever_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path)
    for named in ([run], [FOREIGN / "appended.csv"], [run, FOREIGN / "appended.csv"]):
        found = judged(*named)
        assert set(found) == documented("judge.md")
        assert found["schema"] == 1
        assert bool(found["runs"]) == (run in named)
        assert (found["decision"] is None) == (named == [run])


@pytest.mark.parametrize("margin", ["nan", "inf", "-inf", "0", "0.01", "0.99"])
def test_a_margin_below_one_or_beyond_all_is_a_usage_error(margin: str) -> None:
    words = ["judge", str(FOREIGN / "twice.csv"), "--margin", margin]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "--margin" in result.output


def test_nothing_to_judge_is_a_usage_error(tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.csv"
    telemetry.write_bytes((MACHINE / "quiet.csv").read_bytes())
    for path, says in (
        (tmp_path, "no run.json"),
        (telemetry, "neither a bench CSV nor test results"),
        (tmp_path / "none.csv", "does not exist"),
    ):
        with pytest.raises((UsageError, click.UsageError), match=says):
            judge(path)


@pytest.mark.parametrize("name", ["4090", "rtx4090", "RTX-4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_is_known_by_what_people_call_it(name: str) -> None:
    found = judged(FOREIGN / "impossible_bandwidth.csv", "--device", name)
    assert found["exit_code"] == 5
    assert "1.008 TB/s (DRAM) on the RTX 4090" in json.dumps(found["gates"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("H100", "may be H100 NVL or H100 PCIe or H100 SXM"),
        ("RTX 4090 D", "no peaks are known of such a card"),
        ("", "no peaks are known of such a card"),
    ],
)
def test_a_card_that_cannot_be_told_is_a_usage_error(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        judge(FOREIGN / "impossible_bandwidth.csv", "--device", name)
    assert "H100 SXM" in str(caught.value) or "name one of them" in (caught.value.remedy or "")

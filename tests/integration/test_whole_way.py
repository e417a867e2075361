"""The M4-02 playbook itself, phases 0 to 5, on both kinds of pod: what `make run` does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels.bench.bench_csv import read_table
from tests.integration.sshd import Sshd

CHECKOUT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("ORCHESTRATE_CACHE", CHECKOUT / ".cache")).absolute()
VENV = CACHE / "embedded" / "venv" / "m4-02-selection-cpu"

Run = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]


pytestmark = pytest.mark.skipif(
    "TEST_FULL" not in os.environ,
    reason="make test has gone this way to set up its environment; make test-full looks closer",
)


@pytest.fixture(params=["embedded", "openssh"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """`orchestrate run` on that pod; both use the environment that `make` has set up."""
    assert (VENV / "bin/python").exists(), "make integration sets up the environment first"
    options: list[str] = []
    if request.param == "openssh":
        server: Sshd = request.getfixturevalue("sshd")
        pods = tmp_path / "pods.toml"
        pods.write_text(
            "[pods.box]\n"
            'host = "127.0.0.1"\n'
            f"port = {server.port}\n"
            f'identity_file = "{server.folder / "id"}"\n'
            f'known_hosts_file = "{server.known_hosts}"\n'
            f'workdir = "{tmp_path / "workdir"}"\n'
            f'venv = "{VENV}"\n'
            f'python = "{sys.executable}"\n'
        )
        options = ["--pods", str(pods), "--pod", "box", "--profile", "cpu"]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {**os.environ, "ORCHESTRATE_CACHE": str(CACHE), "TMPDIR": str(scratch)}

    def execute(*arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        runs = str(tmp_path / "runs")
        argv = [sys.executable, "-m", "orchestrator", "run", "--json", "--runs-dir", runs]
        done = subprocess.run(
            [*argv, *options, *arguments],
            cwd=CHECKOUT,
            env=env,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert list(scratch.iterdir()) == [], "keys or temporary folders were left behind"
        return done, json.loads(done.stdout.splitlines()[-1])

    return execute


def test_without_a_gpu_everything_is_shown_but_timing(run: Run) -> None:
    done, last = run("--phase", "0-5")
    assert done.returncode == 4, done.stderr[-3000:]
    assert {reason["reason"] for reason in last["reasons"]} == {"no-cuda-device"}
    assert last["decision"]["outcome"] == "UNDECIDED"
    verdicts = {phase["id"]: phase["verdict"] for phase in last["phases"]}
    assert verdicts == {0: "PASS", 1: "PASS", 2: "NOT_VERIFIED", 3: None, 4: None, 5: None}
    report = Path(last["report"])
    folder = report.parents[1]
    for name, mode in (("sel_dense.csv", "dense"), ("sel_varlen.csv", "varlen")):
        table = read_table((folder / name).read_text(), name)
        assert table.complete
        assert [int(row["L"]) for row in table.rows] == [64, 128, 256]
        assert {row["mode"] for row in table.rows} == {mode}
        assert {row["device"] for row in table.rows} == {"cpu-interpreter"}
        assert all(float(row["mae"]) <= 1e-3 for row in csv.DictReader(_body(folder / name)))
    text = report.read_text()
    assert "The pod has no CUDA device, so no timing counts" in text
    assert "max MAE" in text
    assert "0 failed, 0 skipped" in text

    _, again = run("--phase", "0")
    result = json.loads(
        (Path(again["report"]).parents[1] / "phase-0/provision/1/result.json").read_text()
    )
    assert {resource["action"] for resource in result["resources"]} == {"unchanged"}


def _body(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("#")]

"""The agent's telemetry, with a program called nvidia-smi that says what a test wants."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.jobs.agent import telemetry as sampler
from tests.integration.agents import Agent, eventually, every_python

UUID, OTHER = "GPU-11111111", "GPU-22222222"
GPU = "NVIDIA L4, {uuid}, 1980, 2040, 6251, 71.93, 54, 0x0000000000000004, 97, 1234, 23034"
LOOP = """\
while :; do
  stamp=$(date "+%Y/%m/%d %H:%M:%S.%3N")
  echo "$stamp, 0, """ + GPU.format(uuid=UUID) + """"
  echo "$stamp, 1, """ + GPU.format(uuid=OTHER).replace("71.93", "[N/A]") + """"
  sleep 0.05
done
"""  # fmt: skip


class Smi:
    """Writes the stand-in and puts it on the PATH of the agent."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program = folder / "bin" / "nvidia-smi"
        self.program.parent.mkdir()
        self.calls = folder / "calls"
        monkeypatch.setenv("PATH", f"{self.program.parent}:{os.environ['PATH']}")

    def says(self, gpus: str = LOOP, apps: str = "sleep 60\n") -> None:
        self.program.write_text(
            f'#!/bin/bash\necho "$*" >>{self.calls}\ncase "$*" in\n'
            f"*query-compute-apps*)\n{apps};;\n*)\n{gpus};;\nesac\n"
        )
        self.program.chmod(0o755)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    return Smi(tmp_path, monkeypatch)


def samples(agent: Agent) -> list[dict[str, str]]:
    with (agent.dir / "telemetry.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@every_python
def test_samples_of_every_gpu_are_left_beside_the_log(agent, smi):
    smi.says(apps=f'echo "{UUID}, $PPID"; echo "{OTHER}, 1"; sleep 60\n')
    began = 1000 * time.time()
    agent.run("sleep 0.6")
    rows = samples(agent)
    assert list(rows[0]) == list(sampler.COLUMNS)
    assert {row["index"] for row in rows} == {"0", "1"}
    first, second = (next(row for row in rows if row["index"] == i) for i in "01")
    assert began - 1000 <= int(first["timestamp_ms"]) <= 1000 * time.time()
    del first["timestamp_ms"]
    assert list(first.values())[1:11] == [
        *("NVIDIA L4", "1980", "2040", "6251", "71.93", "54", "0x0000000000000004"),
        *("97", "1234", "23034"),
    ]
    assert second["power_w"] == ""
    manifest = agent("manifest")
    assert manifest["files"] == []
    assert manifest["telemetry"]["size"] == (agent.dir / "telemetry.csv").stat().st_size


def test_company_on_the_gpu_is_told_from_the_job_s_own_processes(agent, smi, tmp_path):
    """The job's, a daemon of the job's, init, and one that this pid namespace does not have."""
    pids = tmp_path / "pids"
    smi.says(
        apps=f'while :; do for pid in 1 4194399 $(cat {pids}); do echo "{UUID}, $pid"; done; '
        "sleep 0.05; done\n"
    )
    daemon = "setsid sleep 60 >/dev/null 2>&1"
    agent.run(f"echo $$ >{pids}; {daemon} & echo $! >>{pids}; sleep 2.5")
    os.kill(int(pids.read_text().split()[1]), signal.SIGKILL)  # it has outlived the last sample
    last = {row["index"]: row for row in samples(agent)}
    assert (last["0"]["foreign_processes"], last["0"]["foreign_pids"]) == ("1", "1 ?")
    assert (last["1"]["foreign_processes"], last["1"]["foreign_pids"]) == ("0", "")


@pytest.mark.parametrize("apps", ["exit 1\n", f'echo "{UUID}, 4194399"; sleep 60\n'])
def test_company_that_cannot_be_told_is_not_called_none(agent, smi, apps):
    smi.says(apps=apps)
    agent.run("sleep 0.6")
    last = next(row for row in reversed(samples(agent)) if row["index"] == "0")
    assert (last["foreign_processes"], last["foreign_pids"]) == ("", "?")


def test_only_the_gpus_that_the_job_sees_are_asked_about(agent, smi):
    smi.says()
    agent.run("sleep 0.3", env={"CUDA_VISIBLE_DEVICES": "1"})
    assert all("--id=1 " in call for call in smi.calls.read_text().splitlines())


def test_a_field_by_its_later_name(agent, smi):
    smi.says(f'[[ "$*" = *event_reasons* ]] || exit 2\n{LOOP}')
    agent.run("sleep 0.6")
    assert samples(agent)[0]["throttle_reasons"] == "0x0000000000000004"


@every_python
@pytest.mark.parametrize(
    "gpus",
    [
        "trap '' TERM; exec sleep 60\n",
        "exit 9\n",
        "echo NVIDIA-SMI has failed because it could not communicate with the driver.\n",
        "exec tr '\\0' x </dev/zero\n",
        "echo 2026/11/23; echo ,,,,,,,,,,,,; echo 1,2; exec sleep 60\n",
    ],
    ids=["stuck", "fails", "message", "endless-line", "nonsense"],
)
def test_no_nvidia_smi_holds_a_job_up_or_leaves_a_file(agent, smi, gpus):
    smi.says(gpus, apps=gpus)
    result = agent.run("echo done")
    assert (result["state"], agent.log()) == ("SUCCEEDED", "done\n")
    assert result["duration_s"] < 20
    assert not (agent.dir / "telemetry.csv").exists()
    assert agent("manifest")["telemetry"] is None
    # whatever was started is gone: the fixture looks


def test_without_nvidia_smi_there_is_no_telemetry(agent, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert agent.run("true")["state"] == "SUCCEEDED"
    assert not (agent.dir / "telemetry.csv").exists()


def test_the_secret_and_the_device_are_not_nvidia_smi_s(agent, smi, tmp_path):
    smi.says(f"env >{tmp_path}/env; ls -l /proc/$$/fd >{tmp_path}/fds; sleep 60\n")
    agent.run("sleep 0.4", secrets={"TOKEN": "tiger-7Yq"}, lock=str(tmp_path / "device"))
    assert "tiger" not in (tmp_path / "env").read_text()
    assert "device.0" not in (tmp_path / "fds").read_text()


def test_a_long_job_s_telemetry_thins_out_and_is_bounded(tmp_path, monkeypatch):
    """As fast as a pipe gives them: nobody waits for a day of samples."""

    class NoPoll:
        def register(self, fd: int, events: int) -> None: ...

        def unregister(self, fd: int) -> None: ...

    program = tmp_path / "nvidia-smi"
    line = "2026/11/23 11:26:01.123, 0, " + GPU.format(uuid=UUID)
    program.write_text(
        f"#!/bin/sh\ncase $* in *apps*) exit;; esac\nyes '{line}' | head -n 4000; exec sleep 60\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sampler, "STEP_BYTES", 2000)
    monkeypatch.setattr(sampler, "LIMIT_BYTES", 12_000)
    file = tmp_path / "telemetry.csv"
    watched = sampler.Telemetry(file, "", lambda _pid: False, NoPoll())
    watched.start()
    started = list(watched._running.values())
    fd = next(reversed(watched._running))

    def all_read() -> bool:
        try:
            watched.read(fd)
        except BlockingIOError:
            return watched._samples.get("0") == 4000
        return False

    assert eventually(all_read)
    watched.stop()
    assert {process.wait(20) for process in started} <= {0, -signal.SIGKILL}
    size = file.stat().st_size
    assert 8_000 < size < 12_300  # thinned: 4000 lines are 400 kB
    assert file.read_text().count("\n") > 20


def test_a_disk_that_fills_up_ends_the_sampling_and_not_the_job(agent, smi, monkeypatch):
    """Files that may not grow beyond 64 KiB; the log and the result are smaller."""
    smi.says(LOOP.replace("sleep 0.05", ""))
    spec = agent.spec("sleep 1; echo done")
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "limited", *agent.command("submit")]
    done = subprocess.run(limited, input=spec, text=True, capture_output=True, check=True)
    assert json.loads(done.stdout)["created"]
    result = agent.wait()["result"]
    assert (result["state"], agent.log()) == ("SUCCEEDED", "done\n")
    assert (agent.dir / "telemetry.csv").stat().st_size <= 64 << 10


@pytest.mark.parametrize("put", ["mkfifo", "ln -s ../../victim"], ids=["fifo", "link"])
def test_what_the_job_puts_in_its_place_holds_nobody_up(agent, smi, tmp_path, put):
    (tmp_path / "victim").write_text("precious")
    smi.says(gpus=f"sleep 0.5\n{LOOP}")
    result = agent.run(f'cd "$ORCH_JOB_DIR"; {put} telemetry.csv; sleep 1.5')
    assert result["state"] == "SUCCEEDED"
    assert (tmp_path / "victim").read_text() == "precious"
    assert [entry["path"] for entry in agent("manifest")["refused"]] == ["telemetry.csv"]

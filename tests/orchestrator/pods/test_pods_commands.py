"""`orchestrate pods`, and what it thinks of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pods_files import TWO, invoke, read

from orchestrator.engine import pods as engine
from orchestrator.engine.pods import Fitness
from orchestrator.errors import UsageError
from orchestrator.evidence.facts import GpuFacts, SystemFacts
from orchestrator.models.pod import Pod


@pytest.mark.parametrize(
    ("declared", "seen", "error", "fitness"),
    [
        (None, (), None, Fitness.OK),
        (None, (), "driver mismatch", Fitness.WARNING),
        ("rtx4090", ("NVIDIA GeForce RTX 4090",), None, Fitness.OK),
        ("A100", ("NVIDIA GeForce RTX 4090",), None, Fitness.BAD),
        ("A100", (), None, Fitness.BAD),
        ("A100", (), "driver mismatch", Fitness.BAD),
    ],
)
def test_the_gpu_is_the_declared_one(declared, seen, error, fitness) -> None:
    gpus = tuple(
        GpuFacts(index=0, name=name, uuid="u", driver_version="1", memory_mib=1, pci_bus_id="0")
        for name in seen
    )
    finding = engine._gpu(
        Pod(name="a", host="h", gpu=declared), SystemFacts(gpus=gpus, gpu_error=error)
    )
    assert finding.fitness is fitness
    assert (error or "") in finding.message


@pytest.mark.parametrize(
    ("version", "fitness"),
    [
        ("3.7.17", Fitness.BAD),
        ("3.8.0", Fitness.OK),
        ("3.13.0rc1", Fitness.OK),
        (None, Fitness.BAD),
        ("2.7", Fitness.BAD),
    ],
)
def test_the_python_is_new_enough(version, fitness) -> None:
    assert engine._python(Pod(name="a", host="h"), version).fitness is fitness


# -- the commands -------------------------------------------------------------------------------


def test_list() -> None:
    assert "orchestrate pods add NAME user@host:port" in invoke("pods", "list")
    assert json.loads(invoke("pods", "list", "--json")) == {"file": None, "pods": []}
    Path("pods.toml").write_text(TWO)
    lines = invoke("pods", "list").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["pod", "address"],
        ["gpu-a", "203.0.113.7"],
        ["gpu-b", "root@203.0.113.8:22"],
    ]
    listed = json.loads(invoke("pods", "list", "--json"))
    assert [pod["name"] for pod in listed["pods"]] == ["gpu-a", "gpu-b"]


def test_add_takes_a_pasted_line_with_and_without_quotes() -> None:
    invoke("pods", "add", "a", "ssh root@203.0.113.7 -p 22 -i /k")
    output = invoke(
        *("pods", "add", "b", "ssh", "-p22", "root@203.0.113.7", "-i", "/k", "--gpu", "RTX 4090"),
        *("-A", "-oStrictHostKeyChecking=no"),
    )
    assert "note: the agent is never forwarded" in output
    pods = read(Path("pods.toml").read_text()).pods
    assert pods["b"] == pods["a"].model_copy(update={"name": "b", "gpu": "RTX 4090"})


def test_check_without_pods_says_how_to_add_one() -> None:
    with pytest.raises(UsageError, match=r"there is no pods\.toml"):
        invoke("pods", "check")
    with pytest.raises(UsageError, match="there is no pod 'gpu-a'"):
        invoke("pods", "check", "gpu-a")

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.facts import (
    FACTS_SCRIPT,
    DeviceFacts,
    Facts,
    SystemFacts,
    parse_device,
    parse_system,
)

SYSTEM = """Welcome to your pod!
facts=1
uname=Linux 5.15.0-91-generic x86_64
os=Ubuntu 22.04.3 LTS
cpus=16
memory_kib=131072000
disk_path=/root
disk_kib=104857600 52428800
python=3.10.12
{gpus}facts=end
logout
"""
ONE_4090 = "gpu=0, NVIDIA GeForce RTX 4090, GPU-1b2c, 550.54.15, 24564, 00000000:01:00.0\n"
ONE_H100 = "gpu=0, NVIDIA H100 80GB HBM3, GPU-9f, 535.129.03, 81559, 00000000:8D:00.0\n"


@pytest.mark.parametrize(
    ("gpus", "name", "memory"),
    [
        (ONE_4090, "NVIDIA GeForce RTX 4090", 24564),
        (ONE_H100, "NVIDIA H100 80GB HBM3", 81559),
        (ONE_H100.replace("81559", "[N/A]"), "NVIDIA H100 80GB HBM3", None),
    ],
    ids=["4090", "h100", "memory not told"],
)
def test_system_with_a_gpu(gpus, name, memory):
    facts = parse_system(SYSTEM.format(gpus=gpus))
    assert facts.os == "Ubuntu 22.04.3 LTS"
    assert (facts.cpus, facts.memory_bytes) == (16, 131072000 * 1024)
    assert (facts.disk_total_bytes, facts.disk_free_bytes) == (100 * 2**30, 50 * 2**30)
    (gpu,) = facts.gpus
    assert (gpu.index, gpu.name, gpu.memory_mib) == (0, name, memory)


def test_system_without_a_gpu():
    assert parse_system(SYSTEM.format(gpus="")).gpus == ()


def test_a_driver_that_fails_is_a_fact():
    says = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    facts = parse_system(SYSTEM.format(gpus=f"gpu_error={says}\n"))
    assert (facts.gpus, facts.gpu_error) == ((), says)


def test_what_a_machine_lacks_stays_empty():
    assert parse_system("facts=1\nuname=\ncpus=\nfacts=end") == SystemFacts()


@pytest.mark.parametrize(
    ("stdout", "says"),
    [
        ("", "did not run"),
        ("facts=1\nuname=x\n", "cut short"),
        ("facts=1\ncpus=lots\nfacts=end", "line 2, column cpus: 'lots'"),
        ("facts=1\ncpus=1\ncpus=2\nfacts=end", "line 3, column cpus: told twice"),
        ("facts=1\nhello\nfacts=end", "line 2: unexpected 'hello'"),
        ("facts=1\nuser=root\nfacts=end", "line 2: unexpected 'user=root'"),
        ("facts=1\ndisk_kib=1\nfacts=end", "line 2, column disk_kib"),
        ("facts=1\ngpu=0, A100\nfacts=end", "line 2: '0, A100' is not a row"),
        ("facts=1\ngpu=x, a, b, c, 1, d\nfacts=end", "line 2"),
    ],
)
def test_bad_system_facts_name_the_line(stdout, says):
    with pytest.raises(ValueError, match=says):
        parse_system(stdout)


def test_the_script_runs_here(tmp_path):
    for arguments in ([], [str(tmp_path / "not" / "there yet"), "no-such-python"]):
        done = subprocess.run(
            ["sh", "-s", "--", *arguments], input=FACTS_SCRIPT, capture_output=True, text=True
        )
        assert done.returncode == 0
        assert done.stderr == ""
        facts = parse_system(done.stdout)
        assert facts.uname
        assert facts.disk_free_bytes
    assert facts.disk_path == str(tmp_path)
    assert facts.python is None


@pytest.mark.parametrize(("smi_exit", "gpus"), [(0, 2), (9, 0)])
def test_the_script_asks_nvidia_smi(tmp_path, smi_exit, gpus):
    smi = tmp_path / "nvidia-smi"
    rows = (ONE_4090 + ONE_4090).replace("gpu=", "")
    smi.write_text(f"#!/bin/sh\ncat <<'E'\n{rows}E\nexit {smi_exit}\n")
    smi.chmod(0o755)
    done = subprocess.run(
        ["sh", "-s"],
        input=f"PATH={tmp_path}:$PATH\n{FACTS_SCRIPT}",
        capture_output=True,
        text=True,
        check=True,
    )
    facts = parse_system(done.stdout)
    assert len(facts.gpus) == gpus
    assert bool(facts.gpu_error) == bool(smi_exit)


def device(**changes: object) -> dict[str, object]:
    return {
        "python": "3.10.12",
        "torch": "2.3.1+cu121",
        "cuda_runtime": "12.1",
        "cuda_available": True,
        "devices": [
            {"name": "NVIDIA GeForce RTX 4090", "capability": [8, 9], "memory_bytes": 25e9}
        ],
        "triton": "2.3.1",
        "flash_attn": None,
        **changes,
    }


def test_device_with_a_gpu():
    facts = parse_device("torch is slow to import\n" + json.dumps(device()) + "\n\n")
    assert facts.devices[0].capability == (8, 9)
    assert facts.flash_attn is None


def test_device_without_a_gpu():
    text = json.dumps(device(cuda_runtime=None, cuda_available=False, devices=[]))
    assert parse_device(text).devices == ()


@pytest.mark.parametrize(
    ("stdout", "says"),
    [
        ("", "printed nothing"),
        ("{}", "line 1, column python"),
        ("\nTraceback", "line 2: Invalid JSON"),
        (json.dumps(device(devices=[{"name": "x"}])), "column devices.0.capability"),
        (json.dumps(device(more=1)), "column more"),
    ],
)
def test_bad_device_facts_name_line_and_field(stdout, says):
    with pytest.raises(ValueError, match=says):
        parse_device(stdout)


def test_facts_survive_the_run_directory():
    facts = Facts(system=parse_system(SYSTEM.format(gpus=ONE_4090)), device=DeviceFacts(**device()))
    assert Facts.model_validate_json(facts.model_dump_json()) == facts


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    for parse in (parse_device, parse_system, lambda t: parse_system(f"facts=1\n{t}\nfacts=end")):
        with contextlib.suppress(EvidenceError):
            parse(text)


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM\n"], ids=["ends", "ignores TERM"])
def test_an_nvidia_smi_that_hangs_is_a_fact(tmp_path, stubborn):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{stubborn}echo asking\nwhile :; do sleep 1; done\n")
    smi.chmod(0o755)
    assert "limit=10;" in FACTS_SCRIPT
    script = FACTS_SCRIPT.replace("limit=10;", "limit=1;").replace("-k 2", "-k 1")
    done = subprocess.run(
        ["sh", "-s"],
        input=f"PATH={tmp_path}:$PATH\n{script}",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    facts = parse_system(done.stdout)
    assert facts.gpus == ()
    assert facts.gpu_error == "no answer within 1 s. asking"


def test_a_machine_without_timeout_is_asked_all_the_same(tmp_path):
    for name, text in (("timeout", "exit 127"), ("nvidia-smi", f"echo '{ONE_4090[4:-1]}'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-s"],
        input=f"PATH={tmp_path}:$PATH\n{FACTS_SCRIPT}",
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(parse_system(done.stdout).gpus) == 1

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.models.command import Command, CommandResult
from orchestrator.models.playbook import AptResource, PipResource, RequirementsResource
from orchestrator.models.pod import Pod
from orchestrator.provision import apt, cuda, python_env
from orchestrator.provision.state import Finding


def execute(command: Command) -> CommandResult:
    done = subprocess.run(command.shell(), shell=True, capture_output=True, text=True)  # noqa: S602
    return CommandResult(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """A pod that is this machine, with an environment that has pip and nothing else."""
    folder = tmp_path_factory.mktemp("pod of a module")
    pod = Pod(name="here", host="127.0.0.1", workdir=str(folder), python=sys.executable)
    assert not python_env.parse(execute(python_env.check_venv(pod))).satisfied
    for command in python_env.apply_venv(pod, Finding(False, "")):
        assert execute(command).ok
    return pod


def pip(**fields: object) -> PipResource:
    return PipResource.model_validate({"id": "p", "resource": "pip", **fields})


def test_a_venv_that_was_made_is_left_alone(pod: Pod) -> None:
    found = python_env.parse(execute(python_env.check_venv(pod)))
    assert found.satisfied
    assert found.detail.startswith("Python 3.")


@pytest.mark.parametrize(
    ("requirement", "satisfied", "detail"),
    [
        ("pip", True, "pip "),
        ("pip>=1", True, "pip "),
        ("pip==0.1", False, "missing pip==0.1 ("),
        ("no-such-package==2.*", False, "missing no-such-package==2.*"),
    ],
)
def test_requirements_are_checked_against_what_is_installed(
    pod: Pod, requirement: str, satisfied: bool, detail: str
) -> None:
    resource = pip(packages=[requirement])
    found = python_env.parse(execute(python_env.check_pip(resource, pod)))
    assert found.satisfied is satisfied
    assert found.detail.startswith(detail)


def test_a_requirement_that_is_none_cannot_be_applied(pod: Pod) -> None:
    found = python_env.parse(execute(python_env.check_pip(pip(packages=["torch=2"]), pod)))
    assert found.problem is not None
    assert "'torch=2' is no pip requirement" in found.problem


def test_an_upgrade_is_done_once(pod: Pod) -> None:
    resource = pip(packages=["pip"], upgrade=True)
    assert not python_env.parse(execute(python_env.check_pip(resource, pod))).satisfied
    install, mark = python_env.apply_pip(resource, pod, Finding(False, ""))
    assert "--upgrade" in install.argv
    assert execute(mark).ok
    assert python_env.parse(execute(python_env.check_pip(resource, pod))).satisfied
    other = pip(packages=["pip", "pip>=1"], upgrade=True)
    assert not python_env.parse(execute(python_env.check_pip(other, pod))).satisfied


def test_an_index_out_of_reach_is_not_used(pod: Pod) -> None:
    resource = pip(
        packages=["no-such-package"], index_url="http://127.0.0.1:9/simple", index_fallback=True
    )
    found = python_env.parse(execute(python_env.check_pip(resource, pod)))
    assert found.facts["index_reachable"] is False
    (install,) = python_env.apply_pip(resource, pod, found)
    assert "--index-url" not in install.argv
    (install,) = python_env.apply_pip(resource, pod, Finding(False, ""))
    assert install.argv[-3:] == ("--index-url", "http://127.0.0.1:9/simple", "no-such-package")


def test_a_requirements_file_counts_as_installed_until_it_changes(pod: Pod) -> None:
    resource = RequirementsResource(id="r", resource="requirements", file="requirements.txt")
    missing = python_env.parse(execute(python_env.check_requirements(resource, pod)))
    assert missing.problem == "the repository has no requirements.txt"
    file = Path(pod.workdir) / "requirements.txt"
    file.write_text("pip\n")
    found = python_env.parse(execute(python_env.check_requirements(resource, pod)))
    assert not found.satisfied
    _, mark = python_env.apply_requirements(resource, pod, found)
    assert execute(mark).ok
    assert python_env.parse(execute(python_env.check_requirements(resource, pod))).satisfied
    file.write_text("pip\nwheel\n")
    assert not python_env.parse(execute(python_env.check_requirements(resource, pod))).satisfied


def test_apt_reads_what_dpkg_knows() -> None:
    resource = AptResource(id="a", resource="apt", packages=["git", "ninja-build"])
    result = CommandResult(0, "root\ngit installed 1:2.39.5\nninja-build config-files 1.11\n", "")
    found = apt.parse(resource, result)
    assert (found.satisfied, found.detail, found.problem) == (False, "missing ninja-build", None)
    result = CommandResult(0, "user\ngit installed 1:2.39.5\n", "")
    assert "no right to install" in (apt.parse(resource, result).problem or "")
    result = CommandResult(0, "user\ngit installed 1\nninja-build installed 2\n", "")
    assert apt.parse(resource, result).satisfied


def test_apt_installs_with_sudo_only_where_it_must() -> None:
    resource = AptResource(id="a", resource="apt", packages=["git"])
    update, install = apt.apply(resource, Finding(False, "", {"right": "sudo"}))
    assert update.argv[:2] == ("sudo", "-n")
    update, install = apt.apply(resource, Finding(False, "", {"right": "root"}))
    assert update.argv[0] == "env"
    assert install.argv[-1] == "git"


def test_apt_looks_at_this_machine() -> None:
    resource = AptResource(id="a", resource="apt", packages=["no-such-package-anywhere"])
    found = apt.parse(resource, execute(apt.check(resource)))
    assert not found.satisfied


def test_a_machine_without_dpkg_is_no_debian() -> None:
    resource = AptResource(id="a", resource="apt", packages=["git"])
    assert "no dpkg" in (apt.parse(resource, CommandResult(3, "", "")).problem or "")


def test_device_sanity_reads_the_last_line() -> None:
    facts = {
        "torch": "2.3.1+cu121",
        "cuda_available": True,
        "devices": [{"name": "NVIDIA GeForce RTX 4090", "capability": [8, 9], "memory_bytes": 1}],
    }
    found = cuda.parse(CommandResult(0, f"a warning\n{json.dumps(facts)}\n", ""))
    assert found.satisfied
    assert found.detail == "torch 2.3.1+cu121, NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    "result",
    [
        CommandResult(1, "", "Traceback\nImportError: libcudart.so.12"),
        CommandResult(0, "", ""),
        CommandResult(0, "no json", ""),
    ],
)
def test_device_sanity_without_facts_is_a_problem(result: CommandResult) -> None:
    assert cuda.parse(result).problem is not None


def test_device_sanity_asks_the_environment(pod: Pod) -> None:
    found = cuda.parse(execute(cuda.check(pod)))
    assert found.problem == (
        "torch does not load in the environment: ModuleNotFoundError: No module named 'torch'"
    )

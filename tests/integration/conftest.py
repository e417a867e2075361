"""Two pods for every test: the embedded one, and a real OpenSSH server on loopback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection
from orchestrator.transport.embedded import embedded_pod
from orchestrator.transport.hostkeys import HostKeys
from tests.integration.agents import Agent, none_of, processes_of
from tests.integration.lab import INTERPRETER, Lab
from tests.integration.runners import Runner
from tests.integration.sshd import Sshd, private_sshd


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is here takes real programs and real time: `-m "not slow"` leaves it out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")
    # the longest first, so that no worker is left with them at the end
    items.sort(key=lambda item: item.path.name != "test_whole_way.py")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    for name in ("sshd", "ssh-keygen", "rsync"):
        if shutil.which(name) is None and not Path("/usr/sbin", name).exists():
            pytest.exit(f"the integration tests need {name}: run tests/system-packages.sh", 3)
    with private_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("embedded")
    with embedded_pod(folder / "work", folder / "venv", str(INTERPRETER)) as pod:
        yield pod


@pytest.fixture(params=["embedded", "openssh"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Pod:
    """Both kinds of pod, with a workdir that does not exist yet and has a blank in its name."""
    workdir = tmp_path / "on the pod"
    if request.param == "openssh":
        server: Sshd = request.getfixturevalue("sshd")
        return server.pod(workdir)
    shared: Pod = request.getfixturevalue("embedded")
    return shared.model_copy(update={"workdir": str(workdir)})


@pytest.fixture
def host_keys(tmp_path: Path) -> HostKeys:
    return HostKeys(tmp_path / "pins", known_hosts=())


@pytest.fixture
def connection(pod: Pod, host_keys: HostKeys) -> Iterator[Connection]:
    with Connection(pod, host_keys=host_keys) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def runner(pod: Pod, connection: Connection, tmp_path: Path) -> Runner:
    return Runner(SshLauncher(connection, pod), connection, tmp_path)


@pytest.fixture
def python():
    return sys.executable


@pytest.fixture
def agent(python, tmp_path):
    yield Agent(python, tmp_path / "jobs" / "j1")
    assert none_of(tmp_path), processes_of(tmp_path)
    errors = tmp_path / "jobs" / "j1" / "agent.log"
    assert not errors.exists() or not errors.read_text()

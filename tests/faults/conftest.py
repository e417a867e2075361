"""A pod behind a link: a real OpenSSH server, and the proxy in front of it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rig import Reference, Rig
from tests.faults.server import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is here takes real programs and real time: `-m "not slow"` leaves it out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "sshd")
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def rig(tmp_path: Path, server: Server) -> Iterator[Rig]:
    with Proxy((server.host, server.port)) as proxy:
        yield Rig(tmp_path, server, proxy)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Reference:
    """The same run, with nothing going wrong. One worker makes it, the others wait for it."""
    kept = tmp_path_factory.getbasetemp().parent / f"reference-{testrun_uid}.json"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            made = _untroubled(tmp_path_factory.mktemp("reference"))
            kept.write_text(json.dumps(asdict(made)))
    return Reference(**json.loads(kept.read_text()))


def _untroubled(folder: Path) -> Reference:
    server = Server(folder / "sshd")
    server.start()
    try:
        with Proxy((server.host, server.port)) as proxy:
            rig = Rig(folder, server, proxy)
            outcome = rig.start(seconds=0.5).end()
            assert outcome.code == 0, outcome.stderr
            found = Reference(outcome.last["decision"], rig.csvs(), rig.events())
            rig.assert_whole(outcome, found)
            return found
    finally:
        server.kill()

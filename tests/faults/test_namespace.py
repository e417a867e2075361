"""The same over a link of its own: two network namespaces, a veth pair, the cable pulled.

Where this may be done (root with CAP_NET_ADMIN); packets are really dropped here, so the kernel's
own timers are what notices, while behind the proxy it is the session's. Nothing of this machine's
own network is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.rig import FULL, Reference, Rig, at
from tests.faults.server import PATH, Server
from tests.faults.test_link import NOTICED_S

HERE, POD = "10.231.7.1", "10.231.7.2"


def ip(*arguments: str) -> bool:
    tool = shutil.which("ip", path=PATH)
    if tool is None:
        return False
    return subprocess.run([tool, *arguments], capture_output=True).returncode == 0


class Cable:
    """Between the controller's namespace and the pod's."""

    def __init__(self, name: str) -> None:
        self.here, self.pod = f"{name}-a", f"{name}-b"

    def lay(self) -> bool:
        return (
            ip("netns", "add", self.here)
            and ip("netns", "add", self.pod)
            and ip(
                *("link", "add", "eth9", "netns", self.here, "type", "veth"),
                *("peer", "name", "eth9", "netns", self.pod),
            )
            and all(
                ip("-n", space, *arguments)
                for space, address in ((self.here, HERE), (self.pod, POD))
                for arguments in (
                    ("addr", "add", f"{address}/30", "dev", "eth9"),
                    ("link", "set", "lo", "up"),
                    ("link", "set", "eth9", "up"),
                )
            )
        )

    def cut(self) -> None:
        """At the pod's end: the controller's own kernel is told nothing."""
        assert ip("-n", self.pod, "link", "set", "eth9", "down")

    def mend(self) -> None:
        assert ip("-n", self.pod, "link", "set", "eth9", "up")

    def remove(self) -> None:
        for space in (self.here, self.pod):
            ip("netns", "del", space)

    def inside(self, space: str) -> tuple[str, ...]:
        return (shutil.which("ip", path=PATH) or "ip", "netns", "exec", space)


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable(f"faults-{os.getpid()}")
    try:
        if not made.lay():
            pytest.skip("no network namespaces here; the proxy stands in for them (test_link)")
        yield made
    finally:
        made.remove()


@pytest.fixture
def far(tmp_path: Path, cable: Cable) -> Iterator[Rig]:
    server = Server(tmp_path / "sshd", host=POD, port=2222, prefix=cable.inside(cable.pod))
    server.start()
    try:
        yield Rig(tmp_path, server, None, prefix=cable.inside(cable.here))
    finally:
        server.kill()


def test_a_pulled_cable_is_noticed_and_the_run_goes_on(
    far: Rig, cable: Cable, reference: Reference, record_property: Callable[[str, object], None]
) -> None:
    controller = far.start(seconds=2)
    far.wait_for_log(controller, "line 000003")
    pulled = time.time()
    cable.cut()
    far.wait_for(controller, "pod.unreachable")
    noticed = at(far.events("pod.unreachable")[0]) - pulled
    record_property("noticed_after_s", round(noticed, 2))
    assert noticed < NOTICED_S
    time.sleep(max(0.0, pulled + (60 if FULL else 9) - time.time()))
    assert not controller.over
    cable.mend()
    far.assert_whole(controller.end(), reference)

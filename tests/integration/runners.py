"""Jobs in one call, as the controller makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.jobs.collect import collect
from orchestrator.jobs.follow import Ended, run
from orchestrator.jobs.job import JobSpec, JobStatus
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.command import Command
from orchestrator.models.run import Artifact
from orchestrator.transport.connection import Connection


class Runner:
    """Runs scripts as jobs, and remembers what was said of them."""

    def __init__(self, launcher: SshLauncher, connection: Connection, folder: Path) -> None:
        self.launcher, self.connection = launcher, connection
        self.log = folder / "log"
        self.into = folder / "artifacts"
        self.said: list[JobStatus] = []

    def spec(self, script: str, name: str = "j", **fields: Any) -> JobSpec:
        return JobSpec(name, Command(("bash", "-c", script)), **fields)

    def run(self, spec: JobSpec, **options: Any) -> Ended:
        options = {"on_status": self.said.append, "sink": lambda _data: None, **options}
        return run(self.launcher, spec, self.log, **options)

    def collect(self, ended: Ended) -> tuple[list[Artifact], list[str]]:
        found = collect(
            self.launcher, self.connection, "j", self.into, lambda _artifact: None, ended.manifest
        )
        return found.artifacts, found.refused

    def dir(self, name: str = "j") -> Path:
        return Path(self.launcher.directory(name))  # the pod is this machine

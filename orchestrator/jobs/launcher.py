"""Starting and asking after jobs: the `ssh` launcher, a detached process under the agent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import InfraError
from orchestrator.jobs.job import JobSpec, JobStatus, Manifest
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection

_Answer = TypeVar("_Answer", bound=BaseModel)


class SshLauncher:
    """Runs jobs on the pod through `agent.py`, which it copies there when it is not."""

    def __init__(self, connection: Connection, pod: Pod) -> None:
        self._connection = connection
        self._pod = pod

    def directory(self, job_id: str) -> str:
        """The job's directory on the pod."""
        return f"{self._pod.state_dir}/jobs/{job_id}"

    def output(self, job_id: str) -> str:
        """Where the job leaves its artifacts, `${out}` of the playbook."""
        return f"{self.directory(job_id)}/out"

    def device_lock(self) -> str:
        """The file that stands for the pod's devices, the same for all users and workdirs.

        The embedded pod is a folder of this machine, and has no device that others could use: its
        lock is common to the embedded pods of one cache folder.
        """
        if self._pod.embedded:
            return str(PurePosixPath(self._pod.workdir).with_name("device.lock"))
        return "/tmp/orchestrate-device.lock"  # noqa: S108 - the agent opens it with due care

    def submit(self, spec: JobSpec) -> JobStatus:
        """Start the job, or let it wait for its device, unless that was done before.

        Raises:
            InfraError: it cannot be started, for one because the disk is full.
        """
        return _parse(JobStatus, self._call("submit", spec.job_id, stdin=spec.to_wire()))

    def status(self, job_id: str) -> JobStatus:
        """What is true of the job now."""
        return _parse(JobStatus, self._call("status", job_id))

    def follow(self, job_id: str, offset: int, sink: Callable[[bytes], None]) -> None:
        """Hand over the log's bytes from `offset` as they come, until the job is over.

        Raises:
            ConnectionLost: the link broke; call again with the offset reached.
        """
        command = self._command("follow", self.directory(job_id), str(offset))
        code = self._connection.stream(command, sink)
        if code != 0:
            raise InfraError(
                f"{self._pod.name}: the log of {job_id} cannot be followed (exit {code})",
                remedy=f"look at {self.directory(job_id)} on the pod",
            )

    def cancel(self, job_id: str) -> None:
        """TERM to the job's process group, KILL if it does not go."""
        self._call("cancel", job_id)

    def manifest(self, job_id: str) -> Manifest:
        """What lies in the output directory, with checksums taken on the pod."""
        return _parse(Manifest, self._call("manifest", job_id, timeout=600))

    @cached_property
    def _agent(self) -> str:
        """Path of the agent on the pod. Its name holds its checksum, so versions never mix."""
        source = resources.files("orchestrator.jobs").joinpath("agent.py").read_bytes()
        path = f"{self._pod.state_dir}/agent-{hashlib.sha256(source).hexdigest()[:12]}.py"
        if not self._connection.run(Command(("test", "-f", path))).ok:
            jobs = f"{self._pod.state_dir}/jobs"
            made = self._connection.run(Command(("mkdir", "-p", "-m", "700", jobs)))
            if not made.ok:
                raise InfraError(
                    f"{self._pod.name}: cannot create {jobs}: {made.stderr.strip()}",
                    remedy="set the pod's workdir to a directory its user can write to",
                )
            self._connection.upload(source, path)
        return path

    def _command(self, *arguments: str) -> Command:
        return Command((self._pod.python, self._agent, *arguments))

    def _call(
        self, verb: str, job_id: str, *, stdin: bytes = b"", timeout: float = 60
    ) -> dict[str, Any]:
        command = self._command(verb, self.directory(job_id))
        result = self._connection.run(command, stdin=stdin, timeout=timeout)
        try:
            answer = json.loads(result.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            said = (result.stderr or result.stdout).strip()[-500:]
            raise InfraError(
                f"{self._pod.name}: {verb} of job {job_id} got no answer from the pod "
                f"(exit {result.exit_code}): {said}",
                remedy=f"the pod needs Python 3.8 or newer as {self._pod.python!r} (pod.python)",
            )
        if "error" in answer:
            raise InfraError(f"{self._pod.name}: {verb} of job {job_id}: {answer['error']}")
        return answer


def _parse(kind: type[_Answer], answer: dict[str, Any]) -> _Answer:
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise InfraError(f"the agent's answer makes no sense: {error.errors()[0]['msg']}") from None

"""Starting and asking after jobs: the `ssh` launcher, a detached process under the agent."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache, cached_property
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import InfraError
from orchestrator.jobs.frames import Frames, NotFrames
from orchestrator.jobs.job import JobSpec, JobStatus, Manifest
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.transport.connection import Connection

_Answer = TypeVar("_Answer", bound=BaseModel)
_KILLED = 128  # and above: the status of a command that a signal ended
_STDERR_LIMIT = 1 << 16

MAX_BYTES = 1 << 30
"""Largest artifact, and largest sum of one job's. A pod is not trusted with our disk."""


class SshLauncher:
    """Runs jobs on the pod through the agent, which it copies there when it is not."""

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

    def run(
        self,
        spec: JobSpec,
        offset: int,
        *,
        log_limit: int,
        on_status: Callable[[JobStatus], None],
        sink: Callable[[bytes], None],
    ) -> tuple[JobStatus | None, Manifest | None]:
        """Submit, follow and list in one call, which spares a slow link its round trips.

        `sink` gets the log's bytes from `offset` to `log_limit` as they come.

        Returns:
            The last status and what the job left; None where the pod's side was ended before that.

        Raises:
            ConnectionLost: the link broke; call again with the offset reached.
            InfraError: the job cannot be started, for one because the disk is full.
        """
        status: JobStatus | None = None
        manifest: Manifest | None = None

        def on_answer(answer: dict[str, Any]) -> None:
            nonlocal status, manifest
            self._refuse_error("run", spec.job_id, answer)
            if "manifest" in answer:
                manifest = _parse(Manifest, answer["manifest"])
            elif "status" in answer:
                status = _parse(JobStatus, answer["status"])
                on_status(status)

        frames = Frames(on_answer, sink)
        directory = self.directory(spec.job_id)
        command = self._command("run", directory, str(offset), str(log_limit), str(MAX_BYTES))
        errors = bytearray()

        def on_stderr(data: bytes) -> None:
            errors.extend(data[: _STDERR_LIMIT - len(errors)])

        def call() -> int:
            errors.clear()
            wire = iter((spec.to_wire(),))
            return self._connection.stream(command, frames.feed, stdin=wire, on_stderr=on_stderr)

        try:
            code = call()
            if code < _KILLED and status is None and self._install():
                code = call()
        except NotFrames as error:
            raise self._no_answer("run", spec.job_id, "garbled", str(error)) from None
        if code < _KILLED and (code != 0 or status is None):
            raise self._no_answer(
                "run", spec.job_id, f"exit {code}", errors.decode(errors="replace")
            )
        return status, manifest

    def follow(
        self, job_id: str, offset: int, sink: Callable[[bytes], None], *, log_limit: int
    ) -> None:
        """Hand over the log's bytes from `offset` to `log_limit`, until the job is over.

        Returns early where the agent had to be put there anew.

        Raises:
            ConnectionLost: the link broke; call again with the offset reached.
        """
        command = self._command("follow", self.directory(job_id), str(offset), str(log_limit))
        code = self._connection.stream(command, sink)
        if code != 0 and not self._install():
            raise InfraError(
                f"{self._pod.name}: the log of {job_id} cannot be followed (exit {code})",
                remedy=f"look at {self.directory(job_id)} on the pod",
            )

    def cancel(self, job_id: str) -> None:
        """TERM to the job's process group, KILL if it does not go."""
        self._call("cancel", job_id)

    def manifest(self, job_id: str) -> Manifest:
        """What lies in the output directory, with checksums taken on the pod."""
        return _parse(Manifest, self._call("manifest", job_id, str(MAX_BYTES), timeout=600))

    @cached_property
    def _agent(self) -> str:
        """The agent on the pod. Its folder's name holds its checksum, so versions never mix."""
        if not self._connection.run(Command(("test", "-d", self._place))).ok:
            self._install()
        return f"{self._place}/agent"

    @property
    def _place(self) -> str:
        return f"{self._pod.state_dir}/agent-{hashlib.sha256(_agent_archive()).hexdigest()[:12]}"

    def _install(self) -> bool:
        """Put the agent there unless it is, to the byte; return whether anything was amiss.

        For when it does not answer, too: the pod was emptied, or lost its power while it wrote.
        """
        install = Command((*self._python, "-c", _INSTALL, self._pod.state_dir, self._place))
        made = self._connection.run(install, stdin=_agent_archive())
        if not made.ok:
            said = made.stderr.strip().rpartition("\n")[2]
            raise InfraError(
                f"{self._pod.name}: cannot put the agent into {self._pod.state_dir}: {said}",
                remedy="the pod needs Python 3.8 or newer as "
                f"{self._pod.python!r} (pod.python), and a workdir its user can write to",
            )
        return _INSTALLED in made.stdout

    @property
    def _python(self) -> tuple[str, ...]:
        # no PYTHON* of the user's and no site: the agent needs neither, and starts sooner
        return (self._pod.python, "-I", "-S")

    def _command(self, *arguments: str) -> Command:
        return Command((*self._python, self._agent, *arguments))

    def _call(
        self, verb: str, job_id: str, *operands: str, stdin: bytes = b"", timeout: float = 60
    ) -> dict[str, Any]:
        command = self._command(verb, self.directory(job_id), *operands)
        result = self._connection.run(command, stdin=stdin, timeout=timeout)
        answer = _object(result.stdout)
        if answer is None and self._install():
            result = self._connection.run(command, stdin=stdin, timeout=timeout)
            answer = _object(result.stdout)
        if answer is None:
            said = result.stderr or result.stdout
            raise self._no_answer(verb, job_id, f"exit {result.exit_code}", said)
        self._refuse_error(verb, job_id, answer)
        return answer

    def _refuse_error(self, verb: str, job_id: str, answer: dict[str, Any]) -> None:
        if "error" in answer:
            raise InfraError(f"{self._pod.name}: {verb} of job {job_id}: {answer['error']}")

    def _no_answer(self, verb: str, job_id: str, how: str, said: str) -> InfraError:
        return InfraError(
            f"{self._pod.name}: {verb} of job {job_id} got no answer from the pod "
            f"({how}): {said.strip()[-500:]}",
            remedy=f"the pod needs Python 3.8 or newer as {self._pod.python!r} (pod.python)",
        )


_INSTALLED = "agent installed"
_INSTALL = f"""\
import io, os, shutil, sys, tempfile, zipfile
state, place = sys.argv[1:]
archive = zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read()))

def is_whole():
    try:
        for name in archive.namelist():
            with open(os.path.join(place, name), "rb") as file:
                if file.read() != archive.read(name):
                    return False
    except OSError:
        return False
    return True

def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)

os.makedirs(state + "/jobs", 0o700, exist_ok=True)
if is_whole():
    # Python writes these without waiting for the disk, and cannot do without one that is cut short
    cache = os.path.join(place, "agent", "__pycache__")
    amiss = os.path.isdir(cache)
    shutil.rmtree(cache, ignore_errors=True)
else:
    amiss = True
    draft = tempfile.mkdtemp(prefix=os.path.basename(place) + ".", dir=state)
    archive.extractall(draft)
    for folder, _, names in os.walk(draft):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)
    try:
        os.rename(draft, place)
    except OSError:
        if is_whole():  # somebody else was first
            shutil.rmtree(draft)
        else:
            os.rename(place, draft + ".damaged")
            os.rename(draft, place)
            shutil.rmtree(draft + ".damaged")
    sync(state)
if amiss:
    print({_INSTALLED!r})
"""


@cache
def _agent_archive() -> bytes:
    """The agent's folder as a zip file, equal bytes for equal modules."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: a pod's Python may lack zlib
        modules = resources.files("orchestrator.jobs.agent").iterdir()
        for module in sorted(modules, key=lambda module: module.name):
            if module.name.endswith(".py"):
                archive.writestr(zipfile.ZipInfo(f"agent/{module.name}"), module.read_bytes())
    return buffer.getvalue()


def _object(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _parse(kind: type[_Answer], answer: Any) -> _Answer:
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise InfraError(f"the agent's answer makes no sense: {error.errors()[0]['msg']}") from None

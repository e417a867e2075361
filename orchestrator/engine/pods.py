"""Pods as a user keeps them: adding one to the file, finding out whether it is fit for a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pydantic import Field

from orchestrator.config.document import read_source
from orchestrator.config.pod_lookup import pod_of_line, resolve_pod
from orchestrator.config.pods import parse_address
from orchestrator.config.pods_file import open_pods, with_pod
from orchestrator.config.pods_path import PODS_FILE, find_pods_file
from orchestrator.config.ssh_line import is_ssh_line, parse_ssh_line
from orchestrator.errors import InfraError, UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.facts import FACTS_SCRIPT, SystemFacts, parse_system
from orchestrator.models.command import Command
from orchestrator.models.pod import Pod
from orchestrator.models.verdict import Record
from orchestrator.store.files import atomic_write
from orchestrator.transport.connection import Connection
from orchestrator.transport.hostkeys import HostKeys

OLDEST_PYTHON = (3, 8)
LITTLE_DISK = 15 * 2**30
"""Bytes. The environment of torch with CUDA takes about 10 GiB while it is being installed."""

_WORKDIR_SCRIPT = r"""
# usage: sh -s -- directory < this
directory=$1
fact() { printf 'pod-check %s=%s\n' "$1" "$2"; }
fact rsync "$(command -v rsync)"
# What does not exist yet is made in its nearest parent.
while [ ! -e "$directory" ] && [ "$directory" != "${directory%/*}" ]
do directory=${directory%/*}; [ -n "$directory" ] || directory=/
done
fact nearest "$directory"
if [ -d "$directory" ] && [ -w "$directory" ] && [ -x "$directory" ]
then fact writable yes; else fact writable no; fi
""".lstrip()
_WORKDIR_FACT = re.compile(r"^pod-check (rsync|nearest|writable)=(.*)$", re.MULTILINE)


class Fitness(str, Enum):
    """How one thing about a pod is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


class Finding(Record):
    """One thing about a pod."""

    about: str
    fitness: Fitness
    message: str
    remedy: str | None = None


class PodCheck(Record):
    """What a pod turned out to be."""

    pod: str
    address: str
    ok: bool = Field(description="reached, and nothing about it is bad")
    findings: tuple[Finding, ...]
    system: SystemFacts | None = Field(default=None, description="None: not reached")


@dataclass(frozen=True)
class Added:
    """A pod that was written to a file."""

    path: Path
    pod: Pod
    notes: Sequence[str]


def to_check(target: str | None, pods_file: Path | None, notes: list[str]) -> list[Pod]:
    """The pod that is meant, or all of the file.

    Raises:
        UsageError: there is no such pod, or no pod at all.
    """
    if target is not None:
        return [resolve_pod(target, pods_file=pods_file, on_note=notes.append)]
    file = open_pods(pods_file)
    if file is None or not file.pods:
        raise UsageError(
            f"{file.path} has no pods" if file else "there is no pods.toml",
            remedy="add one: orchestrate pods add NAME user@host:port; or name an address to check",
        )
    return list(file.pods.values())


def check(pod: Pod, host_keys: HostKeys, *, connect_timeout: float = 15.0) -> PodCheck:
    """Connect and look; nothing on the pod is changed. Never raises for what a pod is like."""
    findings: list[Finding] = []
    system: SystemFacts | None = None
    address = pod.address
    try:
        with Connection(pod, host_keys=host_keys, connect_timeout=connect_timeout) as connection:
            address = connection.address
            findings.append(_ok("connection", f"logged in to {address}"))
            system = _system(connection)
            findings += _machine(pod, system)
            findings += _workdir(connection)
    except InfraError as error:
        findings.append(_bad("connection", error.message, error.remedy))
    return PodCheck(
        pod=pod.name,
        address=address,
        ok=all(finding.fitness is not Fitness.BAD for finding in findings),
        findings=tuple(findings),
        system=system,
    )


def add(
    name: str,
    address: str,
    *,
    pods_file: Path | None = None,
    identity: str | None = None,
    workdir: str | None = None,
    python: str | None = None,
    gpu: str | None = None,
) -> Added:
    """Append a pod to the file that would be read, or to a new `./pods.toml`.

    Args:
        name: what the pod will be called.
        address: `user@host:port`, or an ssh command line.
        pods_file: the file, where it is not one of the usual places.
        identity: path of the private key; wins over the one of the ssh line.
        workdir: repository on the pod.
        python: interpreter on the pod.
        gpu: what the device name must contain.

    Raises:
        UsageError: the name is taken, or something would be wrong; the file stays as it was.
    """
    notes: list[str] = []
    key = identity and _kept(identity)
    if is_ssh_line(address):
        pod = pod_of_line(address, on_note=notes.append)
        line_key = parse_ssh_line(address).identity_file
        key = key or (line_key and _kept(line_key))
    else:
        pod = parse_address(address.strip())
    given = {
        "host": pod.host,
        "port": pod.port,
        "user": pod.user,
        "identity_file": key,
        "workdir": workdir,
        "python": python,
        "gpu": gpu,
    }
    fields = {key: value for key, value in given.items() if value is not None}
    path = find_pods_file(pods_file) or Path(PODS_FILE)
    text = _text(path)
    new = with_pod(text, name, fields, file=str(path))
    _write(path, new)
    file = open_pods(path)
    assert file is not None  # noqa: S101 - it was named
    return Added(path, file.pods[name], notes)


def _kept(key: str) -> str:
    """A path that means the same from everywhere; `~` stays, for the file may be shared."""
    return key if key.startswith("~") else str(Path(key).absolute())


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    read_source(path)  # says what is wrong with it: a folder, too large, not UTF-8
    return path.read_bytes().decode("utf-8").removeprefix("\ufeff")


def _write(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        atomic_write(target, text, mode=mode)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}",
            remedy="name another file with --pods",
        ) from None


# --- what is looked at ----------------------------------------------------------------------------


def _ok(about: str, message: str) -> Finding:
    return Finding(about=about, fitness=Fitness.OK, message=message)


def _bad(about: str, message: str, remedy: str | None) -> Finding:
    return Finding(about=about, fitness=Fitness.BAD, message=message, remedy=remedy)


def _warning(about: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(about=about, fitness=Fitness.WARNING, message=message, remedy=remedy)


def _system(connection: Connection) -> SystemFacts:
    pod = connection.pod
    command = Command(("sh", "-s", "--", pod.workdir, pod.python))
    answer = connection.run(command, stdin=FACTS_SCRIPT.encode())
    try:
        return parse_system(answer.stdout)
    except EvidenceError as error:
        raise InfraError(
            f"pod {pod.name}: cannot tell what this machine is: {error}",
            remedy="the pod needs a POSIX shell and coreutils; a login that opens a menu or a "
            "container's console is no use",
        ) from None


def _machine(pod: Pod, system: SystemFacts) -> Iterator[Finding]:
    memory = f", {system.memory_bytes / 2**30:.0f} GiB" if system.memory_bytes else ""
    cpus = "unknown number of" if system.cpus is None else system.cpus
    yield _ok("machine", f"{system.os or system.uname or 'unknown system'}, {cpus} CPUs{memory}")
    yield _gpu(pod, system)
    yield _python(pod, system.python)
    if system.disk_free_bytes is None:
        yield _warning("disk", "the free space is not known")
    else:
        text = f"{system.disk_free_bytes / 2**30:.1f} GiB free at {system.disk_path}"
        if system.disk_free_bytes >= LITTLE_DISK:
            yield _ok("disk", text)
        else:
            yield _warning("disk", text, "torch with CUDA needs about 10 GiB to install")


def _gpu(pod: Pod, system: SystemFacts) -> Finding:
    names = [gpu.name for gpu in system.gpus]
    seen = ", ".join(names) or "no NVIDIA GPU"
    if system.gpu_error:
        seen = f"nvidia-smi failed: {system.gpu_error}"
    if pod.gpu is None:
        return _warning("gpu", seen) if system.gpu_error else _ok("gpu", seen)
    if any(pod.fits(name) for name in names):
        return _ok("gpu", f"{seen}, as declared")
    return _bad(
        "gpu",
        f"the pod is declared with {pod.gpu}: {seen}",
        "correct `gpu` of the pod, or rent the right one",
    )


def _python(pod: Pod, version: str | None) -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    found = re.match(r"(\d+)\.(\d+)", version or "")
    if found is None:
        return _bad(
            "python",
            f"{pod.python} does not run there",
            f"install Python {oldest} or newer, or name it: python = ... in pods.toml",
        )
    if (int(found[1]), int(found[2])) < OLDEST_PYTHON:
        return _bad(
            "python",
            f"{pod.python} is {version}",
            f"the agent needs {oldest} or newer: name one, python = ... in pods.toml",
        )
    return _ok("python", f"{pod.python} is {version}")


def _workdir(connection: Connection) -> Iterator[Finding]:
    pod = connection.pod
    command = Command(("sh", "-s", "--", pod.workdir))
    answer = connection.run(command, stdin=_WORKDIR_SCRIPT.encode())
    facts = dict(_WORKDIR_FACT.findall(answer.stdout))
    if facts.get("rsync"):
        yield _ok("rsync", facts["rsync"])
    else:
        yield _warning("rsync", "not installed: files are sent as tar, which is slower")
    nearest = facts.get("nearest", "")
    if facts.get("writable") != "yes":
        yield _bad(
            "workdir",
            f"{pod.workdir}: {nearest or '/'} cannot be written to, or is no folder",
            "choose another: workdir = ... in pods.toml",
        )
    elif nearest == pod.workdir:
        yield _ok("workdir", f"{pod.workdir} exists and can be written to")
    else:
        yield _ok("workdir", f"{pod.workdir} can be made in {nearest}")

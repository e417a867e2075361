"""Pulling a job's artifacts into the run directory, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.errors import PullError
from orchestrator.jobs.disk import naming_what_fills
from orchestrator.jobs.job import Manifest, RemoteFile
from orchestrator.jobs.launcher import MAX_BYTES, SshLauncher
from orchestrator.models.command import Secret
from orchestrator.models.run import Artifact
from orchestrator.transport.connection import Connection
from orchestrator.transport.files import is_partial

_LONGEST_NAME = 255  # bytes of one part, by what disks can do


class Collected(NamedTuple):
    """What became of the files that a job left."""

    artifacts: list[Artifact]
    refused: list[str]
    """one line for each, with its name"""
    quarantined: list[str]
    """likewise: left on the pod, for a secret is in it"""


def contained(root: Path, name: str) -> Path:
    """`name` below `root`.

    Raises:
        PullError: it is absolute, has `..`, goes through a link, or is no name for a file.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise PullError(f"{name!r}: it leaves the run directory")
    if "\0" in name or "\\" in name:
        raise PullError(f"{name!r}: not a name that every system can hold")
    if max(len(part.encode("utf-8", "surrogateescape")) for part in path.parts) > _LONGEST_NAME:
        raise PullError(f"{name!r}: longer than {_LONGEST_NAME} bytes")
    if is_partial(path.name):
        raise PullError(f"{name!r}: the name of a file that is pulled in part")
    target = root.joinpath(*path.parts)
    for parent in target.parents:
        if parent == root:
            break
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            raise PullError(f"{name!r}: it would go through {parent}")
    if target.is_symlink() or target.is_dir():
        raise PullError(f"{name!r}: something else is at {target}")
    return target


def collect(
    launcher: SshLauncher,
    connection: Connection,
    job_id: str,
    into: Path,
    pulled: Callable[[Artifact], None],
    manifest: Manifest | None = None,
    secrets: Mapping[str, Secret] = MappingProxyType({}),
) -> Collected:
    """Pull every regular file of the job's output directory, checked by SHA-256 on both ends.

    A file that is there already with the right checksum is not pulled again, and one that is there
    in part is continued. `manifest` is what the pod has just said that there is; None: ask it. A
    file in which one of `secrets` is found, or in whose name, does not get here.
    """
    into.mkdir(parents=True, exist_ok=True)
    manifest = manifest or launcher.manifest(job_id)
    refused = [f"{item.path!r}: {item.reason}" for item in manifest.refused]
    artifacts: list[Artifact] = []
    quarantined: list[str] = []
    taken: set[str] = set()
    total = 0
    for file, remote in _offered(launcher, job_id, manifest):
        try:
            target = contained(into, file.path)
        except PullError as error:
            refused.append(error.message)
            continue
        if file.path in taken:
            refused.append(f"{file.path!r}: offered twice")
            continue
        if total + file.size > MAX_BYTES:
            refused.append(
                f"{file.path!r}: over {MAX_BYTES >> 20} MiB together with those before it"
            )
            continue
        total += file.size
        taken.add(file.path)
        inspect = _Inspector(secrets)
        try:
            inspect(file.path.encode("utf-8", "surrogateescape") + b"\0")
            with naming_what_fills(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                connection.download(
                    remote, target, size=file.size, sha256=file.sha256, inspect=inspect
                )
        except _SecretFound as found:
            quarantined.append(f"{file.path!r}: {found.message}")
            continue
        artifact = Artifact(path=file.path, size=file.size, sha256=file.sha256)
        artifacts.append(artifact)
        pulled(artifact)
    for left in into.rglob("*"):
        if is_partial(left.name):  # of a file that has changed on the pod since
            left.unlink()
    return Collected(
        artifacts,
        [_masked(line, secrets) for line in refused],
        [_masked(line, secrets) for line in quarantined],
    )


class _SecretFound(PullError):
    """Names the secret."""


class _Inspector:
    """Looks for secrets in data that comes in pieces."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self._secrets = {name: secret.value.encode() for name, secret in secrets.items()}
        self._kept = max((len(value) for value in self._secrets.values()), default=1) - 1
        self._tail = b""

    def __call__(self, data: bytes) -> None:
        if not self._secrets:
            return
        seen = self._tail + data
        for name, value in self._secrets.items():
            if value in seen:
                raise _SecretFound(f"the value of {name} is in it")
        self._tail = seen[len(seen) - min(self._kept, len(seen)) :]


def _masked(text: str, secrets: Mapping[str, Secret]) -> str:
    for secret in secrets.values():
        text = text.replace(secret.value, "***")
    return text


def _offered(
    launcher: SshLauncher, job_id: str, manifest: Manifest
) -> Iterator[tuple[RemoteFile, str]]:
    """Each file and where it lies on the pod; the telemetry first, whose name is the agent's."""
    if manifest.telemetry is not None:
        telemetry = manifest.telemetry
        yield telemetry, f"{launcher.directory(job_id)}/{telemetry.path}"
    for file in manifest.files:
        yield file, f"{launcher.output(job_id)}/{file.path}"

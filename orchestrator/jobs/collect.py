"""Pulling a job's artifacts into the run directory, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.errors import PullError
from orchestrator.jobs.agent.masking import Finder, masked
from orchestrator.jobs.disk import naming_what_fills
from orchestrator.jobs.job import Manifest, RemoteFile
from orchestrator.jobs.launcher import MAX_BYTES, SshLauncher
from orchestrator.models.command import Secret
from orchestrator.models.run import Artifact
from orchestrator.transport.connection import Connection
from orchestrator.transport.files import is_partial

_LONGEST_NAME = 255  # bytes of one part, by what disks can do
_ROUNDS = 3  # for files that change while they are pulled


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
    file in which one of `secrets` is found, or in whose name, does not get here. One that changes
    while it is pulled is asked for again, and in the end refused; the others stay.
    """
    into.mkdir(parents=True, exist_ok=True)
    manifest = manifest or launcher.manifest(job_id)
    hidden = {name: secret.value.encode() for name, secret in secrets.items()}

    def shown(text: str) -> str:
        return masked(text.encode("utf-8", "surrogateescape"), hidden).decode("utf-8", "replace")

    refused = [f"{shown(item.path)!r}: {shown(item.reason)}" for item in manifest.refused]
    quarantined = [f"{shown(item.path)!r}: {shown(item.reason)}" for item in manifest.quarantined]
    artifacts: list[Artifact] = []
    changed: dict[str, str] = {}  # by where it lies on the pod
    offered = list(_offered(launcher, job_id, manifest))
    total = 0
    for rounds_left in reversed(range(_ROUNDS)):
        taken: set[str] = set()
        for file, remote in offered:
            inspect = _Inspector(hidden)
            try:
                inspect(file.path.encode("utf-8", "surrogateescape") + b"\0")
                target = contained(into, file.path)
                if file.path in taken:
                    raise PullError(f"{file.path!r}: offered twice")
                if total + file.size > MAX_BYTES:
                    raise PullError(
                        f"{file.path!r}: over {MAX_BYTES >> 20} MiB together with those before it"
                    )
            except _SecretFound as found:
                quarantined.append(f"{shown(file.path)!r}: {found.message}")
                continue
            except PullError as error:
                refused.append(error.message)
                continue
            taken.add(file.path)
            changed.pop(remote, None)
            try:
                with naming_what_fills(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    connection.download(
                        remote, target, size=file.size, sha256=file.sha256, inspect=inspect
                    )
            except _SecretFound as found:
                quarantined.append(f"{file.path!r}: {found.message}")
            except PullError as error:
                changed[remote] = f"{file.path!r}: changed while it was pulled: {error.message}"
            else:
                total += file.size
                artifacts.append(Artifact(path=file.path, size=file.size, sha256=file.sha256))
                pulled(artifacts[-1])
        if not (changed and rounds_left):
            break
        again = _offered(launcher, job_id, launcher.manifest(job_id))
        offered = [(file, remote) for file, remote in again if remote in changed]
    for left in into.rglob("*"):
        if is_partial(left.name):  # of a file that has changed on the pod since
            left.unlink()
    return Collected(artifacts, [*refused, *map(shown, changed.values())], quarantined)


class _SecretFound(PullError):
    """Names the secret."""


class _Inspector:
    """Ends the fetch of data in which there is a secret."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._finder = Finder(secrets)

    def __call__(self, data: bytes) -> None:
        name = self._finder.feed(data)
        if name is not None:
            raise _SecretFound(f"the value of {name} is in it")


def _offered(
    launcher: SshLauncher, job_id: str, manifest: Manifest
) -> Iterator[tuple[RemoteFile, str]]:
    """Each file and where it lies on the pod; the telemetry first, whose name is the agent's."""
    if manifest.telemetry is not None:
        telemetry = manifest.telemetry
        yield telemetry, f"{launcher.directory(job_id)}/{telemetry.path}"
    for file in manifest.files:
        yield file, f"{launcher.output(job_id)}/{file.path}"

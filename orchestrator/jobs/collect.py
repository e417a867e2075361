"""Pulling a job's artifacts into the run directory, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from orchestrator.errors import PullError
from orchestrator.jobs.disk import naming_what_fills
from orchestrator.jobs.job import Manifest, RemoteFile
from orchestrator.jobs.launcher import MAX_BYTES, SshLauncher
from orchestrator.models.run import Artifact
from orchestrator.transport.connection import Connection
from orchestrator.transport.files import is_partial

_LONGEST_NAME = 255  # bytes of one part, by what disks can do


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
) -> tuple[list[Artifact], list[str]]:
    """Pull every regular file of the job's output directory, checked by SHA-256 on both ends.

    A file that is there already with the right checksum is not pulled again, and one that is there
    in part is continued. `manifest` is what the pod has just said that there is; None: ask it.

    Returns:
        The artifacts, and one line for each thing that was refused, with its name.
    """
    into.mkdir(parents=True, exist_ok=True)
    manifest = manifest or launcher.manifest(job_id)
    refused = [f"{item.path!r}: {item.reason}" for item in manifest.refused]
    artifacts: list[Artifact] = []
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
        with naming_what_fills(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            connection.download(remote, target, size=file.size, sha256=file.sha256)
        artifact = Artifact(path=file.path, size=file.size, sha256=file.sha256)
        artifacts.append(artifact)
        pulled(artifact)
    for left in into.rglob("*"):
        if is_partial(left.name):  # of a file that has changed on the pod since
            left.unlink()
    return artifacts, refused


def _offered(
    launcher: SshLauncher, job_id: str, manifest: Manifest
) -> Iterator[tuple[RemoteFile, str]]:
    """Each file and where it lies on the pod; the telemetry first, whose name is the agent's."""
    if manifest.telemetry is not None:
        telemetry = manifest.telemetry
        yield telemetry, f"{launcher.directory(job_id)}/{telemetry.path}"
    for file in manifest.files:
        yield file, f"{launcher.output(job_id)}/{file.path}"

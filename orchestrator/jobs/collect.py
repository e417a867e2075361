"""Pulling a job's artifacts into the run directory, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from orchestrator.errors import PullError
from orchestrator.jobs.launcher import SshLauncher
from orchestrator.models.run import Artifact
from orchestrator.transport.connection import Connection

MAX_BYTES = 1 << 30
"""Largest artifact, and largest sum of one job's. A pod is not trusted with our disk."""


def contained(root: Path, name: str) -> Path:
    """`name` below `root`.

    Raises:
        PullError: it is absolute, has `..`, or goes through a link.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise PullError(
            f"the pod offered an artifact named {name!r}, which leaves the run directory"
        )
    target = root.joinpath(*path.parts)
    for parent in (target, *target.parents):
        if parent == root:
            return target
        if parent.is_symlink():
            raise PullError(f"artifact {name!r} would go through the link {parent}")
    raise PullError(f"the pod offered an artifact named {name!r}, which leaves the run directory")


def collect(
    launcher: SshLauncher,
    connection: Connection,
    job_id: str,
    into: Path,
    pulled: Callable[[Artifact], None],
) -> tuple[list[Artifact], list[str]]:
    """Pull every regular file of the job's output directory, checked by SHA-256 on both ends.

    A file that is there already with the right checksum is not pulled again.

    Returns:
        The artifacts, and one line for each thing that was refused.
    """
    into.mkdir(parents=True, exist_ok=True)
    manifest = launcher.manifest(job_id)
    refused = [f"{item.path!r}: {item.reason}" for item in manifest.refused]
    artifacts: list[Artifact] = []
    total = 0
    for file in manifest.files:
        total += file.size
        if total > MAX_BYTES:
            refused.append(
                f"{file.path!r}: over {MAX_BYTES >> 20} MiB together with those before it"
            )
            total -= file.size
            continue
        target = contained(into, file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remote = f"{launcher.output(job_id)}/{file.path}"
        connection.download(remote, target, size=file.size, sha256=file.sha256)
        artifact = Artifact(path=file.path, size=file.size, sha256=file.sha256)
        artifacts.append(artifact)
        pulled(artifact)
    return artifacts, refused

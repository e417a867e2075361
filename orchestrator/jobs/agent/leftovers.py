"""What a job leaves for collection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .directory import Job
from .exposure import ALL, key, withheld
from .files import checksum, relative, walk
from .room import free_bytes
from .spec import Refused

MOST = 10_000  # entries listed of either kind; more is no evidence


def leftovers(job: Job, limit: int | None) -> dict[str, Any]:
    """List the regular files in out/ with checksums, and with why what is not to be fetched.

    The telemetry, which is the agent's own, is listed apart, and so is what a secret is in.
    `limit` is of one file's bytes.
    """
    held = withheld(job)
    paths, others = walk(job.out)
    files: list[dict[str, Any]] = []
    lists: dict[str, list[dict[str, str]]] = {"refused": [], "quarantined": []}
    refused = lists["refused"]
    if ALL in held and (paths or others):
        shown, why, kind = held[ALL]
        lists[kind].append({"path": shown, "reason": why})
        paths, others = [], []
    for entry in others:
        why = held.get(key(entry["path"]))
        refused.append({**entry, "path": why[0]} if why else entry)
    for path in paths[:MOST]:
        name = relative(path, job.out)
        if key(name) in held:
            shown, why, kind = held[key(name)]
            lists[kind].append({"path": shown, "reason": why})
            continue
        try:
            if os.fsencode(name) != os.fsencode(path.relative_to(job.out)):
                raise Refused("its name is not UTF-8")
            files.append(_entry(path, name, limit))
        except (OSError, Refused) as error:
            refused.append({"path": name, "reason": getattr(error, "strerror", None) or str(error)})
    refused.sort(key=lambda entry: entry["path"])
    for kind, number in (("files", len(paths)), ("refused", len(refused))):
        if number > MOST:
            reason = f"{number} {kind} in it, {number - MOST} of them not listed"
            refused = [{"path": ".", "reason": reason}, *refused[:MOST]]
    telemetry = None
    if os.path.lexists(job.telemetry):
        try:
            telemetry = _entry(job.telemetry, job.telemetry.name, limit)
        except (OSError, Refused) as error:  # the job has put something else there
            reason = getattr(error, "strerror", None) or str(error)
            refused.append({"path": job.telemetry.name, "reason": reason})
    return {
        "files": sorted(files, key=lambda entry: str(entry["path"])),
        "refused": refused,
        "quarantined": sorted(lists["quarantined"], key=lambda entry: entry["path"])[:MOST],
        "telemetry": telemetry,
        "free_bytes": free_bytes(job.dir),
    }


def _entry(path: Path, name: str, limit: int | None) -> dict[str, Any]:
    size, digest = checksum(path, limit)
    return {"path": name, "size": size, "sha256": digest}

"""What of a job's output is not to be fetched, for a secret is in it.

Found when the job ends, while the secrets are known; kept in the result, and without them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Mapping

from .directory import Job
from .files import CHUNK, read_json, relative, walk
from .masking import Finder, masked

SEARCHED_BYTES = 1 << 30  # of all files; no more than that is pulled of a job
LISTED_BYTES = 1 << 15  # the result is to fit into its reserve
ALL = ""  # key of what is true of every file

Withheld = Mapping[str, Any]
"""By `key`: the name, secrets masked; why; and "quarantined", or "refused" where nobody knows."""


def key(name: str) -> str:
    """Return what stands for a name, which may have a secret in it."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def search(out: Path, secrets: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Find the files below `out` that have a secret in them or in their names."""
    if not secrets:
        return {}
    found: dict[str, list[str]] = {}
    left = SEARCHED_BYTES
    paths, refused = walk(out)
    for path in sorted(paths):
        name = relative(path, out)
        why, kind, read = _search(path, os.fsencode(path.relative_to(out)), secrets, left)
        left -= read
        if why:
            found[key(name)] = [_shown(name, secrets), why, kind]
    for entry in refused:
        secret = Finder(secrets).feed(entry["path"].encode())
        if secret:
            shown = _shown(entry["path"], secrets)
            found[key(entry["path"])] = [shown, entry["reason"], "refused"]
    size = sum(len(key) + sum(map(len, entry)) for key, entry in found.items())
    if size > LISTED_BYTES:
        return {ALL: [".", f"the value of a secret is in {len(found)} files", "quarantined"]}
    return found


def _search(
    path: Path, name: bytes, secrets: Mapping[str, bytes], limit: int
) -> tuple[str | None, str, int]:
    """Return why a file is withheld, which way, and how many bytes of it were read."""
    read = 0
    secret = Finder(secrets).feed(name)
    finder = Finder(secrets)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                return "too large to be searched for secrets", "refused", 0
            while not secret and read <= limit:  # it may still grow
                data = file.read(CHUNK)
                if not data:
                    return None, "", read
                read += len(data)
                secret = finder.feed(data)
    except OSError as error:
        return f"cannot be searched for secrets: {error.strerror}", "refused", read
    if secret:
        return f"the value of {secret} is in it", "quarantined", read
    return "too large to be searched for secrets", "refused", read


def _shown(name: str, secrets: Mapping[str, bytes]) -> str:
    return masked(name.encode(), secrets).decode("utf-8", "replace")


def withheld(job: Job) -> Withheld:
    """Read what the search found; a job with secrets that was never searched shows nothing."""
    found = (read_json(job.result) or {}).get("withheld")
    if isinstance(found, dict):
        return found
    if (read_json(job.spec) or {}).get("secret_names"):
        why = "never searched for secrets: the job did not come to its end"
        return {ALL: [".", why, "refused"]}
    return {}

"""Creating, finding and reading runs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import StoreError
from orchestrator.models.run import FORMAT, Judgement, RunPlan, StepResult
from orchestrator.store.files import atomic_write
from orchestrator.store.paths import RunPaths

LATEST = "latest"
_STAMP, _STAMP_LENGTH = "%Y%m%d-%H%M%S", len("20250102-030405")
_Record = TypeVar("_Record", bound=BaseModel)


def new_run_id(runs_dir: Path) -> str:
    """Sorts after every run that is there, and is unique by its tail: `20250102-030405-9f3a`.

    The time in it is that of creation, or later where the clock was set back since the last run:
    `latest` is the one that was begun last, whatever the clock says.
    """
    moment = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
    for paths in all_runs(runs_dir):
        with suppress(ValueError):  # a folder that somebody has named
            begun = datetime.strptime(paths.run_id[:_STAMP_LENGTH], _STAMP)
            moment = max(moment, begun + timedelta(seconds=1))
    return f"{moment:{_STAMP}}-{secrets.token_hex(2)}"


def create(runs_dir: Path, plan: RunPlan, diff: bytes, manifest: Mapping[str, str]) -> RunPaths:
    """Make the directory of a new run and write its plan.

    Raises:
        StoreError: the directory cannot be made.
    """
    paths = RunPaths(runs_dir / plan.run_id)
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        ignore = runs_dir / ".gitignore"
        if not ignore.exists():
            # within the repository that is judged, runs must not become part of what is pushed
            atomic_write(ignore, "*\n")
        paths.root.mkdir()
        atomic_write(paths.source, json.dumps(dict(manifest), indent=0))
        if diff:
            atomic_write(paths.diff, diff, mode=0o600)
        write(paths.plan, plan)
    except OSError as error:
        raise StoreError(
            f"cannot create the run directory {paths.root}: {error.strerror}",
            remedy="name a directory you can write to with --runs-dir",
        ) from None
    return paths


def all_runs(runs_dir: Path) -> list[RunPaths]:
    """Runs in order of creation, oldest first."""
    if not runs_dir.is_dir():
        return []
    return [
        RunPaths(entry) for entry in sorted(runs_dir.iterdir()) if (entry / "run.json").exists()
    ]


def find(runs_dir: Path, run: str = LATEST) -> RunPaths:
    """The run named by its id, a unique prefix of it, a path, or `latest`.

    Raises:
        StoreError: there is none, or the prefix fits several.
    """
    if "/" in run or RunPaths(Path(run)).plan.exists():
        paths = RunPaths(Path(run).resolve())
        if not paths.plan.exists():
            raise StoreError(f"{run} is not a run directory: it holds no run.json")
        return paths
    runs = all_runs(runs_dir)
    if not runs:
        raise StoreError(f"no runs in {runs_dir}", remedy="start one: orchestrate run --phase 0-5")
    if run == LATEST:
        return runs[-1]
    fitting = [paths for paths in runs if paths.run_id.startswith(run)]
    exact = [paths for paths in fitting if paths.run_id == run]
    if exact or len(fitting) == 1:
        return (exact or fitting)[0]
    if fitting:
        names = ", ".join(paths.run_id for paths in fitting[:5])
        raise StoreError(f"{run!r} fits several runs: {names}", remedy="give more of the run id")
    raise StoreError(f"no run {run!r} in {runs_dir}", remedy="list them: orchestrate runs")


def write(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, whole or not at all."""
    atomic_write(path, record.model_dump_json(indent=2) + "\n")


def read(path: Path, kind: type[_Record]) -> _Record:
    """Read a record back.

    Raises:
        StoreError: missing, damaged, or written by another version.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise StoreError(
            f"{path} is damaged or from another version: {where}{first['msg']}"
        ) from None


def read_plan(paths: RunPaths) -> RunPlan:
    """`run.json`, checked for its format."""
    plan = read(paths.plan, RunPlan)
    if plan.format != FORMAT:
        raise StoreError(
            f"{paths.root} has format {plan.format}, this version reads {FORMAT}",
            remedy=f"use orchestrate {plan.version}",
        )
    return plan


def read_result(paths: RunPaths, phase: int, step: str) -> StepResult | None:
    """Result of the newest attempt that has one."""
    for attempt in reversed(paths.attempts(phase, step)):
        file = paths.attempt(phase, step, attempt).result
        if file.exists():
            return read(file, StepResult)
    return None


def read_manifest(paths: RunPaths) -> dict[str, str]:
    """Path to checksum of every file that was synced.

    Raises:
        StoreError: missing or damaged.
    """
    try:
        manifest = json.loads(paths.source.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{paths.source} cannot be read: {error}") from None
    if not isinstance(manifest, dict):
        raise StoreError(f"{paths.source} is damaged")
    return {str(path): str(checksum) for path, checksum in manifest.items()}


def read_judgement(paths: RunPaths) -> Judgement | None:
    """The stored judgement, None while the run goes on."""
    return read(paths.judgement, Judgement) if paths.judgement.exists() else None

"""Commands that read: `report`, `runs`, `status`, `logs`, `validate`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.console import Console, Lines
from orchestrator.cli.settings import parse_settings
from orchestrator.config.playbook import load_playbook
from orchestrator.config.resources import find_playbook
from orchestrator.engine.judge import judge
from orchestrator.errors import StoreError
from orchestrator.models.run import Judgement
from orchestrator.store import runs as store
from orchestrator.store.lock import is_written
from orchestrator.store.paths import RunPaths

_WATCH_S, _FOLLOW_S = 2.0, 0.2
_CHUNK = 1 << 16


def report_command(run: str, template: Path | None, runs_dir: Path, *, as_json: bool) -> int:
    """Judge and render again."""
    from orchestrator.engine.conclude import conclude  # Jinja, which no other command here needs

    paths = store.find(runs_dir, run)
    judgement, report = conclude(paths, template=template)
    if as_json:
        click.echo(json.dumps({"run_id": paths.run_id, "report": str(report), **_brief(judgement)}))
    else:
        click.echo(str(report))
    return 0


def runs_command(runs_dir: Path, *, as_json: bool) -> int:
    """One line a run."""
    rows: list[dict[str, Any]] = []
    for paths in store.all_runs(runs_dir):
        try:
            plan = store.read_plan(paths)
            judgement = store.read_judgement(paths)
        except StoreError as error:
            damaged = {"run_id": paths.run_id, "damaged": error.message}
            rows.append(damaged)
            continue
        rows.append(
            {
                "run_id": plan.run_id,
                "created_at": plan.created_at,
                "playbook": plan.playbook.name,
                "pod": plan.pod.name,
                "phases": plan.phases,
                **(_brief(judgement) if judgement else {"verdict": None, "decision": None}),
            }
        )
    if as_json:
        click.echo(json.dumps(rows))
        return 0
    if not rows:
        click.echo(f"no runs in {runs_dir}")
    for row in rows:
        if "damaged" in row:
            click.echo(f"{row['run_id']}  damaged: {row['damaged']}")
            continue
        phases = ",".join(map(str, row["phases"]))
        verdict = row["verdict"] or "unfinished"
        decision = row["decision"] or "-"
        click.echo(
            f"{row['run_id']}  {row['playbook']}  {row['pod']}  {phases}  {verdict}  {decision}"
        )
    return 0


def status_command(run: str, runs_dir: Path, *, watch: bool, as_json: bool) -> int:
    """Judge what is there, print it; with `watch`, until no controller writes the run."""
    paths = store.find(runs_dir, run)
    while True:
        going_on = is_written(paths)
        _print_status(paths, judge(paths), as_json=as_json)
        if not (watch and going_on):
            return 0
        time.sleep(_WATCH_S)
        if not as_json:
            click.clear()


def _print_status(paths: RunPaths, judgement: Judgement, *, as_json: bool) -> None:
    if as_json:
        click.echo(judgement.model_dump_json())
        return
    console = Console()
    console.say(f"run {paths.run_id}: {judgement.verdict.value}", "bold")
    for phase in judgement.phases:
        if phase.verdict is None:
            console.say(f"phase {phase.id}  {phase.title}: skipped, {phase.skipped}", "cyan")
            continue
        console.say(f"phase {phase.id}  {phase.title}: {phase.verdict.value}", "bold cyan")
        for step in phase.steps:
            console.say(step.step, indent=2)
            for gate in step.gates:
                console.verdict(gate.verdict.value, f"{gate.gate}: {gate.message}", indent=4)
    if judgement.decision is not None:
        console.say(judgement.decision.summary, "bold")


def logs_command(run: str, step: str | None, runs_dir: Path, *, follow: bool, as_json: bool) -> int:
    """Print what the jobs wrote; control sequences stay in the files."""
    paths = store.find(runs_dir, run)
    if as_json:
        click.echo(json.dumps([str(file) for file in _log_files(paths, step)]))
        return 0
    logs = _Logs(paths.root)
    while True:
        going_on = follow and is_written(paths)
        for file in _log_files(paths, step):
            logs.show(file, whole=not going_on)
        sys.stdout.flush()
        if not going_on:
            return 0
        time.sleep(_FOLLOW_S)


class _Logs:
    """Prints logs as they grow, each under its name; holds no more of a line than is printed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[Path, int] = {}
        self._lines: dict[Path, Lines] = {}
        self._last: Path | None = None

    def show(self, file: Path, *, whole: bool) -> None:
        """Print what has come since the last call; unless `whole`, only complete lines."""
        if file not in self._lines:
            self._lines[file] = Lines(lambda line: self._print(file, line))
            self._head(file)
        lines = self._lines[file]
        with file.open("rb") as log:
            log.seek(self._read.get(file, 0))
            for data in iter(lambda: log.read(_CHUNK), b""):
                lines.feed(data)
            self._read[file] = log.tell()
        if whole:
            lines.flush()

    def _print(self, file: Path, line: str) -> None:
        self._head(file)
        click.echo(line)

    def _head(self, file: Path) -> None:
        if file != self._last:
            click.echo(f"==> {file.relative_to(self._root)} <==")
        self._last = file


def validate_command(
    playbook: str | None, profile: str | None, settings: tuple[str, ...], *, as_json: bool
) -> int:
    """Load the playbook for each profile; the loader raises what is wrong."""
    path = find_playbook(playbook)
    overrides = parse_settings(settings)
    first = load_playbook(path, profile=profile, overrides=overrides)
    profiles: list[str | None] = [profile] if profile else [*first.playbook.profiles] or [None]
    for name in profiles:
        load_playbook(path, profile=name, overrides=overrides)
    if as_json:
        click.echo(json.dumps({"playbook": str(path), "valid": True, "profiles": profiles}))
    else:
        names = ", ".join(name for name in profiles if name) or "no profiles"
        click.echo(f"{path}: valid ({names})")
    return 0


def _brief(judgement: Judgement) -> dict[str, str | None]:
    decision = judgement.decision
    return {
        "verdict": judgement.verdict.value,
        "decision": str(decision) if decision is not None else None,
    }


def _log_files(paths: RunPaths, step: str | None) -> list[Path]:
    plan = store.read_plan(paths)
    steps = [(phase.id, item.id) for phase in plan.playbook.phases for item in phase.steps]
    if step is not None and step not in [name for _, name in steps]:
        known = ", ".join(name for _, name in steps)
        raise StoreError(f"run {paths.run_id} has no step {step}", remedy=f"its steps: {known}")
    files: list[Path] = []
    for phase, name in steps:
        if step in (None, name):
            for number in paths.attempts(phase, name):
                root = paths.attempt(phase, name, number).root
                files += sorted(root.glob("*.log"), key=lambda f: f.stat().st_mtime)
                files += [root / "log"] if (root / "log").exists() else []
    return files

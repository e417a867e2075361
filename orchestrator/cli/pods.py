"""`orchestrate pods list|add|check`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from orchestrator.cli.console import Console, plain
from orchestrator.cli.hostkeys import confirmation
from orchestrator.config.pods import state_dir
from orchestrator.config.pods_file import open_pods
from orchestrator.engine import pods as engine
from orchestrator.engine.pods import Fitness, PodCheck
from orchestrator.errors import ExitCode
from orchestrator.transport.hostkeys import HostKeys

_STYLES = {Fitness.OK: "green", Fitness.WARNING: "yellow", Fitness.BAD: "bold red"}
_COLUMNS = ("pod", "address", "gpu", "workdir", "identity_file")


def list_command(pods_file: Path | None, *, as_json: bool) -> int:
    """Print the pods of the file."""
    file = open_pods(pods_file)
    pods = list(file.pods.values()) if file else []
    if as_json:
        path = str(file.path) if file else None
        rows = [pod.model_dump(mode="json", exclude={"embedded"}) for pod in pods]
        click.echo(json.dumps({"file": path, "pods": rows}))
        return 0
    if not pods:
        where = f"no pods in {file.path}" if file else "no pods.toml"
        click.echo(f"{where}; add one: orchestrate pods add NAME user@host:port")
        return 0
    lines = [_COLUMNS]
    for pod in pods:
        key = str(pod.identity_file or "-")
        lines.append((pod.name, pod.address, pod.gpu or "-", pod.workdir, key))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())
    return 0


def add_command(
    name: str,
    words: tuple[str, ...],
    pods_file: Path | None,
    *,
    identity: str | None,
    workdir: str | None,
    python: str | None,
    gpu: str | None,
) -> int:
    """Append a pod to the file."""
    added = engine.add(
        name,
        # pasted without quotes, an ssh command line comes as words
        words[0] if len(words) == 1 else shlex.join(words),
        pods_file=pods_file,
        identity=identity,
        workdir=workdir,
        python=python,
        gpu=gpu,
    )
    for note in added.notes:
        click.echo(f"note: {plain(note)}", err=True)
    click.echo(f"added {added.pod.name} ({added.pod.address}) to {added.path}")
    click.echo(f"try it: orchestrate pods check {added.pod.name}")
    return 0


def check_command(
    target: str | None, pods_file: Path | None, accept_host_key: str | None, *, as_json: bool
) -> int:
    """Connect to each pod and print what it is."""
    notes: list[str] = []
    pods = engine.to_check(target, pods_file, notes)
    for note in notes:
        click.echo(f"note: {plain(note)}", err=True)
    host_keys = HostKeys(state_dir() / "known_hosts", confirmation(accept_host_key))
    console = Console(to_stderr=as_json)
    checks = []
    for pod in pods:
        found = engine.check(pod, host_keys)
        checks.append(found)
        if not as_json:
            _print(console, found)
    if as_json:
        click.echo(json.dumps([found.model_dump(mode="json") for found in checks]))
    return 0 if all(found.ok for found in checks) else int(ExitCode.INFRA)


def _print(console: Console, found: PodCheck) -> None:
    style = "bold green" if found.ok else "bold red"
    console.say(f"{found.pod}  {found.address}  {'OK' if found.ok else 'NOT FIT'}", style)
    for finding in found.findings:
        line = f"{finding.fitness.value:<8} {finding.about:<11} {finding.message}"
        console.say(line, _STYLES[finding.fitness], indent=2)
        if finding.remedy:
            console.say(finding.remedy, indent=2 + 8 + 1 + 11 + 1)

"""`attach`, `resume`, `cancel`, `fetch`, `explain`: a run after its controller."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from orchestrator.cli.console import Console, plain
from orchestrator.cli.hostkeys import confirmation
from orchestrator.cli.run import print_end, summary
from orchestrator.config.pods import state_dir
from orchestrator.engine import resume as engine
from orchestrator.engine.execute import Ports
from orchestrator.store import runs as store
from orchestrator.transport.hostkeys import HostKeys


def _ports(console: Console, reconnect_for: float = 600.0) -> Ports:
    host_keys = HostKeys(state_dir() / "known_hosts", confirmation(None))
    return Ports(host_keys, (console.event,), console.log, reconnect_for_s=reconnect_for)


def resume_command(run: str, runs_dir: Path, reconnect_for: float, *, as_json: bool) -> int:
    """Go on; print like `run`."""
    paths = store.find(runs_dir.absolute(), run)
    with Console(to_stderr=as_json) as console:
        finished = engine.resume(paths, _ports(console, reconnect_for))
    print_end(console, finished)
    if as_json:
        click.echo(json.dumps(summary(finished)))
    return int(finished.exit_code)


def cancel_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """End the job."""
    paths = store.find(runs_dir.absolute(), run)
    console = Console(to_stderr=as_json)
    jobs = engine.cancel(paths, _ports(console))
    if as_json:
        click.echo(json.dumps({"run_id": paths.run_id, "cancelled": jobs}))
    for job in jobs if not as_json else ():
        console.say(f"cancelled {job}")
    if not jobs:
        console.say("nothing runs")
    return 0


def fetch_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Pull again."""
    paths = store.find(runs_dir.absolute(), run)
    console = Console(to_stderr=as_json)
    artifacts = engine.fetch(paths, _ports(console))
    if as_json:
        click.echo(json.dumps([artifact.model_dump() for artifact in artifacts]))
    else:
        console.say(f"{len(artifacts)} artifacts of run {paths.run_id} are here")
    return 0


def explain_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Say what `resume` would do."""
    paths = store.find(runs_dir.absolute(), run)
    states = engine.explain(paths)
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states]))
        return 0
    for state in states:
        line = f"phase {state.phase}  {state.step:<24} {state.does:<6} {state.why}"
        click.echo(plain(line))  # `why` may be what the pod said
    return 0

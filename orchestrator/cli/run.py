"""`orchestrate run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from orchestrator.cli.console import STYLES, Console
from orchestrator.cli.hostkeys import confirmation
from orchestrator.cli.settings import parse_settings
from orchestrator.config.pods import state_dir
from orchestrator.engine.execute import Finished, Ports, execute
from orchestrator.engine.plan import CONDITIONS, actions
from orchestrator.engine.prepare import Prepared, Request, prepare
from orchestrator.transport.hostkeys import HostKeys


def run_command(
    *,
    playbook: str | None,
    phases: str | None,
    pod: str | None,
    pods_file: Path | None,
    identity: Path | None,
    workdir: str | None,
    python: str | None,
    profile: str | None,
    settings: tuple[str, ...],
    repo: Path | None,
    accept_host_key: str | None,
    inherit_from: str | None,
    reconnect_for: float,
    no_wait: bool,
    waive: tuple[str, ...],
    reasons: tuple[str, ...],
    pr: bool,
    dry_run: bool,
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Plan, then print or execute."""
    request = Request(
        playbook=playbook,
        phases=phases,
        pod=pod,
        pods_file=pods_file,
        identity_file=identity,
        workdir=workdir,
        python=python,
        profile=profile,
        overrides=parse_settings(settings),
        repo=repo,
        runs_dir=runs_dir.absolute(),
        inherit_from=inherit_from,
        pr=pr,
        waive=waive,
        reasons=reasons,
        argv=["orchestrate", *sys.argv[1:]],
    )
    prepared = prepare(request)
    for note in prepared.notes:
        click.echo(f"note: {note}", err=True)
    if dry_run:
        return _print_plan(prepared, as_json=as_json)
    host_keys = HostKeys(state_dir() / "known_hosts", confirmation(accept_host_key))
    with Console(to_stderr=as_json) as console:
        ports = Ports(
            host_keys,
            (console.event,),
            console.log,
            prepared.secrets,
            reconnect_for,
            wait_for_device=not no_wait,
        )
        finished = execute(prepared, runs_dir.absolute(), ports)
    print_end(console, finished)
    if as_json:
        click.echo(json.dumps(summary(finished)))
    return int(finished.exit_code)


def summary(finished: Finished) -> dict[str, object]:
    """The last line of `run --json`."""
    judgement = finished.judgement
    decision = judgement.decision
    return {
        "run_id": judgement.run_id,
        "verdict": judgement.verdict.value,
        "exit_code": int(finished.exit_code),
        "phases": [
            {
                "id": phase.id,
                "name": phase.name,
                "verdict": phase.verdict.value if phase.verdict else None,
                "skipped": phase.skipped,
            }
            for phase in judgement.phases
        ],
        "decision": decision.model_dump(mode="json") if decision else None,
        "reasons": [reason.model_dump(mode="json") for reason in judgement.reasons],
        "report": str(finished.report),
    }


def _print_plan(prepared: Prepared, *, as_json: bool) -> int:
    plan = prepared.plan
    planned = list(actions(plan))
    if as_json:
        steps = [
            {
                "phase": item.phase.id,
                "step": item.step.id,
                "actions": [
                    {"text": a.text, "command": str(a.command) if a.command else None}
                    for a in item.actions
                ],
            }
            for item in planned
        ]
        click.echo(json.dumps({"plan": plan.model_dump(mode="json"), "steps": steps}))
        return 0
    click.echo(f"{plan.playbook.name}, profile {plan.profile}, on {plan.pod.address}")
    for phase in plan.playbook.phases:
        if phase.id not in plan.phases:
            continue
        click.echo(f"\nphase {phase.id}  {phase.title}  ({CONDITIONS[phase.when]})")
        for item in planned:
            if item.phase is phase:
                click.echo(f"  {item.step.id}: {item.step.title or item.step.action}")
                for action in item.actions:
                    click.echo(f"    {action.text}")
                    if action.command:
                        click.echo(f"      $ {action.command}")
    return 0


def print_end(console: Console, finished: Finished) -> None:
    """The decision, the verdict, and where the report is."""
    judgement = finished.judgement
    console.say("")
    if judgement.decision is not None:
        console.say(judgement.decision.summary, "bold")
    console.say(
        f"verdict {judgement.verdict.value}, exit code {int(finished.exit_code)}",
        STYLES[judgement.verdict],
    )
    if finished.error is not None and finished.error.remedy:
        console.say(finished.error.remedy)
    console.say(f"report  {finished.report}")

"""The question about an unknown host key."""

from __future__ import annotations

import sys

import click

from orchestrator.cli.console import plain
from orchestrator.transport.hostkeys import Confirm, HostKeyQuestion


def confirmation(accepted: str | None) -> Confirm:
    """Accept the fingerprint that was named; else ask, where there is someone to ask."""

    def confirm(question: HostKeyQuestion) -> bool:
        if accepted is not None:
            return question.key.fingerprint == accepted
        if not sys.stdin.isatty():
            return False
        click.echo(plain(str(question)), err=True)
        return click.confirm("Is this the pod you rented?", default=False, err=True)

    return confirm

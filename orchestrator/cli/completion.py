"""What the shell offers on Tab. Asked while the user waits, so nothing heavy is imported."""

from __future__ import annotations

import re
from pathlib import Path

from click import Context, Parameter
from click.shell_completion import CompletionItem, get_completion_class

from orchestrator.config.pods_path import pod_names
from orchestrator.config.resources import find_playbook, shipped_playbooks
from orchestrator.errors import OrchestrateError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ORCHESTRATE_COMPLETE"
_MAX_BYTES = 1 << 20


def script(ctx: Context, shell: str) -> str:
    """The script that makes a shell ask us."""
    kind = get_completion_class(shell)
    assert kind is not None, shell  # noqa: S101 - one of SHELLS
    return kind(ctx.find_root().command, {}, "orchestrate", VARIABLE).source()


def pods(ctx: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names in pods.toml, and the embedded pod where a run may have it."""
    names = pod_names(ctx.params.get("pods_file"))
    if ctx.command.name == "run":
        names.append("embedded")
    return _fitting(names, incomplete)


def runs(ctx: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Run ids, newest first."""
    folder = Path(ctx.params.get("runs_dir") or "runs")
    try:
        names = [entry.name for entry in folder.iterdir() if (entry / "run.json").exists()]
    except OSError:
        names = []
    return _fitting(["latest", *sorted(names, reverse=True)], incomplete)


def playbooks(_ctx: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped names; where none fits, files."""
    try:
        found = _fitting(list(shipped_playbooks()), incomplete)
    except OrchestrateError:
        found = []
    return found or [CompletionItem(incomplete, type="file")]


def profiles(ctx: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Profiles of the playbook on the command line."""
    try:
        path = find_playbook(ctx.params.get("playbook"))
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_BYTES)
    except (OrchestrateError, OSError, ValueError):
        return []
    return _fitting(profile_names(text), incomplete)


def profile_names(text: str) -> list[str]:
    """Keys below `profiles:` of a playbook, read by indentation: loading YAML takes too long."""
    block = re.search(r"^profiles:[ \t]*(?:#.*)?\n((?:[ \t]+.*\n|[ \t]*(?:#.*)?\n)*)", text, re.M)
    keys = re.findall(r"^( +)['\"]?([A-Za-z0-9._-]+)['\"]?:", block[1], re.M) if block else []
    return [name for indent, name in keys if indent == keys[0][0]]


def _fitting(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]

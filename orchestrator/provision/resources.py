"""One protocol for all resources, and the table that turns the playbook's into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.models.command import Command, CommandResult
from orchestrator.models.playbook import (
    AptResource,
    DeviceResource,
    PipResource,
    RequirementsResource,
    Resource,
    VenvResource,
)
from orchestrator.models.pod import Pod
from orchestrator.provision import apt, cuda, python_env
from orchestrator.provision.state import Finding


@dataclass(frozen=True)
class Recipe:
    """How one resource is checked and brought about.

    `apply` gets what `check` found, and is called only when that was not satisfied. Its commands
    run in order, as jobs: they outlive the connection. A recipe without `apply` only looks.
    """

    title: str
    check: Command
    parse: Callable[[CommandResult], Finding]
    apply: Callable[[Finding], list[Command]] | None = None


def recipe(resource: Resource, pod: Pod) -> Recipe:
    """The recipe of a resource of the playbook, on this pod."""
    match resource:
        case AptResource():
            return Recipe(
                title=f"apt: {' '.join(resource.packages)}",
                check=apt.check(resource),
                parse=lambda result: apt.parse(resource, result),
                apply=lambda found: apt.apply(resource, found),
            )
        case VenvResource():
            return Recipe(
                title=f"venv: {pod.venv_path}",
                check=python_env.check_venv(pod),
                parse=python_env.parse,
                apply=lambda found: python_env.apply_venv(pod, found),
            )
        case PipResource():
            return Recipe(
                title=f"pip: {' '.join(resource.packages)}",
                check=python_env.check_pip(resource, pod),
                parse=python_env.parse,
                apply=lambda found: python_env.apply_pip(resource, pod, found),
            )
        case RequirementsResource():
            return Recipe(
                title=f"requirements: {resource.file}",
                check=python_env.check_requirements(resource, pod),
                parse=python_env.parse,
                apply=lambda found: python_env.apply_requirements(resource, pod, found),
            )
        case DeviceResource():
            return Recipe(title="device sanity", check=cuda.check(pod), parse=cuda.parse)

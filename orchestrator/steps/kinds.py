"""The table of step kinds."""

from __future__ import annotations

from typing import Any

from orchestrator.models.playbook import Step
from orchestrator.steps.base import StepKind
from orchestrator.steps.decide import Decide
from orchestrator.steps.job import Job
from orchestrator.steps.land import Land
from orchestrator.steps.provision import Provision
from orchestrator.steps.sync import Sync

_KINDS: dict[str, StepKind[Any]] = {
    "sync": Sync(),
    "provision": Provision(),
    "job": Job(),
    "decide": Decide(),
    "land": Land(),
}


def kind_of(step: Step) -> StepKind[Any]:
    """The kind that plans and applies this step."""
    return _KINDS[step.action]

"""`repeat` and `variants`: a phase that repeats others becomes a plain list of steps.

Expanded once, when the run is planned, so that executing, judging and reporting see steps like any
others. A step of a variant is called `<variant>.<step>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import UsageError
from orchestrator.models.playbook import DecideStep, JobStep, Phase, Playbook, Step, Variant
from orchestrator.models.run import PlannedVariant


def expand(playbook: Playbook) -> tuple[Playbook, list[PlannedVariant]]:
    """The playbook with every repetition written out, and which step belongs to which variant.

    Raises:
        UsageError: a phase repeats one that does not exist or does not come before it.
    """
    phases: list[Phase] = []
    planned: list[PlannedVariant] = []
    for phase in playbook.phases:
        repeated = [_find(phase, number, phases) for number in phase.repeat]
        steps = list(phase.steps)
        for variant in phase.variants if repeated else ():
            groups = {other.id: [_vary(s, variant) for s in other.steps] for other in repeated}
            steps += [step for group in groups.values() for step in group]
            planned.append(
                PlannedVariant(
                    id=variant.id,
                    title=variant.title,
                    phase=phase.id,
                    environment=dict(variant.environment),
                    changed_code=variant.changed_code,
                    steps={number: [s.id for s in group] for number, group in groups.items()},
                )
            )
        # what is written out already must not be expanded again when the plan is read back
        phases.append(phase.model_copy(update={"steps": steps, "repeat": [], "variants": []}))
    return playbook.model_copy(update={"phases": phases}), planned


def _find(phase: Phase, number: int, before: Sequence[Phase]) -> Phase:
    for other in before:
        if other.id == number:
            return other
    known = ", ".join(str(other.id) for other in before)
    raise UsageError(
        f"phase {phase.id} repeats phase {number}, which does not come before it",
        remedy=f"repeat one of: {known}",
    )


def _vary(step: Step, variant: Variant) -> Step:
    """A copy under the variant's name and flags; a decision looks at the variant's own files."""
    name = f"{variant.id}.{step.id}"
    title = f"{variant.title}: {step.title or step.id}"
    if isinstance(step, JobStep):
        env = {**step.env, **variant.environment}
        return step.model_copy(update={"id": name, "title": title, "env": env})
    if isinstance(step, DecideStep):
        sources = {"dense": f"{variant.id}.{step.dense}", "varlen": f"{variant.id}.{step.varlen}"}
        return step.model_copy(update={"id": name, "title": title, **sources})
    return step.model_copy(update={"id": name, "title": title})

"""What a playbook must get right beyond the types of its values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.config.document import Document, Location
from orchestrator.config.hints import did_you_mean, listing, shown
from orchestrator.errors import ConfigError
from orchestrator.models.playbook import (
    BenchGate,
    DecideStep,
    JobStep,
    Playbook,
    ProvisionStep,
    Resource,
    Step,
)

REPORT = "selection_report.md"
"""The one deliverable that no step produces: the run renders it."""


def applies(item: Step | Resource, profile: str | None) -> bool:
    """Whether a step or resource takes part under this profile."""
    return item.profiles is None or profile in item.profiles


def duplicates(document: Document, data: Any) -> list[ConfigError]:
    """Ids that are there twice: phases, steps anywhere, resources within a step.

    Looks at data that may still be of any shape, so that pydantic's findings come along.
    """
    phases = list(_items(data, "phases", ()))
    steps = [found for phase, at in phases for found in _items(phase, "steps", at)]
    groups = [("phase", phases), ("step", steps)]
    groups += [("resource", list(_items(step, "resources", at))) for step, at in steps]
    return [error for what, items in groups for error in _twice(document, what, items)]


def _items(data: Any, key: str, at: Location) -> Iterator[tuple[Any, Location]]:
    items = data.get(key) if isinstance(data, dict) else None
    if isinstance(items, list):
        yield from ((item, (*at, key, index)) for index, item in enumerate(items))


def _twice(
    document: Document, what: str, items: list[tuple[Any, Location]]
) -> Iterator[ConfigError]:
    first: dict[str, Location] = {}
    for item, at in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
            continue
        name, here = str(item["id"]), (*at, "id")
        if name in first:
            line = document.line(first[name])
            message = f"{what} {shown(name)} is there twice; first in line {line}"
            yield document.error(here, message)
        else:
            first[name] = here


def meaning(document: Document, playbook: Playbook) -> list[ConfigError]:
    """References that lead nowhere: files, steps, profiles, deliverables."""
    return [
        *_defaults(document, playbook),
        *_profiles(document, playbook),
        *_gates(document, playbook),
        *_decisions(document, playbook),
        *_grounds(document, playbook),
        *_repeats(document, playbook),
        *_deliverables(document, playbook),
    ]


def _steps(playbook: Playbook) -> Iterator[tuple[Step, Location]]:
    for number, phase in enumerate(playbook.phases):
        for index, step in enumerate(phase.steps):
            yield step, ("phases", number, "steps", index)


def _defaults(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    first: dict[str, str] = {}
    for name, profile in playbook.profiles.items():
        where = profile.default_for
        if where and first.setdefault(where, name) != name:
            at = ("profiles", name, "default_for")
            yield document.error(at, f"profile {first[where]!r} is the default for {where} already")


def _profiles(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    items: list[tuple[Step | Resource, Location]] = []
    for step, at in _steps(playbook):
        items.append((step, at))
        if isinstance(step, ProvisionStep):
            items += [(item, (*at, "resources", i)) for i, item in enumerate(step.resources)]
    known = playbook.profiles
    for item, at in items:
        for index, name in enumerate(item.profiles or ()):
            if name not in known:
                message = f"there is no profile {shown(name)}{did_you_mean(name, known)}"
                remedy = f"profiles: {listing(known)}"
                yield document.error((*at, "profiles", index), message, remedy=remedy)


def _gates(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    for step, at in _steps(playbook):
        if not isinstance(step, JobStep):
            continue
        for index, gate in enumerate(step.gates):
            if gate.file not in step.artifacts:
                guess = did_you_mean(gate.file, step.artifacts)
                yield document.error(
                    (*at, "gates", index, "file"),
                    f"{shown(gate.file)} is not among the step's artifacts{guess}",
                    remedy=f"artifacts of step {step.id!r}: {listing(step.artifacts)}",
                )


def _decisions(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    steps = list(_steps(playbook))
    producers = {
        f"{step.id}/{artifact}": (index, step)
        for index, (step, _) in enumerate(steps)
        if isinstance(step, JobStep)
        for artifact in step.artifacts
    }
    for index, (step, at) in enumerate(steps):
        if not isinstance(step, DecideStep):
            continue
        for key, reference in (("dense", step.dense), ("varlen", step.varlen)):
            here = (*at, key)
            if reference not in producers:
                guess = did_you_mean(reference, producers)
                yield document.error(
                    here,
                    f"no job step leaves {shown(reference)}{guess}",
                    remedy=f"step/file: {listing(producers)}",
                )
                continue
            position, producer = producers[reference]
            if position > index:
                message = f"step {producer.id!r} comes later; a decision needs what is there"
                yield document.error(here, message)
            without = [
                name
                for name in playbook.profiles
                if applies(step, name) and not applies(producer, name)
            ]
            if without:
                message = f"step {producer.id!r} takes no part under profile {without[0]!r}"
                yield document.error(here, message)
            file = reference.partition("/")[2]
            if not any(isinstance(g, BenchGate) and g.file == file for g in producer.gates):
                yield document.error(
                    here,
                    f"no bench gate judges {shown(reference)}: the decision would stay UNDECIDED",
                    remedy=f"add to step {producer.id!r}: {{gate: bench, file: {file}, "
                    f"mode: {key}, lengths: [...]}}",
                )


def _grounds(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    """A decision rests on tests that passed and on parity that was measured."""
    kinds: set[str] = set()
    for step, at in _steps(playbook):
        if isinstance(step, JobStep):
            kinds |= {gate.gate for gate in step.gates}
        elif isinstance(step, DecideStep):
            lacking = [f"`{kind}`" for kind in ("tests", "parity") if kind not in kinds]
            if lacking:
                yield document.error(
                    (*at, "id"),
                    f"no {' and no '.join(lacking)} gate comes before this decision: it would stay "
                    "UNDECIDED",
                    remedy="add a job that runs the parity tests, with gates `tests` and `parity`",
                )


def _repeats(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    known = [phase.id for phase in playbook.phases]
    for number, phase in enumerate(playbook.phases):
        at: Location = ("phases", number)
        for index, repeated in enumerate(phase.repeat):
            if repeated not in known:
                yield document.error(
                    (*at, "repeat", index),
                    f"there is no phase {repeated}",
                    remedy=f"phases: {listing([str(one) for one in known])}",
                )
            elif repeated >= phase.id:
                yield document.error(
                    (*at, "repeat", index),
                    f"phase {phase.id} can only repeat phases before it, not {repeated}",
                )
        if phase.repeat and not phase.variants:
            yield document.error(
                (*at, "repeat"),
                "nothing is repeated without variants",
                remedy="declare `variants`, or leave `repeat` out",
            )
        if phase.variants and not phase.repeat:
            yield document.error(
                (*at, "variants"),
                "variants of nothing: the phase repeats none",
                remedy="say which phases they repeat: `repeat: [1, 2]`",
            )


def _deliverables(document: Document, playbook: Playbook) -> Iterator[ConfigError]:
    produced = {REPORT}
    for step, _ in _steps(playbook):
        if isinstance(step, JobStep):
            produced.update(step.artifacts)
    for index, name in enumerate(playbook.deliverables):
        if name not in produced:
            yield document.error(
                ("deliverables", index),
                f"no step leaves {shown(name)}{did_you_mean(name, produced)}",
                remedy=f"artifacts: {listing(sorted(produced))}",
            )

"""Loading a playbook: read, choose the profile, resolve the variables, validate, merge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from orchestrator.config.checks import applies, duplicates, meaning
from orchestrator.config.document import Document, Location, all_of, parse_mapping, read_source
from orchestrator.config.explain import explain
from orchestrator.config.hints import did_you_mean, listing, shown
from orchestrator.config.variables import (
    JOB_NAMES,
    POD_NAMES,
    Interpolator,
    Variable,
    alike,
    described,
    example,
    override,
)
from orchestrator.errors import ConfigError, UsageError
from orchestrator.models.playbook import Phase, Playbook, ProvisionStep, Step
from orchestrator.models.values import Value

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class LoadedPlaybook:
    """A playbook as it will run.

    Variables are resolved, the profile's variables and environment are merged in, and steps and
    resources of other profiles are gone. `source_text` and `sha256` are of the file as it lies
    there.
    """

    playbook: Playbook
    profile: str | None
    path: Path
    source_text: str
    sha256: str


def load_playbook(
    path: Path,
    *,
    profile: str | None = None,
    embedded: bool = False,
    overrides: Mapping[str, str] = _NOTHING,
    builtins: Mapping[str, str] = _NOTHING,
    deferred: Collection[str] = JOB_NAMES,
) -> LoadedPlaybook:
    """The playbook at `path`, for one profile.

    Without `profile`, the playbook's default for the embedded or a remote pod is taken, if it
    declares one. `overrides` are the `--set name=value` of the command line and win over the
    profile's variables, which win over the playbook's. References to `deferred` names, and to
    names of the pod that `builtins` does not give, stay in place for `variables.bind`.

    Raises ConfigError for whatever is wrong in the file, UsageError for an unknown profile or a
    bad override.
    """
    source = read_source(path)
    document = parse_mapping(source)
    chosen = _choose_profile(document, profile, embedded=embedded)
    scope = _Scope(document, builtins, {*deferred, *POD_NAMES} - set(builtins))
    variables, data = scope.resolve(chosen, overrides)
    playbook = _validate(document, data)
    return LoadedPlaybook(
        playbook=_for_profile(playbook, chosen, variables),
        profile=chosen,
        path=path,
        source_text=source.text,
        sha256=source.sha256,
    )


def _choose_profile(document: Document, asked: str | None, *, embedded: bool) -> str | None:
    profiles = _mapping(document, ("profiles",))
    if asked is not None:
        if asked not in profiles:
            raise UsageError(
                f"{document.file} has no profile {shown(asked)}{did_you_mean(asked, profiles)}",
                remedy=f"profiles: {listing(profiles)}",
            )
        return asked
    wanted = "embedded" if embedded else "remote"
    for name, profile in profiles.items():
        if isinstance(profile, dict) and profile.get("default_for") == wanted:
            return name
    return None


def _mapping(document: Document, at: Location) -> dict[str, Any]:
    """A mapping in the raw data; empty where something else stands, which validation reports."""
    data = document.data
    for part in at:
        data = data.get(part) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True)
class _Scope:
    """What names mean in one document."""

    document: Document
    builtins: Mapping[str, str]
    deferred: Collection[str]

    def resolve(
        self, profile: str | None, overrides: Mapping[str, str]
    ) -> tuple[dict[str, Value], Any]:
        """The variables under a profile and overrides, and the whole data with them put in."""
        declared = self._declared()
        variables = dict(declared)
        values = self._interpolator(declared).values()
        for name in _mapping(self.document, ("profiles",)):
            changes = self._changes(name, declared, values)
            if name == profile:
                variables |= changes
        for name, text in overrides.items():
            variables[name] = Variable(override(name, text, values), None)
        interpolator = self._interpolator(variables)
        return interpolator.values(), interpolator.everywhere(self.document.data)

    def _interpolator(self, variables: Mapping[str, Variable]) -> Interpolator:
        return Interpolator(self.document, variables, self.builtins, self.deferred)

    def _declared(self) -> dict[str, Variable]:
        declared = self._written(("variables",))
        for name in declared:
            if name in self.deferred or name in self.builtins:
                at = ("variables", name)
                raise self.document.error(at, "this name is taken: it is provided", key=True)
        return declared

    def _written(self, at: Location) -> dict[str, Variable]:
        written = _mapping(self.document, at)
        return {name: Variable(value, (*at, name)) for name, value in written.items()}

    def _changes(
        self, profile: str, declared: Mapping[str, Variable], values: Mapping[str, Value]
    ) -> dict[str, Variable]:
        """A profile's variables: each replaces one of the playbook's, by a value of its type."""
        at = ("profiles", profile, "variables")
        changes = self._written(at)
        errors = [
            self.document.error(
                (*at, name),
                f"the playbook has no such variable to override{did_you_mean(name, declared)}",
                key=True,
                remedy=f"variables: {listing(declared)}",
            )
            for name in changes
            if name not in declared
        ]
        if not errors:
            changed = self._interpolator({**declared, **changes}).values()
            errors = [
                self._type_differs((*at, name), values[name], changed[name])
                for name in changes
                if not alike(values[name], changed[name])
            ]
        if errors:
            raise all_of(errors)
        return changes

    def _type_differs(self, at: Location, wanted: Value, given: Value) -> ConfigError:
        message = f"expected {described(wanted)}, got {shown(given)}"
        line = self.document.line(("variables", at[-1]))
        remedy = f"the playbook has {at[-1]}: {example(wanted)} in line {line}"
        return self.document.error(at, message, remedy=remedy)


def _validate(document: Document, data: Any) -> Playbook:
    errors = duplicates(document, data)
    try:
        playbook = Playbook.model_validate(data)
    except ValidationError as error:
        # The model refuses duplicates too, of the playbook as a whole: that would be said twice.
        if not errors or error.errors()[0]["loc"]:
            errors += explain(error, Playbook, document)
    else:
        errors += meaning(document, playbook)
    if errors:
        raise all_of(errors)
    return playbook


def _for_profile(
    playbook: Playbook, profile: str | None, variables: Mapping[str, Value]
) -> Playbook:
    environment = dict(playbook.environment)
    if profile is not None:
        environment |= playbook.profiles[profile].environment
    changes = {
        "variables": dict(variables),
        "environment": environment,
        "phases": [_phase_for(phase, profile) for phase in playbook.phases],
    }
    return playbook.model_copy(update=changes)


def _phase_for(phase: Phase, profile: str | None) -> Phase:
    steps: list[Step] = []
    for step in phase.steps:
        if not applies(step, profile):
            continue
        if isinstance(step, ProvisionStep):
            resources = [item for item in step.resources if applies(item, profile)]
            if resources:  # a step of which nothing is left is no step
                steps.append(step.model_copy(update={"resources": resources}))
        else:
            steps.append(step)
    return phase.model_copy(update={"steps": steps})

"""`${name}`: variables of a playbook, put in their places.

    lengths: [64, 128]
    command: [bench, --L_list, "${lengths}", --csv, "${out}/dense.csv"]

A string that is nothing but `${lengths}` becomes the list itself. Within a longer string a value
is written as text, a list joined by commas. `$${` is a literal `${`. Names that are known only
later, such as `${out}`, are left in place for `bind`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

from orchestrator.config.document import Document, Location, all_of, parse
from orchestrator.config.hints import did_you_mean, kind, listing, shown
from orchestrator.errors import ConfigError, UsageError
from orchestrator.models.values import Scalar, Value

POD_NAMES = ("pod.workdir", "pod.venv", "pod.python")
"""Builtins that describe the pod."""

JOB_NAMES = ("out",)
"""Names that get a value only when a job starts."""

_REFERENCE = re.compile(
    r"""
      (?P<escape> \$\$\{ ) (?P<literal> [^{}\n]* \} )?
    | \$\{ (?P<name> [^{}\n]* ) \}
    | (?P<unclosed> \$\{ )
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_MAX_EXPANSION = 4 << 20  # characters that variables may add to one document
_MAX_CHAIN = 50
_MAX_ERRORS = 100


@dataclass(frozen=True)
class Variable:
    """A variable as it was written; `at` is None when it came from the command line."""

    value: Any
    at: Location | None


def bind(text: str, values: Mapping[str, str]) -> str:
    """Put the values of late names, such as `out`, into a string that loading left them in."""

    def replace(match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:] if (match["literal"] or "")[:-1] in values else match[0]
        return values.get(match["name"] or "", match[0])

    return _REFERENCE.sub(replace, text)


def as_text(value: Value) -> str:
    """A value within a string. ValueError for true and false, which no command line has."""
    if isinstance(value, list):
        return ",".join(as_text(item) for item in value)
    if isinstance(value, bool):
        raise ValueError("true and false have no form as text; quote them where they are declared")
    return str(value)


@dataclass
class Interpolator:
    """Resolves the variables of one document; each is resolved once."""

    document: Document
    variables: Mapping[str, Variable]
    builtins: Mapping[str, str] = field(default_factory=dict)
    deferred: Collection[str] = ()
    _resolved: dict[str, Value] = field(default_factory=dict, init=False)
    _failed: dict[str, ConfigError] = field(default_factory=dict, init=False)
    _open: list[str] = field(default_factory=list, init=False)
    _expanded: int = field(default=0, init=False)

    def everywhere(self, data: Any) -> Any:
        """The document's data with every reference resolved, or one error that lists all."""
        errors: list[ConfigError] = []
        resolved = self._walk(data, (), errors)
        if errors:
            raise all_of(errors)
        return resolved

    def values(self) -> dict[str, Value]:
        """Every variable, resolved, or one error that lists all that cannot be."""
        for name in self.variables:
            with contextlib.suppress(ConfigError):
                self.value(name)
        if self._failed:
            raise all_of(list(self._failed.values()))
        return {name: self._resolved[name] for name in self.variables}

    def value(self, name: str) -> Value:
        """One variable, resolved."""
        if name in self._failed:
            raise self._failed[name]
        if name not in self._resolved:
            self._open.append(name)
            try:
                self._resolved[name] = self._variable(name, self.variables[name])
            except ConfigError as error:
                self._failed[name] = error
                raise
            finally:
                self._open.pop()
        return self._resolved[name]

    def _variable(self, name: str, variable: Variable) -> Value:
        def item(value: Any, at: Location | None) -> Scalar:
            resolved = self._text(value, at, name) if isinstance(value, str) else value
            if not isinstance(resolved, bool | int | float | str):
                raise self._error(at, name, f"a list holds text and numbers, not {kind(resolved)}")
            return resolved

        value, at = variable.value, variable.at
        if isinstance(value, list):
            return [
                item(part, at if at is None else (*at, number)) for number, part in enumerate(value)
            ]
        if isinstance(value, str):
            return self._text(value, at, name)
        if not isinstance(value, bool | int | float):
            allowed = "text, a number, true, false or a list of these"
            raise self._error(at, name, f"a variable is {allowed}, not {kind(value)}")
        return value

    def _walk(self, data: Any, at: Location, errors: list[ConfigError]) -> Any:
        if isinstance(data, dict):
            return {key: self._walk(value, (*at, key), errors) for key, value in data.items()}
        if isinstance(data, list):
            return [self._walk(value, (*at, index), errors) for index, value in enumerate(data)]
        if isinstance(data, str) and "${" in data and len(errors) < _MAX_ERRORS:
            try:
                return self._text(data, at, None)
            except ConfigError as error:
                errors.append(error)
        return data

    def _text(self, text: str, at: Location | None, owner: str | None) -> Value:
        whole = _REFERENCE.fullmatch(text)
        if whole and whole["name"] is not None:
            return self._lookup(whole, at, owner)

        def replace(match: re.Match[str]) -> str:
            if match["escape"]:
                late = (match["literal"] or "")[:-1] in self.deferred
                return match[0] if late else match[0][1:]  # `bind` will take the `$` off
            value = self._lookup(match, at, owner)
            try:
                written = as_text(value)
            except ValueError as error:
                raise self._error(at, owner, f"{match[0]}: {error}", match[0]) from None
            self._spend(len(written), at, owner)
            return written

        return _REFERENCE.sub(replace, text)

    def _lookup(self, match: re.Match[str], at: Location | None, owner: str | None) -> Value:
        reference, name = match[0], match["name"]
        if match["unclosed"]:
            raise self._error(at, owner, "${ without }", reference, "write $${ for a literal ${")
        if not _NAME.fullmatch(name):
            message = f"{shown(name)} is not a name for a variable"
            raise self._error(at, owner, message, reference, "write $${ for a literal ${")
        if name in self.deferred:
            return reference
        if name in self.builtins:
            return self.builtins[name]
        if name not in self.variables:
            known = sorted(self.variables), sorted({*self.builtins, *self.deferred})
            message = f"unknown variable {shown(name)}{did_you_mean(name, chain(*known))}"
            remedy = f"variables: {listing(known[0])}; provided: {listing(known[1])}"
            raise self._error(at, owner, message, reference, remedy)
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            message = f"variables refer to each other in a circle: {circle}"
            raise self._error(at, owner, message, reference)
        if len(self._open) >= _MAX_CHAIN:
            message = f"more than {_MAX_CHAIN} variables refer to one another in a chain"
            raise self._error(at, owner, message, reference)
        value = self.value(name)
        if isinstance(value, list):
            self._spend(sum(len(str(item)) + 1 for item in value), at, owner)
        return value

    def _spend(self, characters: int, at: Location | None, owner: str | None) -> None:
        self._expanded += characters
        if self._expanded > _MAX_EXPANSION:
            raise self._error(at, owner, "variables expand to more text than a playbook can need")

    def _error(
        self,
        at: Location | None,
        owner: str | None,
        message: str,
        reference: str | None = None,
        remedy: str | None = None,
    ) -> ConfigError:
        if at is None:
            return ConfigError(message, where=f"--set {owner}", remedy=remedy)
        return self.document.error(at, message, containing=reference, remedy=remedy)


def override(name: str, text: str, declared: Mapping[str, Value]) -> Value:
    """The value of `--set name=text`, of the type that the playbook declares for the variable.

    Text stays as it was typed, whatever it looks like. A list may be written `[64, 128]` or
    `64,128`.
    """
    if name not in declared:
        guess = did_you_mean(name, declared)
        raise UsageError(
            f"--set: unknown variable {shown(name)}{guess}",
            remedy=f"variables: {listing(sorted(declared))}",
        )
    wanted = declared[name]
    if isinstance(wanted, str):
        return text
    value = _typed(text, wanted)
    if not alike(wanted, value):
        raise UsageError(
            f"--set {name}: expected {described(wanted)}, got {shown(text)}",
            remedy=f"the playbook has {name}: {example(wanted)}",
        )
    return cast("Value", value)


def _typed(text: str, wanted: Value) -> Any:
    written = text.strip()
    of_text = isinstance(wanted, list) and _common_type(wanted) is str
    if isinstance(wanted, list) and not written.startswith("["):
        written = f"[{written}]"
    try:
        return parse(written, file="--set", all_text=of_text).data
    except ConfigError:
        return None


def alike(wanted: Value, value: Any) -> bool:
    """Whether `value` may replace `wanted`: the same type, or a whole number for a number."""
    if not isinstance(wanted, list):
        return _fits(type(wanted), value)
    common = _common_type(wanted)
    return isinstance(value, list) and all(_fits(common, item) for item in value)


def _fits(wanted: type | None, value: Any) -> bool:
    if wanted is None:
        return isinstance(value, bool | int | float | str)
    return type(value) is wanted or (wanted is float and type(value) is int)


def _common_type(values: list[Scalar]) -> type | None:
    """The type of all items; None, which is any, for an empty or mixed list."""
    types = {type(value) for value in values}
    if types == {int, float}:
        return float
    return types.pop() if len(types) == 1 else None


def described(wanted: Value) -> str:
    """What `alike` accepts, in words."""
    if not isinstance(wanted, list):
        return kind(wanted)
    common = _common_type(wanted)
    words = {str: "text", int: "whole numbers", float: "numbers", bool: "true and false"}
    return f"a list of {words[common]}" if common else "a list of text and numbers"


def example(value: Value) -> str:
    """A value as YAML has it."""
    if isinstance(value, list):
        return f"[{', '.join(example(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)

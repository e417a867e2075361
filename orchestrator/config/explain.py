"""What pydantic refuses, said in the words of the person who wrote the file."""

from __future__ import annotations

import types
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.document import Document, Location
from orchestrator.config.hints import did_you_mean, listing, nearest, shown
from orchestrator.errors import ConfigError
from orchestrator.models.values import EnvName, Identifier

_MAX_ERRORS = 100
_MAPPING = "keys and values"

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_NAMES = {
    get_args(Identifier)[1].pattern: (
        "lower-case letters, digits, `_`, `.` and `-`, beginning with a letter or digit, at most 48"
    ),
    get_args(EnvName)[1].pattern: "letters, digits and `_`, not beginning with a digit",
}


def explain(
    error: ValidationError, model: type[BaseModel], document: Document
) -> list[ConfigError]:
    """One error for each thing that is wrong, at its line and column."""
    found = [_Finding.of(details, model) for details in error.errors()[:_MAX_ERRORS]]
    misspelt = {(finding.at[:-1], finding.meant) for finding in found if finding.meant}
    return [
        finding.error(document)
        for finding in found
        # `comand` is unknown and so `command` is missing: the first says it all
        if finding.kind != "missing" or (finding.at[:-1], finding.at[-1]) not in misspelt
    ]


@dataclass(frozen=True)
class _Finding:
    """One refusal of pydantic's, with the place in the data and the type that was declared."""

    kind: str
    at: Location
    is_key: bool
    declared: Any
    owner: type[BaseModel] | None
    details: ErrorDetails

    @classmethod
    def of(cls, details: ErrorDetails, model: type[BaseModel]) -> _Finding:
        """Follow pydantic's location through the models; tags of unions are no part of the data."""
        declared: Any = model
        owner: type[BaseModel] | None = None
        at: Location = ()
        is_key = details["type"] == "extra_forbidden"
        for part in details["loc"]:
            declared = _bare(declared)
            variants = _variants(declared)
            if part == "[key]":
                is_key = True
            elif part in variants:
                declared = variants[str(part)]
            else:
                owner = declared if _is_model(declared) else None
                declared = _member(declared, part)
                at = (*at, part)
        return cls(details["type"], at, is_key, _bare(declared), owner, details)

    @property
    def meant(self) -> str | None:
        """For an unknown key: the key that it was probably meant to be."""
        if self.kind != "extra_forbidden" or self.owner is None:
            return None
        return nearest(str(self.at[-1]), self.owner.model_fields)

    def error(self, document: Document) -> ConfigError:
        """The refusal as an error of this file."""
        if self.kind == "union_tag_not_found":
            return self._no_tag(document)
        if self.kind == "union_tag_invalid":
            tag = self._tag
            given = self.details["input"][tag]
            message = f"there is no {tag} {shown(given)}{self._instead_of(given)}"
            return document.error((*self.at, tag), message, remedy=self._choices_line(tag))
        return document.error(self.at, self._message(), key=self.is_key, remedy=self._remedy())

    def _no_tag(self, document: Document) -> ConfigError:
        tag = self._tag
        slip = nearest(tag, [key for key in self.details["input"] if key != tag])
        if slip is not None and slip not in _fields_of(self.declared):
            at = (*self.at, slip)
            return document.error(at, f"unknown key; did you mean {tag!r}?", key=True)
        message, remedy = "required, but missing", self._choices_line(tag)
        return document.error((*self.at, tag), message, remedy=remedy)

    def _message(self) -> str:
        given, context = self.details["input"], self.details.get("ctx", {})
        if self.kind == "extra_forbidden":
            return "unknown key" + (f"; did you mean {self.meant!r}?" if self.meant else "")
        if self.kind == "missing":
            return "required, but missing"
        if self.kind in _EXPECTED:
            quote = self.kind == "string_type" and isinstance(given, bool | int | float)
            advice = "; put it in quotes" if quote else ""
            return f"expected {_EXPECTED[self.kind]}, got {shown(given)}{advice}"
        if self.kind in _BOUNDS:
            words, limit = _BOUNDS[self.kind]
            return f"must be {words} {context[limit]:g}, got {shown(given)}"
        if self.kind in ("literal_error", "enum"):
            choices = listing(self._choices)
            return f"expected {choices}, got {shown(given)}{self._instead_of(given)}"
        if self.kind == "too_short":
            return f"needs at least {context['min_length']}, has {context['actual_length']}"
        if self.kind == "string_pattern_mismatch":
            rule = _NAMES.get(context["pattern"], f"must match {context['pattern']}")
            return f"{shown(given)} is not a name: {rule}"
        message = self.details["msg"].removeprefix("Value error, ")
        return message[:1].lower() + message[1:]

    def _remedy(self) -> str | None:
        if self.kind != "extra_forbidden" or self.owner is None or self.meant:
            return None
        return f"keys: {listing(self.owner.model_fields)}"

    @property
    def _tag(self) -> str:
        return str(self.details["ctx"]["discriminator"]).strip("'")

    @property
    def _choices(self) -> list[str]:
        if isinstance(self.declared, type) and issubclass(self.declared, Enum):
            return [str(member.value) for member in self.declared]
        if get_origin(self.declared) is Literal:
            return [str(choice) for choice in get_args(self.declared)]
        return list(_variants(self.declared))

    def _choices_line(self, tag: str) -> str:
        return f"{tag}: {listing(self._choices)}"

    def _instead_of(self, given: Any) -> str:
        return did_you_mean(given, self._choices) if isinstance(given, str) else ""


def _is_model(declared: Any) -> bool:
    return isinstance(declared, type) and issubclass(declared, BaseModel)


def _bare(declared: Any) -> Any:
    """A type without `Annotated` and `| None`."""
    while True:
        if get_origin(declared) is Annotated:
            declared = get_args(declared)[0]
            continue
        members = [member for member in _members(declared) if member is not type(None)]
        if len(members) != 1:
            return declared
        declared = members[0]


def _members(declared: Any) -> tuple[Any, ...]:
    is_union = get_origin(declared) in (Union, types.UnionType)
    return get_args(declared) if is_union else ()


def _variants(declared: Any) -> dict[str, type[BaseModel]]:
    """The models of a tagged union, by tag: the one value of its one required Literal."""
    return {
        str(get_args(field.annotation)[0]): member
        for member in _members(declared)
        if _is_model(member)
        for field in member.model_fields.values()
        if field.is_required() and len(get_args(field.annotation)) == 1
        if get_origin(field.annotation) is Literal
    }


def _member(declared: Any, part: int | str) -> Any:
    """The type of a field, an item or a value."""
    if _is_model(declared):
        field = declared.model_fields.get(part)
        return field.annotation if field else None
    arguments = get_args(declared)
    return arguments[-1] if get_origin(declared) in (list, dict) else None


def _fields_of(declared: Any) -> set[str]:
    return {name for model in _variants(declared).values() for name in model.model_fields}

"""The playbook's JSON Schema, for editors and other tools.

python -m orchestrator.config.schema > playbooks/playbook.schema.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from orchestrator.models.playbook import Playbook

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE: Schema = {"$ref": "#/$defs/Reference"}
_DEFINITION: Schema = {
    "type": "string",
    "pattern": r"\$\{.*\}",
    "description": "refers to a variable: ${name}",
}
_ABOUT = ("title", "description", "default")


def playbook_schema() -> Schema:
    """The schema of a playbook as it is written: a variable may stand for any plain value."""
    schema = Playbook.model_json_schema()
    definitions = schema["$defs"]
    written = _written(schema, definitions)
    written["$defs"] = {**written["$defs"], "Reference": _DEFINITION}
    return {"$schema": _DIALECT, **written, "title": "orchestrate playbook"}


def render() -> str:
    """The schema as it is committed."""
    return json.dumps(playbook_schema(), indent=2, ensure_ascii=False) + "\n"


def _written(schema: Schema, definitions: Schema) -> Schema:
    """The schema with a reference to a variable admitted wherever a plain value is expected."""
    changed = dict(schema)
    for group in ("properties", "$defs"):
        if group in schema:
            is_value = group == "properties"
            changed[group] = {
                name: _value(part, definitions) if is_value else _written(part, definitions)
                for name, part in schema[group].items()
            }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            changed[key] = _value(schema[key], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            changed[key] = [_written(part, definitions) for part in schema[key]]
    return changed


def _value(schema: Schema, definitions: Schema) -> Schema:
    written = _written(schema, definitions)
    if not _wants_reference(schema, definitions):
        return written
    about = {key: written.pop(key) for key in _ABOUT if key in written}
    options = written["anyOf"] if set(written) == {"anyOf"} else [written]
    return {**about, "anyOf": [*options, _REFERENCE]}


def _wants_reference(schema: Schema, definitions: Schema) -> bool:
    """Whether a plain value is expected here that is not any text already."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _wants_reference(definitions[name], definitions)
    if "anyOf" in schema:
        options = schema["anyOf"]
        any_text = any(option == {"type": "string"} for option in options)
        return not any_text and any(_wants_reference(option, definitions) for option in options)
    if "const" in schema or "oneOf" in schema:
        return False
    kind = schema.get("type")
    if kind == "array":
        items = schema["items"]
        return "oneOf" not in items and _is_plain(items, definitions)
    if kind == "string":
        return any(key in schema for key in ("pattern", "enum", "minLength"))
    return kind in ("integer", "number", "boolean")


def _is_plain(schema: Schema, definitions: Schema) -> bool:
    if "$ref" in schema:
        return _is_plain(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    return schema.get("type") != "object"


if __name__ == "__main__":
    sys.stdout.write(render())

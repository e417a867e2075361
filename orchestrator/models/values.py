"""What stands in a playbook's fields: names, numbers, times and sizes, as people write them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,47}$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
Variables = dict[EnvName, Value]


def _word(value: Any) -> Any:
    """Numbers become text, lists `a,b,c`: what a command line wants from a variable."""
    if isinstance(value, bool):
        raise ValueError("quote true and false: a command line has only text")
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return value


def _seconds(value: Any) -> Any:
    """`90`, `90s`, `20m`, `2h` to seconds."""
    units = {"": 1, "s": 1, "m": 60, "h": 3600}
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,9}) *([smh]?)", value)
        if not match:
            raise ValueError(f"expected seconds or a time such as 90s, 20m or 2h, got {value!r}")
        return int(match[1]) * units[match[2]]
    return value


def _bytes(value: Any) -> Any:
    """`500MiB`, `1GiB`, or a number of bytes, to bytes."""
    units = {"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,15}) *([KMGT]iB|B|)", value)
        if not match:
            raise ValueError(f"expected a size such as 500MiB or 1GiB, got {value!r}")
        return int(match[1]) << units[match[2]]
    return value


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


# The JSON Schema of each says what a person may write, which is more than what it becomes.
Word = Annotated[
    str,
    BeforeValidator(_word),
    WithJsonSchema(
        {"type": ["string", "number", "array"], "items": {"type": ["string", "number"]}}
    ),
]
Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": "^[0-9]+ *[smh]?$"},
            ]
        }
    ),
]
Size = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": "^[0-9]+ *([KMGT]iB|B)?$"},
            ]
        }
    ),
]
Lengths = Annotated[
    list[Annotated[int, Field(gt=0)]],
    BeforeValidator(_many),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
                {"type": "integer", "minimum": 1},
            ]
        }
    ),
]
Environment = dict[EnvName, Word]

"""A YAML file as plain data, with the line and column of every key and value.

Only what a configuration needs is read: mappings with text keys, lists, text, numbers, true, false
and null. Other tags are refused, so that no file can construct anything. Dates stay text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchestrator.config.hints import shown
from orchestrator.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 50
MAX_REPORTED = 10

Location = tuple[str | int, ...]
"""Where in the data something is: `("phases", 1, "steps", 0, "command")`."""

_TAG = "tag:yaml.org,2002:"
_ESCAPE_HINT = 'inside [ ] and { } a variable needs quotes: "${name}"'
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]+")


class Span(NamedTuple):
    """Where in the text something stands, from `start` up to `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """A file as it was read."""

    file: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Document:
    """Plain data with the place of everything in it."""

    file: str
    text: str
    data: Any
    _keys: dict[Location, Span] = field(repr=False)
    _values: dict[Location, Span] = field(repr=False)

    def line(self, at: Location) -> int:
        """The line a value begins in, counted from 1."""
        return self.text.count("\n", 0, self._values[at].start) + 1

    def where(self, at: Location, *, key: bool = False, containing: str | None = None) -> str:
        """`file:line:column` of a value, of its key, or of a piece of text within the value.

        What is not in the file (a key that is missing, an item of a list that came out of a
        variable) is placed at the nearest thing around it.
        """
        while at and at not in self._values:
            at, key, containing = at[:-1], False, None
        span = self._keys.get(at, self._values[at]) if key else self._values[at]
        start = span.start
        if containing is not None:
            start = max(start, self.text.find(containing, span.start, span.end))
        return place(self.file, self.text, start)

    def error(
        self,
        at: Location,
        message: str,
        *,
        key: bool = False,
        containing: str | None = None,
        remedy: str | None = None,
    ) -> ConfigError:
        """The error to raise for something in this file; `at` is named in front of the message."""
        text = f"{dotted(at)}: {message}" if at else message
        where = self.where(at, key=key, containing=containing)
        return ConfigError(text, where=where, remedy=remedy)


def place(file: str, text: str, index: int) -> str:
    """`file:line:column` of a character, both counted from 1."""
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f"{file}:{line}:{column}"


def dotted(at: Location) -> str:
    """`phases[1].steps[0].command`."""
    path = ""
    for part in at:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{shown(part)}]"
    return path


def all_of(errors: Sequence[ConfigError]) -> ConfigError:
    """Several errors as one: a line each, in the order of the file, each once, at most ten."""
    distinct = {error.message: error for error in sorted(errors, key=_order)}
    first, *rest = distinct.values()
    lines = [error.message for error in distinct.values()][:MAX_REPORTED]
    if len(distinct) > MAX_REPORTED:
        lines.append(f"... and {len(distinct) - MAX_REPORTED} more")
    remedies = dict.fromkeys(error.remedy for error in (first, *rest) if error.remedy)
    message = "\n".join(lines).removeprefix(f"{first.where}: ")
    return ConfigError(message, where=first.where, remedy="\n  ".join(remedies) or None)


def _order(error: ConfigError) -> tuple[int, ...]:
    return tuple(int(part) for part in error.where.split(":")[-2:] if part.isdecimal())


def read_source(path: Path) -> Source:
    """The text of a UTF-8 file of at most 1 MiB."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=file) from None
    except IsADirectoryError:
        raise ConfigError("is a directory, not a file", where=file) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=file) from None
    except ValueError:  # a NUL in the path
        raise ConfigError("is not a file name", where=shown(file)) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES >> 20} MiB", where=file)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise ConfigError(
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            where=place(file, before, len(before)),
            remedy="save the file as UTF-8",
        ) from None
    # Line ends of any system count as one, and a byte order mark as nothing.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return Source(file, text, hashlib.sha256(content).hexdigest())


def parse_mapping(source: Source) -> Document:
    """The document of a file whose top is a mapping; anything else is an error."""
    document = parse(source.text, file=source.file)
    if document.data is None:
        raise ConfigError("the file is empty", where=place(source.file, "", 0))
    if not isinstance(document.data, dict):
        raise document.error((), f"expected keys and values, got {shown(document.data)}")
    return document


def parse(text: str, *, file: str, all_text: bool = False) -> Document:
    """The document in `text`; with `all_text`, numbers and the like stay as they are written."""
    yaml = YAML(typ="rt")
    yaml.max_depth = MAX_DEPTH + 1  # ruamel.yaml before 0.19 knows no limit but Python's own
    yaml.composer.warn_double_anchors = False  # an anchor may be set anew: it is YAML
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, file, text) from None
    except ReaderError as error:
        where = place(file, text, error.position)
        raise ConfigError("control characters are not allowed", where=where) from None
    except RecursionError:
        where = place(file, text, 0)
        raise ConfigError(f"nested deeper than {MAX_DEPTH}", where=where) from None
    except (YAMLError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        # The parser stumbles over some malformed directives, tags and escapes by accident.
        problem = str(error) or type(error).__name__
        raise ConfigError(f"not YAML: {problem}", where=place(file, text, 0)) from None
    reader = _Reader(file, text, all_text)
    data = None if node is None else reader.read(node, ())
    reader.values.setdefault((), Span(0, 0))
    return Document(file, text, data, reader.keys, reader.values)


def _syntax_error(error: MarkedYAMLError, file: str, text: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    index = min(mark.index, len(text)) if mark else 0
    problem = " ".join(str(error.problem or error.context or "not YAML").split())
    remedy = None
    if "'\\t'" in problem:
        remedy = "YAML is indented with spaces, never with tabs"
    elif text[max(index - 1, 0) : index + 1] == "${":
        remedy = _ESCAPE_HINT
    elif "maximum depth" in problem:
        problem = f"nested deeper than {MAX_DEPTH}"
    elif "another document" in problem:
        problem, remedy = "a second document begins here", "keep one document in a file"
    return ConfigError(problem, where=place(file, text, index), remedy=remedy)


@dataclass
class _Reader:
    """Turns nodes into plain data and notes where each was."""

    file: str
    text: str
    all_text: bool
    keys: dict[Location, Span] = field(default_factory=dict)
    values: dict[Location, Span] = field(default_factory=dict)
    open_nodes: list[Node] = field(default_factory=list)

    def read(self, node: Node, at: Location) -> Any:
        if any(node is outer for outer in self.open_nodes):
            raise self.refuse(node, "an alias refers to what it is in")
        if len(at) > MAX_DEPTH:
            raise self.refuse(node, f"nested deeper than {MAX_DEPTH}")
        if len(self.values) >= MAX_NODES:
            raise self.refuse(node, f"more than {MAX_NODES} values, aliases written out")
        self.values[at] = _span(node)
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        self.open_nodes.append(node)
        try:
            if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.read(item, (*at, number)) for number, item in enumerate(node.value)]
            if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
                return self.mapping(node, at)
        finally:
            self.open_nodes.pop()
        raise self.refuse(node, f"tag {shown(str(node.tag))} is not supported")

    def mapping(self, node: MappingNode, at: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise self.refuse(key, "a key must be text")
            if key.tag == f"{_TAG}merge":
                raise self.refuse(key, "merging with << is not supported: write the keys out")
            name = self.word(key)
            here = (*at, name)
            if name in data:
                line = self.text.count("\n", 0, self.keys[here].start) + 1
                raise self.refuse(key, f"key {shown(name)} is there twice; first in line {line}")
            self.keys[here] = _span(key)
            data[name] = self.read(value, here)
            if _is_empty(value):  # the parser finds nothing at the start of what comes next
                self.values[here] = self.keys[here]
        return data

    def scalar(self, node: ScalarNode) -> Any:
        written = self.word(node)
        tag = str(node.tag).removeprefix(_TAG)
        if self.all_text or tag in ("str", "timestamp", "merge", "value"):
            return written
        if tag == "null":
            return None
        digits = written.replace("_", "")
        try:
            if tag == "bool":
                return {"true": True, "false": False}[written.lower()]
            if tag == "int":
                return _integer(digits)
            if tag == "float" and math.isfinite(number := float(digits)):
                return number
        except (KeyError, ValueError):
            pass
        if tag in ("bool", "int", "float"):
            message = f"{shown(written)} is not {_SCALARS[tag]}"
            raise self.refuse(node, message, remedy=f"quote it if text is meant: '{written}'")
        raise self.refuse(node, f"tag {shown(str(node.tag))} is not supported")

    def word(self, node: ScalarNode) -> str:
        text = str(node.value)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self.refuse(node, "half of a surrogate pair is not text")
        if "\0" in text:
            raise self.refuse(node, "a NUL is not text")
        return text

    def refuse(self, node: Node, message: str, *, remedy: str | None = None) -> ConfigError:
        where = place(self.file, self.text, _span(node).start)
        return ConfigError(message, where=where, remedy=remedy)


_SCALARS = {"bool": "true or false", "int": "a whole number", "float": "a finite number"}


def _integer(written: str) -> int:
    sign, digits = (-1, written[1:]) if written[:1] == "-" else (1, written.removeprefix("+"))
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 10)
    return sign * int(digits if base == 10 else digits[2:], base)


def _is_empty(node: Node) -> bool:
    span = _span(node)
    return span.start == span.end


def _span(node: Node) -> Span:
    start, end = node.start_mark, node.end_mark
    return Span(start.index, end.index if end else start.index)

"""Changing one whole number of a YAML file, and nothing else of it, to the byte.

The parser only says where the number stands. Dumping what was parsed would keep comments, but not
line ends, indentation, quotes or spaces at the ends of lines.
"""

from __future__ import annotations

import difflib
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from orchestrator.config.document import MAX_BYTES, place
from orchestrator.config.hints import did_you_mean, shown
from orchestrator.errors import ConfigError
from orchestrator.store.files import atomic_write

# What every YAML reader takes for the same number: 010 is ten to some and eight to others.
_INTEGER = r"[-+]?(?:0|[1-9](?:_?[0-9]){0,17}|0x[0-9a-fA-F]{1,15})"
_WRITTEN = re.compile(rf"(?P<quote>[\"']?)(?P<number>{_INTEGER})(?P=quote)")
_BOM = "\ufeff"


@dataclass(frozen=True)
class Edit:
    """A change of one number. `diff` is a unified diff that git can apply; empty for no change."""

    key: str
    before: int
    after: int
    diff: str

    @property
    def changed(self) -> bool:
        """Whether the file has to be written at all."""
        return self.before != self.after


class _Number(NamedTuple):
    """A number, and the characters it is written with, quotes left out."""

    value: int
    start: int
    end: int


def read_value(path: Path, key: str) -> int:
    """The whole number at a dotted key, such as `runtime.sel_triton_min_L`.

    Raises:
        ConfigError: as for `set_value`.
    """
    _, text = _read(path)
    return _Yaml(str(path), text).find(key).value


def propose(path: Path, key: str, value: int, *, name: str | None = None) -> Edit:
    """The edit that `set_value` would make; writes nothing.

    Args:
        path: the YAML file.
        key: dotted, each part a key of a mapping.
        value: the new number.
        name: what the diff calls the file; its own name unless given.

    Raises:
        ConfigError: as for `set_value`.
    """
    edit, _ = _edit(path, key, value, name)
    return edit


def set_value(path: Path, key: str, value: int, *, name: str | None = None) -> Edit:
    """Set the number at a dotted key. Every other byte of the file stays; so does its mode.

    A quoted number stays quoted. An equal value writes nothing.

    Raises:
        ConfigError: no such file or key, not a whole number, a key that is there twice, an anchor
            or alias on the way to it (the edit would reach further than it shows), or not YAML.
    """
    edit, text = _edit(path, key, value, name)
    if edit.changed:
        target = path.resolve()  # a link stays a link
        atomic_write(target, text.encode("utf-8"), mode=stat.S_IMODE(target.stat().st_mode))
    return edit


def _edit(path: Path, key: str, value: int, name: str | None) -> tuple[Edit, str]:
    """The edit, and the text with it made."""
    mark, text = _read(path)
    number = _Yaml(str(path), text).find(key)
    if number.value == value:
        return Edit(key, value, value, ""), mark + text
    edited = f"{text[: number.start]}{value}{text[number.end :]}"
    diff = _diff(mark + text, mark + edited, name or path.name)
    return Edit(key, number.value, value, diff), mark + edited


def _read(path: Path) -> tuple[str, str]:
    """The byte order mark, if there is one, and the text with its own line ends."""
    file = str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=file) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=file) from None
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
    return (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)


@dataclass(frozen=True)
class _Yaml:
    """A YAML text, searched without being turned into data: other keys may hold anything."""

    file: str
    text: str

    def find(self, key: str) -> _Number:
        parts = key.split(".")
        add = f"add it by hand and commit that: {_as_yaml(parts)}"
        node = self._compose()
        if node is None:
            raise self._refuse(0, f"there is no {key}: the file is empty", add)
        index = self._own(node, node.start_mark.index, "the document")
        for depth, part in enumerate(parts):
            here = ".".join(parts[: depth + 1])
            if not isinstance(node, MappingNode):
                above = ".".join(parts[:depth]) or "the document"
                raise self._refuse(index, f"there is no {here}: {above} has no keys", add)
            found = [(name, value) for name, value in node.value if _is_key(name, part)]
            if not found:
                known = [str(name.value) for name, _ in node.value if isinstance(name, ScalarNode)]
                hint = did_you_mean(part, known)
                raise self._refuse(index, f"there is no {here}{hint}", add)
            if len(found) > 1:
                again = found[1][0].start_mark.index
                first = found[0][0].start_mark.line + 1
                raise self._refuse(
                    again,
                    f"{here} is there twice; first in line {first}",
                    "keep one of them: readers disagree on which one counts",
                )
            name, node = found[0]
            index = self._own(node, name.start_mark.index, here)
        return self._number(node, index, key)

    def _number(self, node: Node, index: int, key: str) -> _Number:
        start, end = node.start_mark.index, node.end_mark.index
        written = self.text[start:end]
        match = _WRITTEN.fullmatch(written)
        if match is None or not isinstance(node, ScalarNode):
            what = f": {shown(written)}" if isinstance(node, ScalarNode) and written else ""
            raise self._refuse(
                index,
                f"{key} is not a whole number{what}",
                "write it in plain digits, without a tag, and commit that",
            )
        number = match["number"]
        return _Number(int(number, 0), start + match.start("number"), start + match.end("number"))

    def _own(self, node: Node, index: int, name: str) -> int:
        """`index`, if no other place in the file shares this node."""
        if node.anchor is not None:
            raise self._refuse(
                index,
                f"{name} has the anchor or alias {shown(str(node.anchor))}, so that an edit would "
                "change more than one value",
                "write the value out, without & and *, and commit that",
            )
        return index

    def _compose(self) -> Node | None:
        yaml = YAML(typ="rt")
        yaml.composer.warn_double_anchors = False  # an anchor may be set anew: it is YAML
        try:
            node: Node | None = yaml.compose(self.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(str(error.problem or error.context or "not YAML").split())
            remedy = "correct the file and commit that"
            if "another document" in problem:
                problem, remedy = "a second document begins here", "keep one document in the file"
            raise self._refuse(mark.index if mark else 0, problem, remedy) from None
        except RecursionError:
            raise self._refuse(0, "nested too deeply") from None
        except (
            YAMLError, ValueError, IndexError, KeyError, AttributeError, AssertionError,
        ) as error:  # fmt: skip
            # The parser stumbles over some malformed directives, tags and escapes by accident.
            raise self._refuse(0, f"not YAML: {error or type(error).__name__}") from None
        return node

    def _refuse(self, index: int, message: str, remedy: str | None = None) -> ConfigError:
        where = place(self.file, self.text, min(index, len(self.text)))
        return ConfigError(message, where=where, remedy=remedy)


def _is_key(node: Node, part: str) -> bool:
    return isinstance(node, ScalarNode) and str(node.value) == part


def _as_yaml(parts: list[str]) -> str:
    """The key on one line: `runtime: {sel_triton_min_L: 2048}`."""
    nested = "2048"
    for number, part in enumerate(reversed(parts)):
        nested = f"{part}: {{{nested}}}" if number else f"{part}: {nested}"
    return nested


def _diff(before: str, after: str, name: str) -> str:
    # Split at \n alone, as git does: a carriage return belongs to its line.
    old, new = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (before, after))
    lines = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )

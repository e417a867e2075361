"""A TOML file as plain data, with the line and column of every key and value.

The standard parser decides what is TOML; it keeps no positions, so a scan of the text that it has
accepted notes them.
"""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass, field

from orchestrator.config.document import Document, Location, Source, Span, dotted, place
from orchestrator.config.hints import shown
from orchestrator.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_SEPARATOR = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_HEADER = re.compile(r"\[{1,2}[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_TWICE = ("Cannot ", "Duplicate ")
_UNQUOTED = re.compile(r"[A-Za-z~/]")


def parse_toml(source: Source) -> Document:
    """The document of a TOML file.

    Raises:
        ConfigError: not TOML, or a key that is there twice; names line and column.
    """
    scan = _Scan(source.file, source.text)
    try:
        data = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), scan) from None
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else "a number is too long"
        raise ConfigError(why, where=place(source.file, "", 0)) from None
    with contextlib.suppress(_UnknownError, RecursionError):
        scan.document()
    return Document(source.file, source.text, data, scan.keys, scan.values)


def _syntax_error(message: str, scan: _Scan) -> ConfigError:
    if message.startswith(_TWICE):
        with contextlib.suppress(_UnknownError, RecursionError):
            scan.document()  # raises at what is there twice, where it can tell
    match = _AT.search(message)
    problem = message[: match.start()] if match else message
    problem = problem[:1].lower() + problem[1:]
    if match is None or match["line"] is None:
        return ConfigError(problem, where=place(scan.file, scan.text, len(scan.text)))
    line, column = int(match["line"]), int(match["column"])
    remedy = None
    written = scan.text.split("\n")[line - 1][column - 1 :]
    if problem == "invalid value" and _UNQUOTED.match(written):
        word = _SCALAR.match(written)
        text = word[0].strip() if word else ""
        remedy = f'text needs quotes: "{text}"' if len(text) <= 60 else "text needs quotes"
    return ConfigError(problem, where=f"{scan.file}:{line}:{column}", remedy=remedy)


class _UnknownError(Exception):
    """The scan does not know what stands here, so that it is not TOML."""


@dataclass
class _Scan:
    """Walks over the text and notes where keys and values are."""

    file: str
    text: str
    keys: dict[Location, Span] = field(default_factory=dict)
    values: dict[Location, Span] = field(default_factory=lambda: {(): Span(0, 0)})
    _defined: set[Location] = field(default_factory=set)
    _items: dict[Location, int] = field(default_factory=dict)
    _position: int = 0

    def document(self) -> None:
        """Everything up to the end."""
        table: Location = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self._position] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Location:
        is_item = self._take(_HEADER).startswith("[[")
        at: Location = ()
        *outer, last = self._dotted_key()
        for name, span in outer:
            at = self._latest(self._note((*at, name), span))
        at = (*at, last[0])
        if is_item:
            number = self._items[at] = self._items.get(at, -1) + 1
            self._note(at, last[1])
            at = self._note((*at, number), last[1])
        else:
            self._define(at, last[1])
        self._skip(re.compile(r"[ \t]*\]{1,2}"))
        return at

    def _latest(self, at: Location) -> Location:
        """The newest item, where `at` is a list of tables."""
        return (*at, self._items[at]) if at in self._items else at

    def _pair(self, table: Location) -> None:
        at = table
        *outer, last = self._dotted_key()
        for name, span in outer:
            at = self._note((*at, name), span)
        at = (*at, last[0])
        self._define(at, last[1])
        self._take(_EQUALS)
        self._value(at)

    def _dotted_key(self) -> list[tuple[str, Span]]:
        parts: list[tuple[str, Span]] = []
        while True:
            start = self._position
            written = self._take(_KEY)
            name = tomllib.loads(f"k={written}")["k"] if written[0] in "\"'" else written
            parts.append((name, Span(start, self._position)))
            if not _DOT.match(self.text, self._position):
                return parts
            self._take(_DOT)

    def _value(self, at: Location) -> None:
        start = self._position
        first = self.text[start : start + 1]
        if first in ("[", "{"):
            self._position += 1
            number = 0
            while not self.text.startswith(("]", "}"), self._skip(_SEPARATOR)):
                if first == "{":
                    self._pair(at)
                else:
                    self._value((*at, number))
                    number += 1
            self._position += 1
        elif first in ('"', "'"):
            self._take(_STRING)
        else:
            self._take(_SCALAR)
        self.values[at] = Span(start, self._position)

    def _note(self, at: Location, span: Span) -> Location:
        self.keys.setdefault(at, span)
        self.values.setdefault(at, span)
        return at

    def _define(self, at: Location, span: Span) -> None:
        if at in self._defined:
            line = self.text.count("\n", 0, self.keys[at].start) + 1
            raise ConfigError(
                f"{dotted(at[:-1])}{': ' if at[:-1] else ''}{shown(at[-1])} is there twice; "
                f"first in line {line}",
                where=place(self.file, self.text, span.start),
            )
        self._defined.add(at)
        self.keys[at] = self.values[at] = span

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self._position)
        self._position = match.end() if match else self._position
        return self._position

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self._position)
        if match is None or match.end() == self._position:
            raise _UnknownError
        self._position = match.end()
        return match[0]

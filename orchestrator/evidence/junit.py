"""JUnit XML, as pytest writes it, from a machine that is not trusted.

Expat is driven directly so that a document type, and with it every entity and external
reference, is refused the moment it is announced: nothing is ever expanded or fetched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn
from xml.parsers import expat

from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import refuse_other_kinds

MAX_BYTES = 16 * 2**20
MAX_TESTS = 100_000
MAX_DEPTH = 32
MAX_MESSAGE = 2_000
"""Characters kept of what a failing or skipped test says."""


class TestOutcome(str, Enum):
    """What became of one test."""

    __test__ = False  # not a pytest class

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


_BY_ELEMENT = {
    "failure": TestOutcome.FAILED,
    "error": TestOutcome.ERROR,
    "skipped": TestOutcome.SKIPPED,
}
# A test that failed and then broke in its teardown is an error; one that was skipped in between
# did not pass.
_SEVERITY = (
    TestOutcome.PASSED,
    TestOutcome.SKIPPED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
)


@dataclass(frozen=True)
class TestCase:
    """One test, with the properties it recorded."""

    __test__ = False  # not a pytest class

    name: str
    classname: str
    outcome: TestOutcome
    message: str = ""
    """First words of a failure, error or skip."""
    seconds: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.classname}::{self.name}" if self.classname else self.name


@dataclass(frozen=True)
class Suite:
    """All tests of one file."""

    tests: tuple[TestCase, ...]

    def having(self, *outcomes: TestOutcome) -> tuple[TestCase, ...]:
        """Tests with one of these outcomes, in order."""
        return tuple(test for test in self.tests if test.outcome in outcomes)

    def count(self, outcome: TestOutcome) -> int:
        """How many tests had this outcome."""
        return len(self.having(outcome))


def parse_junit(data: bytes, name: str = "JUnit file") -> Suite:
    """Read a JUnit file.

    Raises:
        EvidenceError: another kind of file, not XML, not JUnit, a document type or entity, too
            large, a time that is no number, or one property recorded twice with different values.
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(
            f"{len(data)} bytes, more than the {MAX_BYTES} that are read", file=name
        )
    refuse_other_kinds(data, name)
    return _Reader(name).read(data)


@dataclass
class _Open:
    """A `<testcase>` whose end has not been seen."""

    name: str
    classname: str
    seconds: float | None
    outcome: TestOutcome = TestOutcome.PASSED
    message: str = ""
    properties: dict[str, str] = field(default_factory=dict)

    def close(self) -> TestCase:
        return TestCase(
            name=self.name,
            classname=self.classname,
            outcome=self.outcome,
            message=self.message.strip(),
            seconds=self.seconds,
            properties=self.properties,
        )


class _Reader:
    """Expat handlers that collect test cases."""

    def __init__(self, name: str) -> None:
        self._file = name
        self._tests: list[TestCase] = []
        self._open: _Open | None = None
        self._stack: list[str] = []
        self._says: TestOutcome | None = None  # inside the element that decides the outcome
        # The encoding is fixed: a declared one would be looked up among Python's codecs.
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.ExternalEntityRefHandler = self._refuse

    def read(self, data: bytes) -> Suite:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            raise EvidenceError(
                f"not XML: {expat.errors.messages.get(error.code, 'malformed')}",
                file=self._file,
                line=error.lineno,
            ) from None
        return Suite(tuple(self._tests))

    def _bad(self, problem: str) -> NoReturn:
        raise EvidenceError(problem, file=self._file, line=self._parser.CurrentLineNumber)

    def _refuse(self, *_: object) -> NoReturn:
        self._bad("a document type or entity, which no test report needs; refused")

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        if not self._stack and element not in ("testsuites", "testsuite"):
            self._bad(f"the root is <{element[:40]}>, not <testsuites>: not a JUnit file")
        if len(self._stack) >= MAX_DEPTH:
            self._bad(f"elements are nested deeper than {MAX_DEPTH}")
        self._stack.append(element)
        if element == "testcase":
            self._start_test(attributes)
        elif self._open is None:
            return
        elif element == "property":
            self._property(self._open, attributes)
        elif element in _BY_ELEMENT and self._stack[-2] == "testcase":
            self._outcome(self._open, _BY_ELEMENT[element], attributes.get("message", ""))

    def _start_test(self, attributes: dict[str, str]) -> None:
        if self._open is not None:
            self._bad("a test case within a test case")
        if len(self._tests) >= MAX_TESTS:
            self._bad(f"more than {MAX_TESTS} test cases")
        if not attributes.get("name"):
            self._bad("a test case without a name")
        self._open = _Open(
            name=attributes["name"],
            classname=attributes.get("classname", ""),
            seconds=self._seconds(attributes.get("time")),
        )

    def _seconds(self, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            self._bad(f"time={text[:40]!r} is not a duration")
        return value

    def _property(self, test: _Open, attributes: dict[str, str]) -> None:
        name, value = attributes.get("name"), attributes.get("value", "")
        if not name:
            self._bad(f"test {test.name[:80]}: a property without a name")
        # The last of two values could be the smaller error of the two.
        if test.properties.setdefault(name, value) != value:
            self._bad(f"test {test.name[:80]} records property {name[:40]} twice, differently")

    def _outcome(self, test: _Open, outcome: TestOutcome, message: str) -> None:
        if _SEVERITY.index(outcome) > _SEVERITY.index(test.outcome):
            test.outcome, test.message = outcome, message[:MAX_MESSAGE]
            self._says = outcome if not message else None

    def _text(self, text: str) -> None:
        if self._open is not None and self._says is not None:
            room = MAX_MESSAGE - len(self._open.message)
            self._open.message += text[:room]

    def _end(self, element: str) -> None:
        self._stack.pop()
        if element in _BY_ELEMENT:
            self._says = None
        elif element == "testcase" and self._open is not None:
            self._tests.append(self._open.close())
            self._open = None

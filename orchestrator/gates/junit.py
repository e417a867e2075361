"""Tests, counted: what was skipped or never collected shows nothing."""

from __future__ import annotations

from collections import Counter

from pydantic import JsonValue

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.junit import Suite, TestOutcome, parse_junit
from orchestrator.gates.findings import Finding, conclude, counted, invalid, listed, malformed
from orchestrator.models.playbook import TestsGate
from orchestrator.models.verdict import GateResult, Reason, Verdict


def tests_gate(gate: TestsGate, data: bytes) -> GateResult:
    """Judge a JUnit file by its counts."""
    return _judged(gate, data, most=False)


def most_tests_gate(file: str, data: bytes) -> GateResult:
    """Judge one of which nobody declared how many tests must pass: no fewer than were skipped."""
    return _judged(TestsGate(gate="tests", file=file), data, most=True)


def _judged(gate: TestsGate, data: bytes, *, most: bool) -> GateResult:
    name = f"tests {gate.file}"
    try:
        suite = parse_junit(data, gate.file)
    except EvidenceError as error:
        return malformed(name, error)
    measured: dict[str, JsonValue] = {
        outcome.value: suite.count(outcome) for outcome in TestOutcome
    }
    passed = suite.count(TestOutcome.PASSED)
    skipped = suite.count(TestOutcome.SKIPPED)
    also = f", {skipped} skipped" if skipped else ""
    return conclude(
        name,
        _findings(suite, gate.min_passed, most=most),
        {**measured, "min_passed": gate.min_passed},
        f"{counted(passed, 'test')} passed, none failed{also}.",
    )


def _findings(suite: Suite, min_passed: int, *, most: bool) -> list[Finding]:
    bad = suite.having(TestOutcome.FAILED, TestOutcome.ERROR)
    if bad:
        first = f" The first says: {_brief(bad[0].message)}." if bad[0].message else ""
        return [
            Finding(
                Verdict.FAIL,
                Reason.TESTS_FAILED,
                f"{len(bad)} of {counted(len(suite.tests), 'test')} failed: "
                f"{listed(test.name for test in bad)}.{first}",
                "Fix the first failing test; the step's log has its traceback.",
            )
        ]
    if not suite.tests:
        return [
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.NO_EVIDENCE,
                "No test was collected, so nothing was tested.",
                "Check the -k expression and the path given to pytest.",
            )
        ]
    if twice := _passed_twice(suite):
        return [
            invalid(
                f"In the file more than once, and passed: {listed(twice)}. One run of pytest "
                "writes a test once: two runs were put into one file.",
                "Write each run of the tests to a file of its own.",
            )
        ]
    passed, skipped = suite.count(TestOutcome.PASSED), suite.having(TestOutcome.SKIPPED)
    if not passed:
        why = f" ({_brief(skipped[0].message)})" if skipped[0].message else ""
        return [
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.TOO_FEW_TESTS,
                f"All {counted(len(skipped), 'test')} were skipped{why}: skipped is not passed.",
                "Remove the cause of the skip; the GPU parity tests need NSA_TEST_TRITON_SEL=1.",
            )
        ]
    if passed < min_passed:
        return [
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.TOO_FEW_TESTS,
                f"{counted(passed, 'test')} passed, the gate needs {min_passed} "
                f"({len(skipped)} skipped).",
                "Find out why tests were skipped or not collected, or correct min_passed.",
            )
        ]
    if most and passed < len(skipped):
        why = f" ({_brief(skipped[0].message)})" if skipped[0].message else ""
        return [
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.TOO_FEW_TESTS,
                f"{counted(passed, 'test')} passed and {len(skipped)} were skipped{why}: those "
                "that ran do not stand for the rest.",
                "Remove the cause of the skip; the GPU parity tests need NSA_TEST_TRITON_SEL=1.",
            )
        ]
    return []


def _passed_twice(suite: Suite) -> list[str]:
    """Tests that passed and are there again; pytest repeats those that fail and then break."""
    often = Counter(map(str, suite.tests))
    passed = {str(test) for test in suite.having(TestOutcome.PASSED)}
    return [test for test, times in often.items() if times > 1 and test in passed]


def _brief(message: str, limit: int = 160) -> str:
    line = " ".join(message.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"

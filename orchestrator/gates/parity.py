"""Parity: the errors that tests recorded, and proof of which kernel they were measured on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.junit import TestCase, TestOutcome, parse_junit
from orchestrator.evidence.text import NOT_FINITE, NUMBER
from orchestrator.gates.errors import AS_GOOD_AS_ZERO, MAX_ERR
from orchestrator.gates.findings import Finding, conclude, counted, listed, malformed
from orchestrator.gates.reference import kernel_forms
from orchestrator.models.playbook import ParityGate
from orchestrator.models.verdict import GateResult, Reason, Verdict

PROPERTIES = ("mae", "max_err", "kernel_path", "device")

_ROUNDING = 1.01
"""Recorded numbers are rounded; a mean may exceed its maximum by this factor, no more."""
_BY_CHANCE = 2
"""Tests that may well have recorded the same few digits."""


@dataclass(frozen=True)
class _Measured:
    """What one test recorded."""

    test: TestCase
    mae: float
    max_err: float
    kernel_path: str
    device: str


def parity_gate(gate: ParityGate, data: bytes) -> GateResult:
    """Judge the errors recorded in a JUnit file."""
    name = f"parity {gate.file}"
    try:
        suite = parse_junit(data, gate.file)
    except EvidenceError as error:
        return malformed(name, error)
    passed = suite.having(TestOutcome.PASSED)
    # A failing test is the tests gate's business; an error that it recorded is ours all the same.
    failed = [
        test
        for test in suite.having(TestOutcome.FAILED)
        if not set(PROPERTIES) - set(test.properties)
    ]
    findings: list[Finding] = []
    if not passed:
        findings.append(_nothing(len(suite.tests)))
    measured = _read((*passed, *failed), findings)
    findings += _errors(measured, gate.max_mae)
    findings += _paths(measured, gate.paths)
    finite = [case.mae for case in measured if math.isfinite(case.mae)]
    worst = max(finite, default=None)
    paths = sorted({case.kernel_path for case in measured})
    devices = sorted({case.device for case in measured})
    return conclude(
        name,
        findings,
        {
            "tests": len(measured),
            "max_mae": worst,
            "limit": gate.max_mae,
            "paths": list(paths),
            "devices": list(devices),
            "recorded": {
                device: [*sorted({c.kernel_path for c in measured if c.device == device})]
                for device in devices
            },
        },
        f"{counted(len(measured), 'test')} within {gate.max_mae:g}: max MAE {worst or 0:.1e}, "
        f"{listed(paths)} on {listed(devices)}.",
    )


def _nothing(tests: int) -> Finding:
    return Finding(
        Verdict.NOT_VERIFIED,
        Reason.NO_EVIDENCE,
        f"None of {counted(tests, 'test')} passed, so no parity was measured."
        if tests
        else "No test was collected, so no parity was measured.",
        "Make the parity tests run: see the tests gate of the same file.",
    )


def _read(tests: Iterable[TestCase], findings: list[Finding]) -> list[_Measured]:
    measured = []
    for test in tests:
        lacking = [name for name in PROPERTIES if not test.properties.get(name, "").strip()]
        if lacking:
            findings.append(
                Finding(
                    Verdict.NOT_VERIFIED,
                    Reason.NO_EVIDENCE,
                    f"Test {test.name} passed without recording {listed(lacking, 4)}.",
                    "Record the properties in the test (record_property) and run it again.",
                )
            )
            continue
        try:
            mae, max_err = (_number(test.properties[name]) for name in ("mae", "max_err"))
        except ValueError:
            findings.append(
                Finding(
                    Verdict.INVALID,
                    Reason.MALFORMED,
                    f"Test {test.name} recorded mae={test.properties['mae'][:40]!r} and "
                    f"max_err={test.properties['max_err'][:40]!r}, which are not both numbers.",
                    "Correct what the test records.",
                )
            )
            continue
        path, device = test.properties["kernel_path"].strip(), test.properties["device"].strip()
        measured.append(_Measured(test, mae, max_err, path, device))
    return measured


def _number(text: str) -> float:
    """As a bench CSV's; NaN and infinity too, which have a finding of their own."""
    text = text.strip()
    if not NUMBER.fullmatch(text) and not NOT_FINITE.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _errors(measured: Sequence[_Measured], limit: float) -> list[Finding]:
    findings = []
    sane: list[_Measured] = []
    infinite: list[_Measured] = []
    for case in measured:
        finite = math.isfinite(case.mae) and math.isfinite(case.max_err)
        (sane if finite else infinite).append(case)
    if infinite:
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.ERROR_TOO_LARGE,
                f"{counted(len(infinite), 'test')} recorded NaN or infinity as the error: "
                f"{listed(case.test.name for case in infinite)}.",
                "Look for NaN in the kernel's output or in the reference: masked rows first.",
            )
        )
    findings += [
        Finding(
            Verdict.INVALID,
            Reason.MALFORMED,
            f"Test {case.test.name} recorded mae={case.mae:g} and max_err={case.max_err:g}: a mean "
            "of absolute errors lies between 0 and the largest.",
            "Correct how the test computes its errors.",
        )
        for case in sane
        if case.mae < 0 or case.mae > case.max_err * _ROUNDING
    ]
    findings += _constant(sane)
    large = sorted((c for c in sane if c.mae > limit), key=lambda case: -case.mae)
    if large:
        named = listed(f"{case.test.name} ({case.mae:.1e})" for case in large)
        findings.append(
            Finding(
                Verdict.FAIL,
                Reason.ERROR_TOO_LARGE,
                f"{counted(len(large), 'test')} with a mean error above {limit:g}: {named}.",
                "Check the kernel's softmax (fp32 log-sum-exp, scale) at the first failing shape.",
            )
        )
    far = sorted(
        (c for c in sane if c.mae <= limit and c.max_err > MAX_ERR), key=lambda c: -c.max_err
    )
    if far:
        named = listed(f"{case.test.name} ({case.max_err:.1e})" for case in far)
        findings.append(
            Finding(
                Verdict.FAIL,
                Reason.ERROR_TOO_LARGE,
                f"{counted(len(far), 'test')} with a largest error above {MAX_ERR:g}: {named}.",
                "Look for one key too many or too few: tile borders first (63, 64, 65, 127, 129).",
            )
        )
    return findings


def _constant(sane: Sequence[_Measured]) -> list[Finding]:
    """Errors that nobody measured: all zero, or all the same."""
    errors = {case.mae for case in sane}
    if errors and 0 <= max(errors) < AS_GOOD_AS_ZERO:
        what = "exactly zero, or as good as"
        why = "the kernel was compared with itself, or with nothing"
    elif len(errors) == 1 and len(sane) > _BY_CHANCE:
        what = f"the same number, mae={sane[0].mae:g}"
        why = "a constant, not a measurement"
    else:
        return []
    return [
        Finding(
            Verdict.INVALID,
            Reason.MALFORMED,
            f"The errors recorded by {counted(len(sane), 'test')} are {what}: {why}.",
            "Compare each test's own output with an oracle that is computed on its own.",
        )
    ]


def _paths(measured: Sequence[_Measured], declared: Iterable[str]) -> list[Finding]:
    findings = []
    fallbacks = [case for case in measured if not kernel_forms(case.kernel_path)]
    if fallbacks:
        named = listed(f"{case.test.name} ({case.kernel_path[:40]})" for case in fallbacks)
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.FALLBACK_RAN,
                f"{counted(len(fallbacks), 'test')} compared a fallback with the reference, not a "
                f"Triton kernel: {named}.",
                "Set NSA_USE_TRITON_SEL=1 and a threshold below the tested lengths, and read why "
                "dispatch fell back.",
            )
        )
    ran = {case.kernel_path for case in measured}
    absent = [path for path in declared if not any(name.startswith(path) for name in ran)]
    if absent and measured:
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.FALLBACK_RAN,
                f"No test ran {listed(absent, 5)}; what ran is {listed(sorted(ran), 5)}.",
                "Check the flags of the command (NSA_SEL_TRITON_GROUP, NSA_SEL_TRITON_FORCE_PATH).",
            )
        )
    return findings

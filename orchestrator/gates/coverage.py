"""Whether parity was shown of the very kernels that were timed, on the card they were timed on.

A test in the interpreter, or of the dense kernel, says nothing about the one that reads ranges on a
GPU: that one decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kernels.bench.contract import CPU_INTERPRETER, TRITON_PREFIX
from orchestrator.evidence.cards import same_card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, conclude, counted, listed, unverified
from orchestrator.gates.reference import kernel_forms
from orchestrator.models.verdict import GateResult, Reason

GATE = "completeness kernels"
_SHOWN = 6
_LAUNCHED = ("kernel", "kernel_launched", "operator_launched")
_STAGE = re.compile(r"_(rows|fwd|split|combine)")
"""Parts of the name of a launch that the name of a path has not."""


def coverage_gate(rows: Sequence[Row], gates: Sequence[GateResult]) -> GateResult:
    """Judge the parity gates among `gates` by the rows they are to stand for."""
    timed = _timed(rows)
    findings = list(coverage_findings(rows, gates))
    forms = sorted(set().union(*timed.values()))
    return conclude(
        GATE,
        findings,
        {"timed": {device: [*sorted(of)] for device, of in timed.items()}},
        f"Parity was shown of {counted(len(forms), 'kernel form')} that were timed "
        f"({listed(forms, _SHOWN)}), on {listed(timed)}."
        if forms
        else "The rows name no kernel that parity would have to be shown of.",
    )


def coverage_findings(rows: Sequence[Row], gates: Sequence[GateResult]) -> Iterator[Finding]:
    """Cards and kernel forms of `rows` of which no parity gate of `gates` has a test.

    Nothing where there is no parity gate: whoever demands one says so himself.
    """
    shown = _shown(gates)
    if shown is None:
        return
    for device, forms in _timed(rows).items():
        tested = [of for name, of in shown.items() if same_card(name, device)]
        there = set().union(*tested)
        if not tested:
            yield unverified(
                f"Parity was shown on {listed(sorted(shown)) or 'no device'}, the times are from "
                f"{device}.",
                _remedy(device),
                Reason.WRONG_GPU,
            )
        elif lacking := sorted(form for form in forms if not _is_among(form, there)):
            yield unverified(
                f"Parity was not shown on {device} for {listed(lacking, _SHOWN)}, which the rows "
                "say ran; the tests ran "
                f"{listed(sorted(there), _SHOWN) or 'no Triton kernel'} there.",
                _remedy(device),
            )


def _remedy(device: str) -> str:
    return (
        f"Run the parity tests of all kernels on {device}, with NSA_TEST_TRITON_SEL=1, and name "
        "all their JUnit files."
    )


def _timed(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Forms that ran on each card, by what the rows say."""
    found: dict[str, set[str]] = {}
    for ran, device, *names in sorted(Rows.of(rows).said("ok", "device", *_LAUNCHED), key=str):
        if ran and device and device != CPU_INTERPRETER:
            found.setdefault(device, set()).update(*(_forms(name) for name in names if name))
    return found


def _shown(gates: Sequence[GateResult]) -> dict[str, set[str]] | None:
    """Forms that tests ran on each device; None where no gate says what tests recorded."""
    recorded = [
        said
        for gate in gates
        if gate.gate.startswith("parity ")
        and isinstance(said := gate.measured.get("recorded"), Mapping)
    ]
    if not recorded:
        return None
    found: dict[str, set[str]] = {}
    for said in recorded:
        for device, paths in said.items():
            names = paths if isinstance(paths, list) else []
            found.setdefault(device, set()).update(*(_forms(str(name)) for name in names))
    return found


def _forms(name: str) -> set[str]:
    """Paths that a record is one of; none of a name that is no kernel's.

    `triton.ranges_split.group+ranges_combine.group` is one of `triton.ranges.group`.
    """
    if not kernel_forms(name):
        return set()
    parts = name.removeprefix(TRITON_PREFIX).split("+")
    return {TRITON_PREFIX + _STAGE.sub("", part).replace("_", ".") for part in parts}


def _is_among(form: str, shown: set[str]) -> bool:
    """Whether a form was shown; one that does not say group or head is shown by either."""
    return any(path == form or path.startswith(f"{form}.") for path in shown)

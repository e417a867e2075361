"""Cells that did not run: those that died, and those that nobody came to."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.evidence.foreign import Row
from orchestrator.gates.findings import Finding, counted, listed
from orchestrator.gates.timed import cell_name
from orchestrator.models.verdict import Reason, Verdict

_NOT_REACHED = "error: not measured: "
"""What the benchmark begins the status of a cell with that its budget did not reach."""


def status_findings(broken: Sequence[tuple[Row, str]]) -> list[Finding]:
    """What became of the cells that did not run, each with its status."""
    unreached = [(cell, status) for cell, status in broken if status.startswith(_NOT_REACHED)]
    died = [(cell, status) for cell, status in broken if not status.startswith(_NOT_REACHED)]
    findings = []
    if died:
        findings.append(
            Finding(
                Verdict.FAIL,
                Reason.JOB_FAILED,
                f"{counted(len(died), 'cell')} did not run: {_named(died)}.",
                "Reproduce the smallest of them; a compiler error names the kernel and the shape.",
            )
        )
    if unreached:
        findings.append(
            Finding(
                Verdict.NOT_VERIFIED,
                Reason.INCOMPLETE,
                f"{counted(len(unreached), 'cell')} not measured: {_named(unreached)}.",
                "Raise --budget and measure again, or go on with --resume where the file has no "
                "end mark.",
            )
        )
    return findings


def _named(cells: Sequence[tuple[Row, str]]) -> str:
    return listed(
        f"{cell.where}, {cell_name(cell)} ({status.removeprefix(_NOT_REACHED)[:120]})"
        for cell, status in cells
    )

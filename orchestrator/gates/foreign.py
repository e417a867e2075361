"""A bench CSV that this project did not write: what it shows, and what it leaves open.

A column that is not there makes the gate that needs it NOT_VERIFIED, by name. Nothing is taken on
trust: such a file alone never leads to a decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from kernels.bench import contract
from orchestrator.evidence.cards import find_card
from orchestrator.evidence.foreign import ForeignRow, ForeignTable
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, conclude, counted, listed, unverified
from orchestrator.gates.statuses import status_findings
from orchestrator.gates.timed import cell_name
from orchestrator.models.verdict import GateResult, Reason, Verdict

_PRINTED_MS = 0.0005
"""Times are often printed with three decimals."""
_RECORD = "Measure with a benchmark that records it; this project's does."


def foreign_gates(table: ForeignTable) -> list[GateResult]:
    """Completeness, parity and timing of one file."""
    ran = table.rows.select(table.rows.column("ok"))
    return [_completeness(table), _parity(table, ran), _timing(table, ran)]


def _completeness(table: ForeignTable) -> GateResult:
    """Every cell there, once, and none that died."""
    findings = []
    if not table.rows:
        findings.append(unverified(f"{table.file} has a header and no rows.", "Measure something."))
    if not table.ended:
        findings.append(
            unverified(
                f"{table.file} has no end mark ({contract.END_MARK},<rows>): a file that was cut "
                "off would look the same.",
                _RECORD,
                Reason.INCOMPLETE,
            )
        )
    failed = table.rows.where(lambda ok: not ok, "ok")
    findings += status_findings([(row, row.failed or "") for row in failed])
    cards = {name: _card(name) for name in table.rows.said("device")}
    if len(set(filter(None, cards.values()))) > 1:
        findings.append(
            unverified(
                f"{table.file} has rows of several cards: {listed(sorted(filter(None, cards)))}.",
                "Judge the rows of each card by themselves: a threshold holds for one card.",
            )
        )
    findings += _repeated(table, cards)
    measured: dict[str, JsonValue] = {"cells": len(table.rows), "failed": len(failed)}
    return conclude(
        f"completeness {table.file}", findings, measured, f"{counted(len(table.rows), 'cell')}."
    )


def _card(name: str | None) -> str:
    """The same for all names of a card."""
    card = find_card(name or "")
    return card.name if card else " ".join((name or "").lower().split())


def _repeated(table: ForeignTable, cards: Mapping[str | None, str]) -> Iterable[Finding]:
    """Cells that are there twice; or that a column tells apart which nobody here understands."""
    if len(table.rows.said("family", "L", "device")) == len(table.rows) and len(cards) < 2:
        return
    firsts: dict[tuple[str, int | None, str], int] = {}
    twice, apart = [], []
    for number, row in enumerate(table.rows):
        first = firsts.setdefault((row.family, row.L, cards[row.device]), number)
        if first != number:
            line = table.rows[first].line
            differ = (n for n, told in table.others.items() if _words(told[first], told[number]))
            name = next(differ, None)
            if name is None:
                twice.append(f"{row.where} repeats line {line} ({cell_name(row)})")
            else:
                both = f"{table.others[name][first]}, {table.others[name][number]}"
                apart.append(f"{row.where} repeats line {line} but for {name!r} ({both})")
    if twice:
        yield Finding(
            Verdict.INVALID,
            Reason.MALFORMED,
            f"Cells were measured twice: {listed(twice, 2)}; two runs were put into one file.",
            "Write each run to a file of its own.",
        )
    if apart:
        yield unverified(
            f"{listed(apart, 2)[:300]}: whether these are different cells is not known.",
            "Write what differs there to files of their own, or name it by one of the columns that "
            "are understood: docs/judge.md.",
        )


def _words(one: str, other: str) -> bool:
    """Different words, such as two backends; not numbers, nor times of day."""
    return one != other and all(word[:1].isalpha() for word in (one, other))


def _parity(table: ForeignTable, ran: Rows[ForeignRow]) -> GateResult:
    """The mean error, and whether it was measured against something that is right itself."""
    findings = []
    errors = [error for error in ran.column("mae") if error is not None]
    if len(errors) < len(ran) or not ran:
        where = "not every row" if errors else "no row"
        findings.append(unverified(f"mae: {where} of {table.file} says it.", _RECORD))
    findings += _absurd(ran)
    large = ran.where(lambda mae: mae is not None and contract.MAX_MAE < mae < math.inf, "mae")
    if large:
        findings.append(
            Finding(
                Verdict.FAIL,
                Reason.ERROR_TOO_LARGE,
                f"The two sides differ by more than {contract.MAX_MAE:g}: "
                + listed(f"{row.mae:.2g} at {cell_name(row)}" for row in large)
                + ". Either may be the wrong one.",
                "Compare both with an fp64 oracle: a reference that attends to the first keys "
                "only gives just such errors.",
            )
        )
    if len(errors) > 1 and not any(errors):
        findings.append(
            unverified(
                f"mae is exactly zero in all {counted(len(errors), 'row')}: it was printed with "
                "too few digits, or one side was compared with itself.",
                _RECORD,
            )
        )
    findings += _reference(table, ran)
    worst = max((error for error in errors if 0 <= error < math.inf), default=None)
    return conclude(
        f"parity {table.file}",
        findings,
        {"max_mae": worst},
        f"{counted(len(ran), 'cell')} within {contract.MAX_MAE:g}: max MAE {worst or 0:.1e}.",
    )


def _absurd(ran: Rows[ForeignRow]) -> Iterable[Finding]:
    for column in ("mae", "max_err", "ref_mae"):
        odd = ran.where(lambda error: error is not None and not 0 <= error < math.inf, column)
        for row in odd[:1]:
            yield Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{row.where}: {column} is {getattr(row, column):g}, which no error of finite "
                "outputs is.",
                "Look for NaN in the outputs of both sides.",
            )


def _reference(table: ForeignTable, ran: Rows[ForeignRow]) -> Iterable[Finding]:
    lacking = table.lacks(("ref_mae", "ref_probe", "kernel"))
    if lacking:
        yield unverified(
            f"{table.file} does not say {listed(lacking)}: whether the reference itself is right "
            "and reads every key, and which kernel ran.",
            "Measure with a benchmark that checks both sides against an fp64 oracle.",
        )
    for row in ran.where(_wrong, "ref_mae", "ref_probe")[:1]:
        error = "unknown" if row.ref_mae is None else f"{row.ref_mae:.2g}"
        yield Finding(
            Verdict.INVALID,
            Reason.REFERENCE_WRONG,
            f"{row.where} ({cell_name(row)}): the reference is wrong (ref_mae {error}, "
            f"ref_probe {(row.ref_probe or 'unknown')[:80]}).",
            "Fix the reference first: every speedup against it is meaningless.",
        )
    for row in ran.where(lambda name: name is not None and not name.startswith("triton"), "kernel")[
        :1
    ]:
        yield Finding(
            Verdict.INVALID,
            Reason.FALLBACK_RAN,
            f"{row.where}: {(row.kernel or '')[:40]} ran, which is no Triton kernel; tri_ms timed "
            "a fallback.",
            "Read why dispatch fell back.",
        )


def _wrong(ref_mae: float | None, ref_probe: str | None) -> bool:
    return (ref_mae or 0) > contract.MAX_MAE or ref_probe not in (None, "ok")


def _timing(table: ForeignTable, ran: Rows[ForeignRow]) -> GateResult:
    """That speedups are what the times say, with the same streams on both sides."""
    findings = []
    if "speedup_lo" in table.lacks(["speedup_lo"]):
        findings.append(
            unverified(
                f"{table.file} does not say speedup_lo: without an interval a win may be noise.",
                "Measure with repetitions and record the 95 % interval of the speedup.",
            )
        )
    wrong = ran.where(_inconsistent, "tri_ms", "ref_ms", "speedup")
    if wrong:
        row = wrong[0]
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{row.where}: speedup {row.speedup:g} is not ref_ms / tri_ms = {row.ref_ms:g} / "
                f"{row.tri_ms:g}"
                + (f"; {counted(len(wrong), 'such row')}." if len(wrong) > 1 else "."),
                "One side was divided by something (streams, iterations) and the other was not: "
                "look at how the benchmark writes the row.",
            )
        )
    silent = ran.where(_unsaid, "streams", "tri_streams", "ref_streams")
    if silent:
        findings.append(
            unverified(
                f"{silent[0].where} has streams={silent[0].streams}, but not tri_streams and "
                "ref_streams: one side alone may have been divided over them.",
                _RECORD,
            )
        )
    one_sided = ran.where(lambda ours, theirs: ours != theirs, "tri_streams", "ref_streams")
    if one_sided:
        row = one_sided[0]
        findings.append(
            Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{row.where}: the kernel ran on {row.tri_streams} streams, the reference on "
                f"{row.ref_streams}.",
                "Give both sides the same streams.",
            )
        )
    return conclude(
        f"timing {table.file}",
        findings,
        {"cells": len(ran)},
        f"{counted(len(ran), 'cell')} with intervals, speedups as the times say.",
    )


def _unsaid(streams: int | None, ours: int | None, theirs: int | None) -> bool:
    return (streams or 1) > 1 and None in (ours, theirs)


def _inconsistent(ours: float | None, theirs: float | None, told: float | None) -> bool:
    if not (ours and theirs and told) or ours < 0 or theirs < 0:
        return False
    ratio = theirs / ours
    slack = contract.RATIO_SLACK + _PRINTED_MS / ours + _PRINTED_MS / theirs
    return abs(told - ratio) > slack * ratio + contract.RATIO_SLACK

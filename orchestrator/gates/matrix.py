"""Whether several files together are one matrix of one run, without holes.

A threshold holds for every length above it, so a family that was measured at one length must have
been measured at every longer one that any family has. Below its shortest it makes no claim. And it
holds for both modes: what was measured of one shape in one of them says nothing about another shape
in the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import cast

from orchestrator.evidence.bench import LEVELS, SIDES, BenchRow
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, conclude, counted, listed
from orchestrator.gates.timed import timed_on_a_device
from orchestrator.gates.timing import timed_at_once
from orchestrator.models.verdict import GateResult, Reason, Verdict

GATE = "completeness matrix"
_SHAPE = ("N", "H", "D", "Dv", "dtype", "level", "form")
"""What dense and varlen rows must share; streams they need not, nor do they in the document."""
_RUN = ("contract", "device", "torch", "triton", "l2_mib", "sm_max_mhz")
"""What one run on one card has one of."""
_MEASURED = (
    *(f"{level}_{side}_ms" for level in LEVELS for side in SIDES),
    *(f"{side}_{what}" for side in ("tri", "ref") for what in ("p10", "p90")),
)
"""Ten times of six digits."""
_measured = attrgetter(*_MEASURED)
_MEASURE = "Measure them: a threshold holds for every length above it."


def matrix_gate(rows: Sequence[Row]) -> GateResult:
    """Judge the cells of all files as one matrix."""
    rows = Rows.of(rows)
    measured_at = {family: some.told("L") for family, some in rows.by("family").items()}
    families = {family: set(lengths) for family, lengths in measured_at.items() if lengths}
    died = rows.where(lambda ok: not ok, "ok")
    dead = {f"{row.family} L={row.L}" for row in died if row.L is not None}
    tested = set().union(*families.values())
    holes = [
        f"{family} L={length}"
        for family, lengths in sorted(families.items())
        for length in sorted(tested - lengths)
        if length > min(lengths)
    ]
    findings = []
    if dead:
        message = f"{counted(len(dead), 'cell')} did not run: {listed(sorted(dead), 5)}."
        findings.append(Finding(Verdict.NOT_VERIFIED, Reason.INCOMPLETE, message, _MEASURE))
    if holes:
        message = f"{counted(len(holes), 'cell')} missing that other rows have: {listed(holes, 5)}."
        findings.append(Finding(Verdict.NOT_VERIFIED, Reason.INCOMPLETE, message, _MEASURE))
    if any(len(lengths) < len(measured_at[family]) for family, lengths in families.items()):
        findings += _in_two_files(rows)
    findings += shape_findings(rows)
    if rows.kinds == {BenchRow}:
        findings += one_run_findings(cast(Rows[BenchRow], rows))
    if not families:
        findings.append(
            Finding(
                Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE, "No row has an L.", "Measure something."
            )
        )
    measured = {"families": len(families), "lengths": len(tested), "holes": len(holes) + len(dead)}
    return conclude(
        GATE,
        findings,
        {**measured},
        f"{counted(len(families), 'measured distribution')}, without holes.",
    )


def _in_two_files(rows: Sequence[Row]) -> Iterator[Finding]:
    """A cell of two runs on one card: which of them counts is nobody's choice."""
    first: dict[tuple[str, int | None, str | None], str] = {}
    for row in rows:
        file = first.setdefault((row.family, row.L, row.device), row.file)
        if file != row.file:
            yield Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{row.family} L={row.L} was measured in {file} and again in {row.file}: these are "
                "not the files of one run.",
                "Judge each run by itself; `orchestrate compare` holds two against each other.",
            )
            return


def shape_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Shapes that one mode has and the other has not, and those without rows of several spans."""
    shapes: dict[str, set[tuple[object, ...]]] = {"dense": set(), "varlen": set()}
    scattered = set()
    for mode, nspans, dist, *rest in Rows.of(rows).said("mode", "nspans", "dist", *_SHAPE):
        shape = tuple(rest)
        shapes.setdefault(mode, set()).add(shape)
        if mode == "varlen" and nspans != 1 and dist != "few":
            scattered.add(shape)
    dense, varlen = shapes["dense"], shapes["varlen"]
    for mode, others, lacking in (
        ("dense", "varlen", dense - varlen),
        ("varlen", "dense", varlen - dense),
    ):
        if lacking and shapes[others]:
            yield Finding(
                Verdict.NOT_VERIFIED,
                Reason.INCOMPLETE,
                f"Only {mode} rows have {listed(_named(lacking), 2)}; no {others} row has.",
                "Measure both modes at the same shapes.",
            )
    contiguous = varlen - scattered
    if contiguous:
        yield Finding(
            Verdict.NOT_VERIFIED,
            Reason.INCOMPLETE,
            f"All varlen rows of {listed(_named(contiguous), 2)} have one span: selections of "
            "several, which is what production makes, were not measured.",
            "Measure with --dist many.",
        )


def _named(shapes: Iterable[tuple[object, ...]]) -> list[str]:
    return sorted(
        " ".join(f"{n}={v}" for n, v in zip(_SHAPE, shape, strict=True) if v is not None)
        for shape in shapes
    )


def one_run_findings(rows: Sequence[BenchRow]) -> Iterator[Finding]:
    """What the rows of all files must have in common, and what they must not."""
    every = Rows.of(rows)
    timed = timed_on_a_device(every)
    for mixed in not_one_run(timed):
        yield Finding(
            Verdict.INVALID,
            Reason.WRONG_GPU if mixed.startswith("device ") else Reason.MALFORMED,
            f"The rows were not measured in one run on one card: {mixed}.",
            "Measure both modes on one card in one environment, and judge these files together.",
        )
    for mode in ("dense", "varlen"):
        if mode not in every.said("mode"):
            yield Finding(
                Verdict.NOT_VERIFIED,
                Reason.NO_EVIDENCE,
                f"There are no {mode} measurements.",
                f"Measure {mode} cells too, and name both files: production runs both modes.",
            )
    ran = timed.select(timed.column("ok"))
    yield from _copied(ran)
    for first, second in timed_at_once(ran):
        if first.file != second.file:  # within a file it is said of the file
            yield Finding(
                Verdict.NOT_VERIFIED,
                Reason.MACHINE_DISTURBED,
                f"{first.where} and {second.where} were timed at once (began_ms, ended_ms): that "
                f"each had a {first.device} to itself is not shown.",
                "Run one benchmark at a time.",
            )


def _copied(rows: Rows[BenchRow]) -> Iterator[Finding]:
    """Two cells of one card whose measurements agree in every digit: nobody measures so twice."""
    pairs = list(rows.columns(_MEASURED[0], _MEASURED[-1]))  # of both levels, and of both sides
    if len(set(pairs)) == len(pairs):
        return
    often = Counter(pairs)
    first: dict[tuple[object, ...], BenchRow] = {}
    for row in rows.select([often[both] > 1 for both in pairs]):
        measured = _measured(row)
        if None in measured:
            continue
        other = first.setdefault((row.device, *measured), row)
        if (other.file, other.line) != (row.file, row.line):
            yield Finding(
                Verdict.INVALID,
                Reason.MALFORMED,
                f"{row.where} and {other.where} agree in every digit of all their times: one is a "
                "copy of the other.",
                "Measure each cell, and keep its row as the benchmark wrote it.",
            )
            return


def not_one_run(rows: Sequence[BenchRow]) -> Iterator[str]:
    """What the rows of one run on one card do not have two of, and these rows have."""
    every = Rows.of(rows)
    for name in _RUN:
        values = {value for value in every.said(name) if value}  # 0: unknown
        if len(values) > 1:
            named = sorted(f"{v:.9g}" if isinstance(v, float) else str(v) for v in values)
            yield f"{name} is {listed(named)}"

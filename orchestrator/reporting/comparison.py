"""Phase 4: what was measured before, beside what each variant measured."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from orchestrator.evidence.bench import BenchRow
from orchestrator.models.run import Judgement, PhaseJudgement, RunPlan
from orchestrator.models.verdict import Outcome, worst
from orchestrator.reporting.records import BenchFamily, Evidence, Totals
from orchestrator.reporting.views import Cell, ComparedRow, Comparison, VariantLine

_Key = tuple[str, int]
_Column = TypeVar("_Column", bound=Hashable)


def compare(plan: RunPlan, judgement: Judgement, evidence: Evidence) -> Comparison | None:
    """None when no variant left anything and none was judged."""
    judged = {variant.id: variant for variant in judgement.variants}
    ran = [v.id for v in plan.variants if any(evidence.result(step) for step in v.step_ids)]
    variants = [v for v in plan.variants if v.id in judged or v.id in ran]
    if not variants:
        return None
    lines = []
    for variant in variants:
        found = judged.get(variant.id)
        lines.append(
            VariantLine(
                id=variant.id,
                title=variant.title,
                environment=flags(variant.environment),
                verdict=found.verdict if found and variant.id in ran else None,
                decision=found.decision if found else None,
                parity=Totals.of(f for f in evidence.tests if f.origin.variant == variant.id),
                adopted=judgement.adopted == variant.id,
            )
        )
    repeated = {phase for variant in variants for phase in variant.steps}
    phases = [phase for phase in judgement.phases if phase.id in repeated]
    origins = [file.origin for file in evidence.tests] + [b.origin for b in evidence.benches]
    inherited = {origin.run for origin in origins if origin.run and origin.variant is None}
    return Comparison(
        before=_before(sorted(inherited)),
        parity=Totals.of(file for file in evidence.tests if file.origin.variant is None),
        verdict=worst(known) if (known := [p.verdict for p in phases if p.verdict]) else None,
        decision=_decision(phases),
        variants=tuple(lines),
        columns=tuple(ran),
        rows=_rows(evidence.benches, ran),
        interpreted=any(bench.interpreted for bench in evidence.benches),
    )


def flags(environment: Mapping[str, str]) -> tuple[str, ...]:
    """`NAME=value` of each."""
    return tuple(f"{name}={value}" for name, value in environment.items())


def _before(runs: list[str]) -> str:
    return f"phases 1 and 2 of run {', '.join(runs)}" if runs else "phases 1 and 2 of this run"


def _decision(phases: Iterable[PhaseJudgement]) -> str | None:
    """As it was before a variant's took its place; the decision's gate keeps it."""
    gates = (gate for phase in phases for step in phase.steps for gate in step.gates)
    for gate in gates:
        outcome, length = gate.measured.get("outcome"), gate.measured.get("min_L")
        if gate.gate == "decision" and outcome:
            return f"{outcome}(L>={length})" if outcome == Outcome.ENABLE else str(outcome)
    return None


def by_cell(
    measured: Iterable[tuple[_Column, BenchFamily]],
) -> dict[tuple[str, int], dict[_Column, BenchRow]]:
    """What each column measured of each family and L, in the order of the files."""
    cells: dict[_Key, dict[_Column, BenchRow]] = {}
    for column, bench in measured:
        for row in bench.rows:
            cells.setdefault((bench.family, row.L), {})[column] = row
    families = list(dict.fromkeys(family for family, _ in cells))
    return {
        key: cells[key] for key in sorted(cells, key=lambda key: (families.index(key[0]), key[1]))
    }


def _rows(benches: Iterable[BenchFamily], variants: list[str]) -> tuple[ComparedRow, ...]:
    """One row per family and L that anyone measured."""
    cells = by_cell((bench.origin.variant, bench) for bench in benches)
    return tuple(
        ComparedRow(
            family=family,
            L=length,
            before=_cell(measured.get(None)),
            after=tuple(_cell(measured.get(variant)) for variant in variants),
        )
        for (family, length), measured in cells.items()
    )


def _cell(row: BenchRow | None) -> Cell | None:
    if row is None:
        return None
    status = None if row.ok else row.status
    return Cell(row.speedup, row.speedup_lo, row.speedup_hi, row.mae, status)

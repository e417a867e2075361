"""The decision: the contract's rule, applied only when everything it rests on has passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernels.bench import contract
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import Basis, BenchRow, Level, cells_of
from orchestrator.evidence.rows import Rows
from orchestrator.gates.coverage import GATE as COVERAGE
from orchestrator.gates.coverage import coverage_findings
from orchestrator.gates.findings import Finding, counted, first_sentence, listed
from orchestrator.gates.margins import (
    comparisons,
    condensed_rows,
    non_monotone,
    sensitivity,
    undecided_by,
    wavering,
)
from orchestrator.gates.matrix import GATE as MATRIX
from orchestrator.gates.matrix import one_run_findings, shape_findings
from orchestrator.gates.strongest import moved_by_missed
from orchestrator.models.verdict import Decision, GateResult, Obstacle, Outcome, Reason, Verdict


def decide(
    dense: Sequence[BenchRow],
    varlen: Sequence[BenchRow],
    margin: float,
    gates: Sequence[GateResult],
    *,
    level: Level = "operator",
    reference: Basis = "strongest",
    current_min_L: int = 0,  # noqa: N803 - L is the field's name for the selected length
    kinds: Sequence[str] = ("tests", "parity"),
) -> Decision:
    """ENABLE or KEEP_OFF when every required gate is PASS and every row counts, else UNDECIDED.

    `gates` are all gates the decision rests on; `level` and `reference` say which of the four
    measured speedups decides; `current_min_L` is the threshold in force, which KEEP_OFF never
    lowers; `kinds` of gates must be among them, beside the `bench` gate of every CSV.
    """
    dense, varlen = Rows.of(dense), Rows.of(varlen)
    rows = Rows.joined([dense, varlen])
    waivers = tuple(dict.fromkeys(gate.waiver for gate in gates if gate.waiver))
    obstacles = list(dict.fromkeys(_obstacles({"dense": dense, "varlen": varlen}, gates, kinds)))
    cells: list[contract.Cell] = []
    if not obstacles:
        try:
            cells = cells_of(rows, level, reference)
            found = contract.threshold(cells, margin)
            noise = undecided_by(rows, cells, found, level, reference)
            if noise is not None:
                obstacles.append(Obstacle(reason=Reason.MACHINE_DISTURBED, message=noise))
            if reference == "strongest":
                missed = moved_by_missed(rows, cells, found, level)
                if missed is not None:
                    obstacles.append(Obstacle(reason=Reason.NO_EVIDENCE, message=missed))
        except (EvidenceError, contract.ContractError) as error:
            obstacles.append(
                Obstacle(reason=Reason.MALFORMED, message=f"The rows do not decide: {error}.")
            )
    if obstacles:
        return Decision(
            outcome=Outcome.UNDECIDED,
            margin=margin,
            level=level,
            reference=reference,
            summary=_undecided(obstacles, gates),
            waivers=waivers,
            obstacles=tuple(obstacles),
        )
    few = condensed_rows(rows)
    device = next(filter(None, dense.column("device")))
    over = f"the {reference} reference at {level} level"
    if found.min_L is None:
        summary = (
            f"KEEP_OFF: on {device} no tested length is admissible at margin {margin:g} over "
            f"{over}: {listed(found.obstacles, 2)}."
        )
    else:
        why = f" Below that: {found.obstacles[0]}." if found.obstacles else ""
        summary = (
            f"ENABLE from L={found.min_L}: on {device} every tested length from {found.min_L} on "
            f"is at least {margin:g} times as fast as {over} (lower bound), in "
            f"{counted(len(found.families), 'measured distribution')}.{why}"
        )
    return Decision(
        outcome=Outcome.KEEP_OFF if found.min_L is None else Outcome.ENABLE,
        min_L=found.setting(current_min_L),
        margin=margin,
        level=level,
        reference=reference,
        device=device,
        summary=f"{summary} Waived: {'; '.join(map(str, waivers))}." if waivers else summary,
        waivers=waivers,
        sensitivity=sensitivity(few[level, reference], margin),
        comparisons=comparisons(few, margin),
        non_monotone=non_monotone(cells, margin),
        noise_bound=wavering(rows, level, reference, margin),
    )


def _obstacles(
    tables: Mapping[str, Rows[BenchRow]], gates: Sequence[GateResult], required: Sequence[str]
) -> list[Obstacle]:
    rows = Rows.joined([*tables.values()])
    interpreted = list(rows.column("device")).count(contract.CPU_INTERPRETER)
    obstacles = [
        Obstacle(reason=gate.reason or Reason.NO_EVIDENCE, message=f"{gate.gate}: {gate.message}")
        for gate in gates
        if gate.verdict is not Verdict.PASS
        # what every gate of a card says of the interpreter's rows is said once, below
        and not (interpreted and gate.reason is Reason.NO_CUDA_DEVICE)
    ]
    if not gates:
        obstacles.append(
            Obstacle(reason=Reason.NOT_RUN, message="No gate has judged what the decision needs.")
        )
    obstacles += [
        Obstacle(
            reason=Reason.INCOMPLETE,
            message=f"{gate.gate} is waived, but nobody can answer for what was not measured: "
            f"{listed(lacking)}.",
        )
        for gate in gates
        if gate.waiver and isinstance(lacking := gate.measured.get("missing"), list) and lacking
    ]
    if gates:
        obstacles += _ungated(rows, gates, required)
    judged = {gate.gate for gate in gates}
    findings: list[Finding] = []
    if COVERAGE not in judged:
        findings += coverage_findings(rows, gates)
    if MATRIX not in judged:
        findings += (*shape_findings(rows), *one_run_findings(rows))
    obstacles += [Obstacle(reason=finding.reason, message=finding.message) for finding in findings]
    for mode, table in tables.items():
        obstacles += [
            Obstacle(
                reason=Reason.MALFORMED,
                message=f"{row.where} is a {row.mode} row among the {mode} ones.",
            )
            for row in table.where(mode.__ne__, "mode")
        ]
    if interpreted:
        obstacles.append(
            Obstacle(
                reason=Reason.NO_CUDA_DEVICE,
                message=f"{interpreted} of {counted(len(rows), 'row')} were timed in Triton's CPU "
                "interpreter: there was no CUDA device, so no timing counts.",
            )
        )
    unnamed = rows.where(lambda device: device is None, "device")
    if unnamed:
        obstacles.append(
            Obstacle(
                reason=Reason.NO_EVIDENCE,
                message=f"{unnamed[0].where} does not name the device it was measured on.",
            )
        )
    return obstacles


def _ungated(
    rows: Rows[BenchRow], gates: Sequence[GateResult], required: Sequence[str]
) -> list[Obstacle]:
    """What no gate has judged decides nothing, whatever the playbook leaves out."""
    names = {gate.gate for gate in gates}
    files = sorted(rows.said("file"))
    missing = [f"bench {file}" for file in files if f"bench {file}" not in names]
    kinds = {name.partition(" ")[0] for name in names}
    missing += [kind for kind in required if kind not in kinds]
    return [
        Obstacle(reason=Reason.NOT_RUN, message=f"No gate `{name}` has judged the evidence.")
        for name in missing
    ]


def _undecided(obstacles: Sequence[Obstacle], gates: Sequence[GateResult]) -> str:
    if {obstacle.reason for obstacle in obstacles} == {Reason.NO_CUDA_DEVICE}:
        verified = all(
            gate.verdict is Verdict.PASS or gate.reason is Reason.NO_CUDA_DEVICE for gate in gates
        )
        tail = "; parity and completeness were verified." if verified else "."
        return f"UNDECIDED: the pod has no CUDA device, so no timing counts{tail}"
    said = obstacles[0].message
    for gate in gates:
        if said == f"{gate.gate}: {gate.message}":
            said = f"{gate.gate} is {gate.verdict.value}: {first_sentence(gate.message)}"
            break
    rest = len(obstacles) - 1
    more = f" ({counted(rest, 'more obstacle')})" if rest else ""
    return f"UNDECIDED: {said}{more}"

"""The decision through the real gates, whatever was measured."""

from __future__ import annotations

from decision_samples import GATES, LENGTHS
from evidence_samples import RTX_4090, bench_rows, csv_of, row
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.bench import contract
from orchestrator.evidence.bench import parse_bench
from orchestrator.gates.bench import table_gate
from orchestrator.gates.decision import decide
from orchestrator.gates.margins import condensed
from orchestrator.models.playbook import BenchGate
from orchestrator.models.verdict import Decision, Outcome, Reason

MARGINS = st.sampled_from([1.0, 1.1, 1.15, 1.2, 1.5])
CELLS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1.1, 1.2, 1.3, 2.0]),
        # a cell in ten or so is missing, did not run, is wrong, or has no bound
        st.sampled_from(["good"] * 24 + ["missing", "error", "wrong", "unbounded"]),
    ),
    min_size=len(LENGTHS),
    max_size=len(LENGTHS),
)
FLAWS = {
    "error": {"status": "error: MLIR"},
    "wrong": {"mae": 0.15, "max_err": 1.0},
    "unbounded": {"operator_strongest_lo": "", "operator_strongest_hi": ""},
}


def measured(mode: str, cells) -> list[dict[str, object]]:
    found = []
    for length, (low, state) in zip(LENGTHS, cells, strict=True):
        ms = length / 320 * (1.0 if mode == "dense" else 1.001)
        told = {"speedup": 1.02 * low, "speedup_lo": low, "speedup_hi": 1.04 * low}
        values = row(mode, length, tri_ms=ms / (1.02 * low), ref_ms=ms, **told)
        if state != "missing":
            found.append({**values, **FLAWS.get(state, {})})
    return found


def judged(dense, varlen, margin, order=None) -> Decision:
    """Through the real gates, as a run would be."""
    tables = []
    gates = [gate for gate in GATES if not gate.gate.startswith("bench ")]
    for mode, rows in (("dense", dense), ("varlen", varlen)):
        name = f"sel_{mode}.csv"
        shuffled = rows if order is None else sorted(rows, key=lambda r: order.index(r["L"]))
        table = parse_bench(csv_of(mode, *shuffled), name)
        gate = BenchGate(gate="bench", file=name, mode=mode, lengths=list(LENGTHS))
        gates.append(table_gate(gate, table, [RTX_4090]))
        tables.append(table.rows)
    return decide(*tables, margin, gates)


@settings(deadline=None)
@given(CELLS, CELLS, MARGINS, st.permutations(LENGTHS))
def test_enable_admits_no_cell_that_is_missing_wrong_or_slow(dense, varlen, margin, order):
    rows = measured("dense", dense), measured("varlen", varlen)
    decision = judged(*rows, margin)
    if decision.outcome is Outcome.ENABLE:
        admitted = [
            cell
            for cells in (dense, varlen)
            for length, cell in zip(LENGTHS, cells, strict=True)
            if length >= decision.min_L
        ]
        assert all(low >= margin and state == "good" for low, state in admitted)
    if any(state != "good" for _, state in (*dense, *varlen)):
        assert decision.outcome is Outcome.UNDECIDED
    again = judged(*rows, margin, order)
    assert (again.outcome, again.min_L) == (decision.outcome, decision.min_L)


def test_one_cell_removed_leaves_it_undecided():
    good = [(2.0, "good")] * 3
    assert judged(measured("dense", good), measured("varlen", good), 1.2).min_L == 64
    rows = measured("dense", good)[:-1]
    decision = judged(rows, measured("varlen", good), 1.2)
    assert decision.outcome is Outcome.UNDECIDED
    assert decision.obstacles[0].reason is Reason.INCOMPLETE


@settings(deadline=None)
@given(CELLS, CELLS, MARGINS, st.sampled_from([0.05, 0.2, 0.7]))
def test_a_larger_margin_admits_no_more(dense, varlen, margin, more):
    rows = measured("dense", dense), measured("varlen", varlen)
    decision, stricter = judged(*rows, margin), judged(*rows, margin + more)
    assert (decision.outcome is Outcome.UNDECIDED) == (stricter.outcome is Outcome.UNDECIDED)
    if stricter.outcome is Outcome.ENABLE:
        assert decision.outcome is Outcome.ENABLE
        assert decision.min_L <= stricter.min_L


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(LENGTHS), st.sampled_from([1, 1.2, 2])),
        min_size=1,
        unique_by=lambda cell: cell[:2],
    ),
    MARGINS,
)
def test_condensed_cells_give_the_same_threshold(cells, margin):
    cells = [contract.Cell(family, length, low, 1e-4, RTX_4090) for family, length, low in cells]
    expected = contract.threshold(cells, margin).min_L
    (few,) = condensed(cells, "speedup")
    assert contract.threshold(few, margin).min_L == expected


@given(st.sampled_from(["kernel", "operator"]), st.sampled_from(["shipped", "strongest"]))
def test_a_row_is_the_cell_that_the_contract_reads(level, basis):
    (only,) = bench_rows("varlen", row("varlen", 128, streams=2, form="decode"))
    text = {
        name: str(value) for name, value in row("varlen", 128, streams=2, form="decode").items()
    }
    assert only.cell(level, basis) == contract.cell_of(text, "x", level=level, reference=basis)

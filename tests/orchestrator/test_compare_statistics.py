"""What `orchestrate compare` calls a change: intervals of one cell, a sign test over all."""

from __future__ import annotations

import pytest
from compare_runs import times
from evidence_samples import bench_rows, row
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gates.compare import Change, Compared, Quantity, compare_cell, pool


def one(**changes: object):
    return bench_rows("dense", row("dense", 64, **changes))[0]


@pytest.mark.parametrize(
    ("a", "b", "change"),
    [
        (one(), one(speedup_lo=None), Change.UNKNOWN),
        (one(), None, Change.NONE),
        (one(), one(status="error: died"), Change.NONE),
        (one(), one(speedup=1.6, speedup_lo=1.551, speedup_hi=1.7), Change.BETTER),
        (one(), one(speedup=1.6, speedup_lo=1.549, speedup_hi=1.7), Change.NOISE),
        (one(), one(speedup=1.3, speedup_lo=1.2, speedup_hi=1.449), Change.WORSE),
    ],
)
def test_significance(a, b, change: Change) -> None:
    """Of the row's own level and reference."""
    assert compare_cell("dense", 64, a, b, absolute=False)[0].change is change


@pytest.mark.parametrize(
    ("settled", "change"), [("yes", Change.BETTER), ("still warming up", Change.NOISE)]
)
def test_a_small_gain_of_times_that_did_not_settle_is_noise(settled: str, change: Change) -> None:
    narrow = [
        {**times(64, speedup), "speedup_lo": speedup - 0.01, "speedup_hi": speedup + 0.01}
        for speedup in (1.5, 1.55)
    ]
    a, b = (bench_rows("dense", row("dense", 64, **n, settled=settled))[0] for n in narrow)
    (found,) = compare_cell(a.family, 64, a, b, absolute=False)
    assert found.change is change


@pytest.mark.parametrize(("cv", "iters"), [(0, 50), (None, 50), (0.02, None)])
def test_a_time_that_nothing_is_known_of_or_never_varies_has_no_interval(cv, iters) -> None:
    b = one(tri_ms=0.2, tri_cv=cv, iters=iters)
    found = {c.what: c.change for c in compare_cell("dense", 64, one(), b, absolute=True)}
    assert found["tri_ms"] is Change.UNKNOWN


def test_more_iterations_tell_smaller_differences() -> None:
    changes = []
    for iters in (10, 1000):
        a, b = (one(tri_ms=ms, tri_cv=0.02, iters=iters) for ms in (0.1, 0.101))
        changes.append(compare_cell("dense", 64, a, b, absolute=True)[1].change)
    assert changes == [Change.NOISE, Change.WORSE]


@pytest.mark.parametrize(
    ("level", "basis", "value"),
    [
        ("operator", "strongest", 1.5),
        ("operator", "shipped", 1.55),
        ("kernel", "strongest", 1.8),
        ("kernel", "shipped", 1.875),
    ],
)
def test_the_level_and_the_reference_that_are_asked_for(level, basis, value) -> None:
    found = compare_cell("dense", 64, one(), one(), absolute=True, level=level, basis=basis)
    speedup, ours, theirs = (compared.a for compared in found)
    assert speedup.value == pytest.approx(value)
    assert speedup.low < value < speedup.high
    assert theirs.value / ours.value == pytest.approx(value)


def test_rows_that_name_no_reference_are_compared_with_each_other_only() -> None:
    old = one(basis=None, operator_strongest_lo=None)
    assert compare_cell("dense", 64, old, old, absolute=False)[0].change is Change.NOISE
    assert compare_cell("dense", 64, old, one(), absolute=False)[0].change is Change.UNKNOWN


def change_of(*ratios: float) -> list[Compared]:
    one = Quantity(1, None, None)
    return [
        Compared("dense", length, "tri_ms", one, Quantity(ratio, None, None), Change.UNKNOWN)
        for length, ratio in enumerate(ratios)
    ]


@pytest.mark.parametrize(
    ("ratios", "p", "bounds", "change"),
    [
        ((0.97,) * 5, 2 / 32, (None, None), Change.UNKNOWN),
        ((0.96, 0.97, 0.97, 0.97, 0.97, 0.98), 2 / 64, (0.96, 0.98), Change.BETTER),
        ((0.97, 0.97, 0.97, 0.97, 0.97, 1.02), 14 / 64, (0.97, 1.02), Change.NOISE),
        # cells without a change count against one
        ((1.0,) * 4 + (1.03,) * 6, 0.75390625, (1.0, 1.03), Change.NOISE),
        # nor is a difference in the last digit one
        ((1.000001,) * 6, 1, (1, 1), Change.NOISE),
        ((0.99,) + (1.01,) * 7 + (1.04,), 20 / 512, (1.01, 1.01), Change.WORSE),
    ],
)
def test_the_sign_test(ratios, p: float, bounds, change: Change) -> None:
    found = pool("tri_ms", change_of(*ratios))
    assert (found.cells, found.change) == (len(ratios), change)
    assert found.p == pytest.approx(p)
    assert (found.ratio.low, found.ratio.high) == bounds


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=60))
def test_the_interval_holds_1_where_the_sign_test_shows_nothing(ratios: list[float]) -> None:
    found = pool("tri_ms", change_of(*ratios))
    assert found.better + found.worse <= found.cells == len(ratios)
    assert (found.change in (Change.BETTER, Change.WORSE)) == (found.p <= 0.05)
    if found.ratio.low is not None:
        assert found.ratio.low <= found.ratio.value <= found.ratio.high


def test_many_cells_take_no_time() -> None:
    found = pool("tri_ms", change_of(*([0.9] * 50_300 + [1.1] * 49_700)))
    assert found.p == pytest.approx(0.058, abs=1e-3)
    assert found.change is Change.NOISE


def test_nothing_measured_in_both_is_not_pooled() -> None:
    missing = Compared("dense", 64, "speedup", Quantity(1, None, None), None, Change.NONE)
    assert pool("speedup", [missing, *change_of(1)]) is None

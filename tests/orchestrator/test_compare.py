"""`orchestrate compare`: times on equal machines only, speedups with their intervals otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evidence_samples import RTX_4090, bench_rows, interpreted, row
from judging import documented
from test_reporting import complete

from orchestrator.cli.app import cli
from orchestrator.errors import StoreError
from orchestrator.gates.compare import Change, compare_cell, differences

H200 = "NVIDIA H200"


def times(length: int, speedup: float, device: str = RTX_4090) -> dict[str, object]:
    """The kernel faster or slower; the reference as it was."""
    ours = 0.15 * length / 64 / speedup
    return {
        "tri_ms": ours, "tri_p10": 0.98 * ours, "tri_p90": 1.03 * ours, "operator_tri_ms": ours,
        "speedup": speedup, "speedup_lo": speedup - 0.05, "speedup_hi": speedup + 0.05,
        "device": device,
    }  # fmt: skip


def run(folder: Path, speedup: float = 1.5, device: str = RTX_4090) -> Path:
    made = complete(
        folder,
        lambda mode, length: row(mode, length, **times(length, speedup, device)),
        device,
    )
    return made.paths.root


def compare(a: Path, b: Path, *options: str) -> Result:
    words = ["compare", str(a), str(b), *options]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def compared(a: Path, b: Path) -> dict:
    result = compare(a, b, "--json")
    assert result.return_value == 0
    return json.loads(result.output)


def test_before_and_after_on_one_machine(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a"), run(tmp_path / "b", 1.8))
    assert set(found) == documented("compare.md")
    assert (found["schema"], found["exit_code"]) == (1, 0)
    assert found["absolute"] is True
    assert found["differences"] == {}
    assert found["counts"]["better"] == 6
    of_kernel = [cell for cell in found["cells"] if cell["what"] == "tri_ms"]
    assert {cell["change"] for cell in of_kernel} == {"better"}
    assert of_kernel[0]["ratio"] == pytest.approx(1.5 / 1.8, rel=1e-4)
    of_reference = [cell for cell in found["cells"] if cell["what"] == "ref_ms"]
    assert {cell["change"] for cell in of_reference} == {"within noise"}


def test_the_other_way_round_it_is_worse(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a", 1.8), run(tmp_path / "b"))
    assert found["counts"]["worse"] == 6


def test_overlapping_intervals_are_noise(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a", 1.5), run(tmp_path / "b", 1.55))
    assert found["counts"]["within noise"] == 6


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


def test_card_against_card_compares_no_times(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a"), run(tmp_path / "b", 1.8, H200))
    assert found["absolute"] is False
    assert found["differences"]["device"] == [RTX_4090, H200]
    assert {cell["what"] for cell in found["cells"]} == {"speedup"}
    text = compare(tmp_path / "a" / "20250102-030405-9f3a", tmp_path / "b" / "20250102-030405-9f3a")
    assert f"only speedups are compared, not times: device {RTX_4090} / {H200}" in text.output


def test_the_interpreters_times_are_not_compared(tmp_path: Path) -> None:
    a = complete(tmp_path / "a", interpreted).paths.root
    b = complete(tmp_path / "b", interpreted).paths.root
    result = compare(a, b)
    assert result.return_value == 4
    assert "No cell was timed on a card in both runs" in result.output


def test_a_run_whose_evidence_is_invalid_proves_nothing(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 1.8)
    file = next(b.rglob("artifacts/sel_dense.csv"))
    file.write_bytes(file.read_bytes().replace(b"2.", b"3.", 1))
    for pair in ((a, b), (b, a)):
        result = compare(*pair)
        assert result.return_value == 5
        assert "is INVALID: these numbers prove nothing" in result.output
        assert compare(*pair, "--json").return_value == 5


def test_runs_that_report_different_references_are_compared_over_one(tmp_path: Path) -> None:
    def over_shipped(mode: str, length: int) -> dict[str, object]:
        # the same measurements; its own columns are those of the shipped reference
        own = row(mode, length)
        return {
            **own, "basis": "shipped", "ref_ms": own["operator_shipped_ms"],
            "speedup": 1.55, "speedup_lo": 1.5, "speedup_hi": 1.6,
        }  # fmt: skip

    b = complete(tmp_path / "b", over_shipped, RTX_4090).paths.root
    a = complete(tmp_path / "a", row, RTX_4090).paths.root
    found = compared(a, b)
    assert (found["level"], found["reference"]) == ("operator", "strongest")
    speedups = [cell for cell in found["cells"] if cell["what"] == "speedup"]
    assert [cell["ratio"] for cell in speedups] == pytest.approx([1] * 6)
    assert {cell["change"] for cell in speedups} == {"within noise"}
    (reference, *_) = (cell for cell in found["cells"] if cell["what"] == "ref_ms")
    assert (reference["ratio"], reference["change"]) == (pytest.approx(1), "no interval")


def test_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        compare(run(tmp_path / "a"), tmp_path / "none")


@pytest.mark.parametrize("name", ["device", "driver", "torch", "triton", "contract"])
def test_every_difference_and_every_gap_counts(name: str) -> None:
    equal = dict.fromkeys(("device", "driver", "torch", "triton", "contract"), "x")
    assert differences(equal, equal) == {}
    assert differences(equal, {**equal, name: "y"}) == {name: ("x", "y")}
    assert list(differences({**equal, name: None}, {**equal, name: None})) == [name]


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

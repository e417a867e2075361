"""`orchestrate judge` on files of several cards: each is decided by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_samples import PARITY, RTX_4090, csv_of, junit
from evidence_samples import case as junit_case
from judging import LENGTHS, cell, judge, judged, losing, write_set
from machine_samples import retimed

L40S = "NVIDIA L40S"


def of_card(folder: Path, device: str, **edit: object) -> list[Path]:
    """A set in a folder of its own, as if it had been measured on `device`."""
    folder.mkdir()
    files = write_set(folder, **edit)
    slower = {",920,": ",780,", ",910.8,": ",772,"} if device == L40S else {}
    for path in folder.iterdir():
        text = path.read_text().replace(RTX_4090, device)
        for old, new in slower.items():
            text = text.replace(old, new)
        path.write_text(retimed(text))
    return files


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """An RTX 4090 on which Triton wins, and an L40S on which it does not."""
    lost = {
        f"{mode}_{n}": losing(n) | {"l2_mib": 96}
        for mode, lengths in LENGTHS.items()
        for n in lengths
    }
    return [*of_card(tmp_path / "a", RTX_4090), *of_card(tmp_path / "b", L40S, **lost)]


def outcomes(found: dict) -> dict[str, str]:
    return {decision["device"]: decision["outcome"] for decision in found["decisions"]}


def test_each_card_has_its_decision(two: list[Path]) -> None:
    found = judged(*two)
    assert outcomes(found) == {RTX_4090: "ENABLE", L40S: "KEEP_OFF"}
    assert (found["decision"], found["exit_code"]) == (None, 0)
    assert [gate["gate"] for gate in found["gates"] if "matrix" in gate["gate"]] == [
        f"completeness matrix of {RTX_4090}",
        f"completeness matrix of {L40S}",
    ]
    lines = judge(*two).output.splitlines()
    first, second = lines.index(RTX_4090), lines.index(L40S)
    assert any(line.startswith("  ENABLE from L=128: on NVIDIA Ge") for line in lines[first:second])
    assert any(line.startswith("  KEEP_OFF: on NVIDIA L40S") for line in lines[second:])


def test_the_order_of_the_files_is_no_matter(two: list[Path]) -> None:
    dense, varlen, other_dense, other_varlen = two
    assert outcomes(judged(other_varlen, dense, other_dense, varlen)) == outcomes(judged(*two))


def test_the_worst_of_the_cards_is_the_verdict(two: list[Path]) -> None:
    two[3].unlink()
    found = judged(*two[:3])
    assert outcomes(found) == {RTX_4090: "ENABLE", L40S: "UNDECIDED"}
    assert (found["verdict"], found["exit_code"]) == ("NOT_VERIFIED", 4)


def test_one_card_is_as_it_always_was(two: list[Path]) -> None:
    found = judged(*two[:2])
    assert found["decisions"] == [found["decision"]]
    assert found["decision"]["outcome"] == "ENABLE"
    assert "completeness matrix" in {gate["gate"] for gate in found["gates"]}
    assert RTX_4090 not in judge(*two[:2]).output.splitlines()


def test_an_undecided_one_has_its_name_in_the_list(two: list[Path]) -> None:
    found = judged(two[0])
    assert found["decision"]["device"] is None
    assert outcomes(found) == {RTX_4090: "UNDECIDED"}


def test_two_cards_in_one_file_are_no_two_measurements(two: list[Path]) -> None:
    rows = [cell("dense", length) for length in LENGTHS["dense"]]
    two[0].write_bytes(csv_of("dense", *rows[:-1], {**rows[-1], "device": L40S}))
    found = judged(*two)
    assert found["exit_code"] == 5
    assert outcomes(found) == {f"{RTX_4090}, {L40S}": "UNDECIDED"}
    assert "was not one run on one card" in json.dumps(found)


def test_what_names_no_card_counts_for_each(two: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "sel_more.csv"
    empty.write_text("")
    found = judged(*two, empty)
    assert set(outcomes(found).values()) == {"UNDECIDED"}
    assert [gate["gate"] for gate in found["gates"]].count("bench sel_more.csv") == 1


def parity(path: Path, device: str, *kernels: str) -> Path:
    tests = [
        junit_case(
            kernel, {**PARITY, "kernel_path": kernel, "device": device, "mae": f"{n + 1}e-4"}
        )
        for n, kernel in enumerate(kernels)
    ]
    path.write_bytes(junit(*tests))
    return path


def test_tests_count_for_the_card_that_they_ran_on(two: list[Path], tmp_path: Path) -> None:
    every = ("triton.dense.group", "triton.varlen.group")
    mine = parity(tmp_path / "a.xml", RTX_4090, *every)
    assert outcomes(judged(*two, mine)) == {RTX_4090: "ENABLE", L40S: "KEEP_OFF"}
    thin = parity(tmp_path / "b.xml", L40S, every[0])
    assert outcomes(judged(*two, mine, thin)) == {RTX_4090: "ENABLE", L40S: "UNDECIDED"}
    elsewhere = parity(tmp_path / "c.xml", "cpu-interpreter", *every)
    assert outcomes(judged(*two, elsewhere)) == {RTX_4090: "UNDECIDED", L40S: "UNDECIDED"}


@pytest.mark.parametrize(
    ("device", "kernels", "says"),
    [
        (RTX_4090, ["triton.dense.group"], f"not shown on {RTX_4090} for triton.varlen, which"),
        ("cpu-interpreter", ["triton.dense", "triton.varlen"], "shown on cpu-interpreter, the"),
    ],
)
def test_parity_that_is_not_of_these_kernels_is_not_verified(
    two: list[Path], tmp_path: Path, device: str, kernels: list[str], says: str
) -> None:
    found = judged(*two[:2], parity(tmp_path / "p.xml", device, *kernels))
    gate = next(gate for gate in found["gates"] if gate["gate"] == "completeness kernels")
    assert (gate["verdict"], found["exit_code"]) == ("NOT_VERIFIED", 4)
    assert says in gate["message"]
    assert gate["next_step"].startswith(f"Run the parity tests of all kernels on {RTX_4090}")
    assert found["decision"]["outcome"] == "UNDECIDED"


def test_parity_of_these_kernels_on_this_card_stands(two: list[Path], tmp_path: Path) -> None:
    shown = parity(tmp_path / "p.xml", RTX_4090, "triton.dense.group", "triton.varlen.head")
    found = judged(*two[:2], shown)
    assert found["decision"]["outcome"] == "ENABLE"
    gate = next(gate for gate in found["gates"] if gate["gate"] == "completeness kernels")
    assert gate["measured"] == {"timed": {RTX_4090: ["triton.dense", "triton.varlen"]}}

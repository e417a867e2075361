"""`orchestrate judge` on sets of this project's CSVs: honest ones are decided."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from evidence_samples import PARITY, csv_of, interpreted, junit, skip
from evidence_samples import case as junit_case
from judging import (
    LENGTHS,
    cell,
    judge,
    judged,
    losing,
    verdicts,
    write_set,
)
from machine_samples import retimed

from kernels.bench.contract import columns
from orchestrator.errors import UsageError


def test_an_honest_set_enables_from_the_right_length(tmp_path: Path) -> None:
    found = judged(*write_set(tmp_path))
    assert [g for g in found["gates"] if g["verdict"] != "PASS"] == []
    assert found["decision"]["outcome"] == "ENABLE"
    assert found["decision"]["min_L"] == 128, "varlen says nothing about 64"
    assert found["exit_code"] == 0


H200_US = {
    64: (13.5, 6.5),
    128: (21.0, 7.2),
    256: (36.8, 7.3),
    512: (66.0, 7.6),
    1024: (125.5, 7.9),
}
"""Kernel's time and the gathering reference's ratio to it, N=1024, H=8, D=128."""


def _h200(mode: str, length: int) -> dict[str, object]:
    microseconds, ratio = H200_US[length]
    microseconds *= 1.0 if mode == "dense" else 1.001
    tri, ref = microseconds / 1e3, microseconds * ratio / 1e3
    around = {"tri_p10": 0.98 * tri, "tri_p90": 1.04 * tri}
    around |= {"ref_p10": 0.98 * ref, "ref_p90": 1.04 * ref}
    bounds = {"speedup": ratio, "speedup_lo": 0.985 * ratio, "speedup_hi": 1.015 * ratio}
    card = {"device": "NVIDIA H200", "l2_mib": 50, "launch_us": 2.2, "sm_mhz": 1500}
    card |= {"sm_max_mhz": 1980, "timer": "graph"}
    # of packed keys SDPA makes much more
    packed = {"kernel_strongest_ms": 1.17 * tri}
    packed |= {"kernel_strongest_lo": 1.28, "kernel_strongest_hi": 1.32}
    return {"tri_ms": tri, "ref_ms": ref} | around | bounds | card | packed


def test_an_h200_at_its_power_cap_is_believed(tmp_path: Path) -> None:
    edit = {
        f"{mode}_{length}": _h200(mode, length)
        for mode, lengths in LENGTHS.items()
        for length in lengths
    }
    files = write_set(tmp_path, **edit)
    for path, changes in (
        (tmp_path / "telemetry.csv", {",2505,2520,": ",1500,1980,", "0x0000000000000000": "0x4"}),
        (tmp_path / "sel_dense.canary.csv", {",920,": ",4180,", ",910.8,": ",4150,"}),
        (tmp_path / "sel_varlen.canary.csv", {",920,": ",4180,", ",910.8,": ",4150,"}),
    ):
        text = path.read_text()
        for old, new in {**changes, "NVIDIA GeForce RTX 4090": "NVIDIA H200"}.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(retimed(text))
    found = judged(*files)
    assert [g for g in found["gates"] if g["verdict"] != "PASS"] == []
    assert found["decision"]["min_L"] == 128
    machine = next(g for g in found["gates"] if g["gate"].startswith("machine"))
    assert "low, and steady" in machine["message"]


def test_one_losing_cell_at_a_larger_length_moves_it(tmp_path: Path) -> None:
    found = judged(*write_set(tmp_path, varlen_256=losing(256)))
    assert (found["decision"]["outcome"], found["decision"]["min_L"]) == ("ENABLE", 512)


def test_one_length_that_wins_enables_nothing(tmp_path: Path) -> None:
    edit = {f"{m}_{n}": losing(n) for m, lengths in LENGTHS.items() for n in lengths if n != 256}
    found = judged(*write_set(tmp_path, **edit))
    assert (found["decision"]["outcome"], found["exit_code"]) == ("KEEP_OFF", 0)
    assert "L=256 is not" in json.dumps(found["decision"]["non_monotone"])


def test_a_compiler_that_aborts_in_the_middle_decides_nothing(tmp_path: Path) -> None:
    dead = {"status": "error: Aborted (MLIR: operand #1 does not dominate this use)"}
    files = write_set(tmp_path, varlen_512=dead, varlen_1024=None)
    varlen = files[1]
    varlen.write_text(varlen.read_text().partition("#end")[0])
    found = judged(*files)
    assert (found["decision"]["outcome"], found["exit_code"]) == ("UNDECIDED", 1)
    told = json.dumps(found)
    assert "1 cell did not run: sel_varlen.csv, line 4, varlen many" in told
    assert "L=512 (error: Aborted (MLIR" in told
    assert "no end mark" in told


def test_a_spent_budget_is_missing_evidence_and_each_finding_has_its_remedy(
    tmp_path: Path,
) -> None:
    spent = {"status": "error: not measured: the budget of 190 s is spent"}
    files = write_set(tmp_path, varlen_1024=spent, varlen_512={"iters": 5})
    result = judge(*files)
    assert result.return_value == 4
    lines = result.output.splitlines()
    at = next(n for n, line in enumerate(lines) if "1 cell not measured: sel_varlen.csv" in line)
    assert "line 5, varlen many" in lines[at]
    assert "L=1024 (the budget of 190 s is spent)." in lines[at]
    assert lines[at + 1].strip().startswith("-> Raise --budget")
    few = next(n for n, line in enumerate(lines) if "Only 5 timed iterations" in line)
    assert lines[few + 1].strip().startswith("-> Run with --iters 10")


def test_an_all_losing_set_keeps_it_off_and_exits_with_zero(tmp_path: Path) -> None:
    edit = {f"{m}_{n}": losing(n) for m, lengths in LENGTHS.items() for n in lengths}
    found = judged(*write_set(tmp_path, **edit))
    assert (found["decision"]["outcome"], found["exit_code"]) == ("KEEP_OFF", 0)
    assert found["decision"]["min_L"] == 2048


NOT_JUDGED = ("seed", "mem_mhz", "temperature_c")
"""The telemetry has the temperature too."""


@pytest.mark.parametrize("column", [name for name in columns("varlen") if name not in NOT_JUDGED])
def test_a_column_that_is_left_empty_decides_nothing(tmp_path: Path, column: str) -> None:
    files = write_set(tmp_path)
    rows = [cell("varlen", length) | {column: ""} for length in LENGTHS["varlen"]]
    files[1].write_bytes(csv_of("varlen", *rows))
    found = judged(*files)
    assert found["decision"]["outcome"] == "UNDECIDED"
    assert found["exit_code"] in (4, 5)


@pytest.mark.parametrize("cell", ["varlen_256", "varlen_1024", "dense_512", "dense_1024"])
def test_one_missing_cell_decides_nothing(tmp_path: Path, cell: str) -> None:
    found = judged(*write_set(tmp_path, **{cell: None}))
    assert (found["decision"]["outcome"], found["exit_code"]) == ("UNDECIDED", 4)
    assert f"L={cell.partition('_')[2]}" in next(
        g["message"] for g in found["gates"] if g["gate"] == "completeness matrix"
    )


def test_the_files_of_two_runs_are_not_one_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_set(tmp_path / name)
    found = judged(*(tmp_path / name / "sel_dense.csv" for name in ("a", "b")))
    assert verdicts(found)["matrix"] == "INVALID"
    assert "and again in " in json.dumps(found)


def test_a_margin_that_nobody_reaches_keeps_it_off(tmp_path: Path) -> None:
    files = write_set(tmp_path)
    assert judged(*files, "--margin", 1.5)["decision"]["outcome"] == "KEEP_OFF"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheets_separators_are_understood_in_every_kind(
    tmp_path: Path, delimiter: str
) -> None:
    files = write_set(tmp_path)
    for path in tmp_path.iterdir():
        path.write_text(path.read_text().replace(",", delimiter))
    found = judged(*files)
    assert (found["decision"]["outcome"], found["decision"]["min_L"]) == ("ENABLE", 128)


def test_one_file_by_two_names_is_one(tmp_path: Path) -> None:
    dense, varlen = write_set(tmp_path)
    (tmp_path / "folder").mkdir()
    again = tmp_path / "folder" / ".." / dense.name
    assert judged(dense, again, varlen)["decision"]["outcome"] == "ENABLE"


def test_varlen_copied_from_dense_is_no_second_measurement(tmp_path: Path) -> None:
    dense, varlen = write_set(tmp_path)
    times = [name for name in columns("dense") if name.endswith(("_ms", "_p10", "_p90"))]
    rows = []
    for length in LENGTHS["varlen"]:
        source, own = cell("dense", length), cell("varlen", length)
        rows.append(own | {n: source[n] for n in times if n not in ("began_ms", "ended_ms")})
    varlen.write_bytes(csv_of("varlen", *rows))
    found = judged(dense, varlen)
    assert verdicts(found)["matrix"] == "INVALID"
    assert "sel_varlen.csv, line 2 and sel_dense.csv, line 3 agree in every" in json.dumps(found)


def test_what_no_single_file_shows_is_the_matrixs_with_a_remedy(tmp_path: Path) -> None:
    edit = {f"varlen_{n}": {"torch": "2.14.0"} for n in LENGTHS["varlen"]}
    found = judged(*write_set(tmp_path, **edit))
    gate = next(g for g in found["gates"] if g["gate"] == "completeness matrix")
    assert "not measured in one run on one card: torch is 2.13.0, 2.14.0" in gate["message"]
    assert gate["next_step"].startswith("Measure both modes on one card")


def test_two_benchmarks_at_once_show_no_quiet_card(tmp_path: Path) -> None:
    windows = {n: cell("dense", n) for n in LENGTHS["dense"]}
    edit = {
        f"varlen_{n}": {when: windows[n][when] for when in ("began_ms", "ended_ms")}
        for n in LENGTHS["varlen"]
    }
    found = judged(*write_set(tmp_path, **edit))
    assert found["exit_code"] == 4
    gate = next(g for g in found["gates"] if g["gate"] == "completeness matrix")
    assert "sel_dense.csv, line 3 and sel_varlen.csv, line 2 were timed at once" in gate["message"]


def test_a_device_that_is_not_used_is_said(tmp_path: Path) -> None:
    found = judged(*write_set(tmp_path), "--device", "H200")
    (note,) = found["notes"]
    assert note.startswith("--device H200 is not used: every row names its card, NVIDIA GeForce")


def test_a_compressed_file_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    file.write_bytes(gzip.compress(b"x"))
    with pytest.raises(UsageError, match="is compressed"):
        judge(file)


def test_one_distribution_alone_decides_nothing(tmp_path: Path) -> None:
    found = judged(write_set(tmp_path)[0])
    assert found["decision"]["outcome"] == "UNDECIDED"
    assert "no varlen measurements" in found["decision"]["summary"]
    assert found["exit_code"] == 4


@pytest.mark.parametrize(
    ("telemetry", "canary", "says"),
    [
        ("throttled.csv", "steady", "throttled"),
        ("busy.csv", "steady", "Other processes"),
        ("quiet.csv", "drifted", "not the same before and after"),
    ],
)
def test_a_disturbed_machine_decides_nothing(
    tmp_path: Path, telemetry: str, canary: str, says: str
) -> None:
    found = judged(*write_set(tmp_path, telemetry, canary))
    assert (found["exit_code"], found["decision"]["outcome"]) == (5, "UNDECIDED")
    assert any(says in gate["message"] for gate in found["gates"])


def test_each_csv_has_the_telemetry_of_its_own_folder(tmp_path: Path) -> None:
    for name, telemetry in (("a", "quiet.csv"), ("b", "throttled.csv")):
        (tmp_path / name).mkdir()
        write_set(tmp_path / name, telemetry)
    found = judged(tmp_path / "a" / "sel_dense.csv", tmp_path / "b" / "sel_varlen.csv")
    assert {g["gate"]: g["verdict"] for g in found["gates"] if g["gate"].startswith("machine")} == {
        "machine sel_dense.csv": "PASS",
        "machine sel_varlen.csv": "INVALID",
    }


def test_skipped_tests_beside_the_csvs_count(tmp_path: Path) -> None:
    files = write_set(tmp_path)
    (tmp_path / "parity.xml").write_bytes(junit(junit_case("t", inner=skip("no flag"))))
    found = judged(*files, tmp_path / "parity.xml")
    assert verdicts(found)["tests"] == "NOT_VERIFIED"
    assert found["decision"]["outcome"] == "UNDECIDED"


@pytest.mark.parametrize(
    ("data", "verdict", "says"),
    [
        (junit(junit_case("t", inner=skip("no flag"))), "NOT_VERIFIED", "skipped is not passed"),
        (junit(), "NOT_VERIFIED", "No test was collected"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><testsuites/>', "INVALID", "a document type or entity"),
        (b"<svg/>", "INVALID", "not a JUnit file"),
    ],
)
def test_test_results_alone_are_judged(
    tmp_path: Path, data: bytes, verdict: str, says: str
) -> None:
    file = tmp_path / "parity.xml"
    file.write_bytes(data)
    found = judged(file)
    assert (found["verdict"], found["decision"]["outcome"]) == (verdict, "UNDECIDED")
    assert says in found["gates"][0]["message"]


def test_tests_that_pass_decide_nothing_alone(tmp_path: Path) -> None:
    file = tmp_path / "parity.xml"
    file.write_bytes(junit(junit_case("t", PARITY)))
    found = judged(file)
    assert [gate["verdict"] for gate in found["gates"]] == ["PASS", "PASS"]
    assert found["exit_code"] == 4
    assert found["decision"]["summary"] == "UNDECIDED: nothing was timed."


def test_a_broken_telemetry_is_invalid_and_not_ignored(tmp_path: Path) -> None:
    files = write_set(tmp_path)
    (tmp_path / "telemetry.csv").write_text("timestamp_ms,sm_mhz\n1,fast\n")
    found = judged(*files)
    assert found["exit_code"] == 5


def test_the_interpreters_csv_is_no_evidence_about_a_card(tmp_path: Path) -> None:
    file = tmp_path / "sel_dense.csv"
    file.write_bytes(csv_of("dense", interpreted("dense", 64)))
    found = judged(file)
    assert found["exit_code"] == 4
    assert verdicts(found)["physics"] == "NOT_VERIFIED"

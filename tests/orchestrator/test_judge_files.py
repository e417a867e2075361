"""`orchestrate judge`: foreign CSVs are refuted by name, honest ones of ours are decided."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from evidence_samples import PARITY, csv_of, interpreted, junit, row, skip
from evidence_samples import case as junit_case
from test_reporting import complete

from kernels.bench.contract import columns
from orchestrator.cli.app import cli
from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.foreign import parse_foreign

FIXTURES = Path(__file__).parent / "fixtures"
FOREIGN, MACHINE = FIXTURES / "foreign", FIXTURES / "machine"
LENGTHS = {"dense": (64, 128, 256, 512, 1024), "varlen": (128, 256, 512, 1024)}
BEGAN = 1763900000000
HEADER = "mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae"


def judge(*arguments: object) -> Result:
    """`return_value` is the exit code; what is refused is raised."""
    words = ["judge", *map(str, arguments)]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def judged(*arguments: object) -> dict:
    result = judge(*arguments, "--json")
    found = json.loads(result.output)
    assert result.return_value == found["exit_code"]
    return found


def verdicts(found: dict) -> dict[str, str]:
    """Of a single CSV, by kind of gate."""
    return {
        gate["gate"].partition(" ")[2 * (gate["gate"] == "completeness matrix")]: gate["verdict"]
        for gate in found["gates"]
    }


def test_the_published_row_is_impossible() -> None:
    result = judge(FOREIGN / "impossible_bandwidth.csv", "--device", "RTX 4090")
    assert result.return_value == 5
    first = result.output.splitlines()[0]
    assert first.startswith("INVALID      physics")
    assert "15 TB/s, against a peak of 1.008 TB/s" in first
    assert "the reference's 0.018 ms" in first
    assert "line 2" in first


@pytest.mark.parametrize(
    ("file", "gate", "verdict", "code", "says"),
    [
        ("flat_in_L.csv", "physics", "INVALID", 5, "1.62 ms at L=64 and 1.64 ms at L=1024"),
        ("first_64_keys.csv", "physics", "INVALID", 5, "0.31 ms at L=64 and 0.311 ms at L=1024"),
        ("first_key.csv", "parity", "INVALID", 5, "ignored: a middle key"),
        ("appended.csv", "bench", "INVALID", 5, "line 3: a second header; the file was appended"),
        ("twice.csv", "completeness", "INVALID", 5, "line 3 repeats line 2"),
        ("truncated.csv", "bench", "INVALID", 5, "line 3: 8 fields, the header names 11"),
        ("missing_cell.csv", "matrix", "NOT_VERIFIED", 4, "H=4 D=128 Dv=128 streams=1 L=512"),
        ("error_rows.csv", "completeness", "FAIL", 1, "does not dominate this use"),
        ("mae_ignored.csv", "parity", "FAIL", 1, "0.15 at dense"),
        ("one_sided_streams.csv", "timing", "INVALID", 5, "2 streams, the reference on 1"),
        ("divided_times.csv", "timing", "INVALID", 5, "speedup 2.667 is not ref_ms / tri_ms"),
        ("fallback.csv", "parity", "INVALID", 5, "sdpa_packed ran"),
    ],
)
def test_each_fault_is_refused_in_words(
    file: str, gate: str, verdict: str, code: int, says: str
) -> None:
    found = judged(FOREIGN / file, "--device", "RTX 4090")
    assert found["exit_code"] == code
    assert verdicts(found)[gate] == verdict
    assert any(says in g["message"] for g in found["gates"] if gate in g["gate"])
    assert all(g["next_step"] for g in found["gates"] if g["verdict"] != "PASS")
    assert found["decision"]["outcome"] == "UNDECIDED"


@pytest.mark.parametrize(
    ("file", "gate", "verdict", "code", "says"),
    [
        ("all_skipped.xml", "tests", "NOT_VERIFIED", 4, "All 2 tests were skipped (set NSA_TEST"),
        ("none_collected.xml", "tests", "NOT_VERIFIED", 4, "No test was collected"),
        ("fallback.xml", "parity", "INVALID", 5, "compared a fallback with the reference"),
    ],
)
def test_tests_that_show_nothing_are_refused_in_words(
    file: str, gate: str, verdict: str, code: int, says: str
) -> None:
    found = judged(FIXTURES / "junit" / file)
    assert (found["exit_code"], verdicts(found)[gate]) == (code, verdict)
    assert any(says in g["message"] for g in found["gates"])


@pytest.mark.parametrize(
    ("file", "would"),
    [("one_length_wins.csv", "would keep Triton off."), ("missing_cell.csv", None)],
)
def test_what_foreign_numbers_would_decide(file: str, would: str | None) -> None:
    summary = judged(FOREIGN / file, "--device", "RTX 4090")["decision"]["summary"]
    assert summary.endswith(would) if would else "at their word" not in summary


def test_without_device_the_card_is_asked_for() -> None:
    found = judged(FOREIGN / "no_device.csv")
    physics = next(g for g in found["gates"] if g["gate"].startswith("physics"))
    assert physics["verdict"] == "NOT_VERIFIED"
    assert "device" in physics["message"]
    assert "--device" in physics["next_step"]


def test_variants_of_the_header_are_understood_and_said() -> None:
    result = judge(FOREIGN / "variants.csv")
    assert "Triton (us) as tri_ms" in result.output
    assert "not used: Comment" in result.output
    row = parse_foreign((FOREIGN / "variants.csv").read_bytes()).rows[0]
    assert (row.mode, row.N, row.H, row.D, row.Dv, row.L) == ("dense", 1024, 8, 128, 128, 256)
    assert (row.tri_ms, row.ref_ms, row.speedup, row.mae) == (0.18, 0.24, 1.33, 2e-4)
    assert row.device == "NVIDIA GeForce RTX 4090"


def test_the_documents_other_names_and_their_errors() -> None:
    text = "N,H,D,Dv,L,triton_ms,sdpa_ms,status\n1024,8,64,64,64,0.1,0.2,ok\n1024,8,64,64,128,ERROR"
    ran, died = parse_foreign(f"{text}\n".encode(), "sel_varlen.csv").rows
    assert (ran.tri_ms, ran.ref_ms, ran.ok, ran.mode) == (0.1, 0.2, True, "varlen")
    assert (died.ok, died.failed, died.L) == (False, "ERROR", 128)


@pytest.mark.parametrize("column", ["H", "Dv", "dtype", "mae", "speedup", "streams", "N", "L"])
def test_no_missing_column_ever_passes(tmp_path: Path, column: str) -> None:
    names = [*HEADER.split(","), "dtype", "device"]
    fields = "dense,1024,8,128,128,256,1,0.18,0.24,1.333,2e-4,fp16,RTX 4090"
    values = dict(zip(names, fields.split(","), strict=True))
    del values[column]
    file = tmp_path / "x.csv"
    file.write_text(f"{','.join(values)}\n{','.join(values.values())}\n")
    found = judged(file)
    assert found["exit_code"] in (4, 5)
    assert found["decision"]["outcome"] == "UNDECIDED"
    if column in ("H", "Dv", "dtype", "mae", "N"):
        assert any(column in gate["message"] for gate in found["gates"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "names no L and no time"),
        (f"{HEADER},triton_ms\n", "both mean tri_ms"),
        (f"{HEADER}\n1,2\n", "line 2: 2 fields"),
        (f"{HEADER}\n#end,3\n", "counts 3 rows, the file holds 0"),
        (f"{HEADER}\n#end,0\ndense\n", "after the end mark"),
    ],
)
def test_what_is_no_table_of_cells_is_refused(text: str, says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        parse_foreign(text.encode())


HONEST = {
    "mode": "dense", "N": "1024", "H": "8", "D": "128", "Dv": "128", "L": "256", "streams": "1",
    "tri_ms": "0.18", "ref_ms": "0.24", "speedup": "1.333", "mae": "2e-4", "dtype": "fp16",
    "device": "RTX 4090",
}  # fmt: skip


def foreign_csv(folder: Path, *rows: dict[str, str]) -> Path:
    """A CSV of honest rows with some fields changed."""
    file = folder / "x.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, HONEST)
        writer.writeheader()
        writer.writerows({**HONEST, **changes} for changes in rows)
    return file


@pytest.mark.parametrize(
    "spelling",
    [
        {"mode": "DENSE"},
        {"dtype": "FP16"},
        {"dtype": "torch.float16"},
        {"N": "1024.0"},
        {"streams": "01"},
        {"L": "+256"},
        {"device": "rtx  4090"},
        {"device": "NVIDIA GeForce RTX 4090"},
    ],
    ids=str,
)
def test_a_doubled_row_is_one_however_it_is_spelled(tmp_path: Path, spelling: dict) -> None:
    found = judged(foreign_csv(tmp_path, {}, spelling))
    assert verdicts(found)["completeness"] == "INVALID"
    assert "line 3 repeats line 2" in json.dumps(found)


def test_rows_of_two_cards_are_no_one_measurement(tmp_path: Path) -> None:
    other = {"device": "NVIDIA H200"}
    found = judged(foreign_csv(tmp_path, {}, {"L": "512"} | other, other, {"L": "512"}))
    assert verdicts(found)["completeness"] == "NOT_VERIFIED"
    told = json.dumps(found)
    assert "x.csv has rows of several cards: NVIDIA H200, RTX 4090." in told
    assert "repeats" not in told
    assert "Taken at their word" not in told


@pytest.mark.parametrize("spelling", [{"N": "01024"}, {"streams": "+1"}], ids=str)
def test_so_is_a_row_of_ours(tmp_path: Path, spelling: dict) -> None:
    dense, _ = write_set(tmp_path)
    rows = [_cell("dense", length) for length in LENGTHS["dense"]]
    dense.write_bytes(csv_of("dense", *rows, {**rows[0], **spelling}))
    assert "cells that were measured twice: L=64" in json.dumps(judged(dense))


@pytest.mark.parametrize(
    ("column", "value"), [("N", "1,024"), ("N", "1.024"), ("L", "9" * 400), ("H", "0"), ("D", "x")]
)
def test_a_size_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, column: str, value: str
) -> None:
    (bench, *_) = judged(foreign_csv(tmp_path, {}, {column: value, "L": "512"} | {column: value}))[
        "gates"
    ]
    assert bench["verdict"] == "INVALID"
    assert f"line 3, column {column}: {value[:40]!r} is not a whole number" in bench["message"]


def test_a_second_header_is_one_in_capitals(tmp_path: Path) -> None:
    file = foreign_csv(tmp_path, {}, {"L": "512"})
    file.write_text(file.read_text() + file.read_text().upper())
    assert "line 4: a second header" in judge(file).output


@pytest.mark.parametrize("sign", ["\u00b5", "\u03bc", "u"])
def test_microseconds_are_read_as_such(tmp_path: Path, sign: str) -> None:
    values = (
        f"{HEADER.replace('tri_ms', f'triton ({sign}s)')}\ndense,1,1,1,1,1,1,180,240 {sign}s,1,0\n"
    )
    (found,) = parse_foreign(values.encode()).rows
    assert (found.tri_ms, found.ref_ms) == (0.18, 0.24)


def test_a_version_is_no_time() -> None:
    """`triton` is the contract's column of versions; others call their time so."""
    sizes = "mode,N,H,D,Dv,L"
    both = f"{sizes},triton_ms,sdpa_ms,torch,triton\ndense,1,1,1,1,1,0.2,0.3,2.1,3.1\n"
    table = parse_foreign(both.encode())
    assert (table.rows[0].tri_ms, table.rows[0].ref_ms) == (0.2, 0.3)
    assert "triton" not in table.renamed
    alone = parse_foreign(f"{sizes},triton,sdpa\ndense,1,1,1,1,1,0.2,0.3\n".encode())
    assert alone.rows[0].tri_ms == 0.2
    version = parse_foreign(f"{sizes},sdpa_ms,triton\ndense,1,1,1,1,1,0.3,3.1.0\n".encode())
    assert version.rows[0].ok
    assert version.rows[0].tri_ms is None


def test_microseconds_that_are_called_ms_are_doubted(tmp_path: Path) -> None:
    slow = [{"L": str(n), "tri_ms": str(n * 0.35), "ref_ms": str(n * 0.467)} for n in (256, 512)]
    found = judged(foreign_csv(tmp_path, *slow))
    assert verdicts(found)["physics"] == "NOT_VERIFIED"
    assert "with 0.15% of it: these may be microseconds" in json.dumps(found)
    fast = [{**row, "ref_ms": "0.3"} for row in slow]
    assert "microseconds" not in json.dumps(judged(foreign_csv(tmp_path, *fast)))


@pytest.mark.parametrize("begin", [HEADER, f"contract,{HEADER}", "timestamp_ms,sm_mhz"])
def test_a_header_without_end_is_refused_at_once(tmp_path: Path, begin: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(f"{begin},{','.join(f'c{number}' for number in range(10**5))}\n")
    (gate,) = judged(file)["gates"]
    assert gate["verdict"] == "INVALID"
    assert "more than the 1000 that are read" in gate["message"]


def test_a_spreadsheets_utf_16_is_called_that(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(f"{HEADER}\n".encode("utf-16"))
    (gate,) = judged(file)["gates"]
    assert "UTF-16, not UTF-8 text: save it as UTF-8" in gate["message"]


def test_a_decimal_comma_is_called_one(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("N;H;D;Dv;L;tri_ms;ref_ms\n1024;8;128;128;256;0,18;0.24\n")
    found = judged(file, "--device", "RTX 4090")
    assert any("tri_ms is 0,18, with a decimal comma" in g["message"] for g in found["gates"])


def test_an_empty_file_is_no_evidence(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("\n")
    assert verdicts(judged(file)) == {"bench": "NOT_VERIFIED"}


def test_an_error_that_is_nan_is_invalid(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(f"{HEADER}\ndense,1024,8,128,128,256,1,0.18,nan,1.3,nan\n")
    found = judged(file, "--device", "RTX 4090")
    assert verdicts(found)["parity"] == verdicts(found)["physics"] == "INVALID"


def test_hostile_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(
        f"{HEADER},status,\x1b]0;owned\x07\ndense,1024,8,128,128,256,1,,,,,\x1b[2Jdied\x07,x\n"
    )
    result = judge(file)
    assert "died" in result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


# --- sets of this project's CSVs --------------------------------------------------------------


def _cell(mode: str, length: int, **changes: object) -> dict[str, object]:
    began = BEGAN + 100 + 360 * LENGTHS[mode].index(length)
    when = {"began_ms": began, "ended_ms": began + 350}
    return row(mode, length, **{**when, **changes})


def write_set(folder: Path, telemetry: str = "quiet.csv", canary: str = "steady", **edit) -> list:
    """Two CSVs, their canaries and telemetry; `edit` maps `mode_L` to changed columns or None."""
    (folder / "telemetry.csv").write_bytes((MACHINE / telemetry).read_bytes())
    files = []
    for mode, lengths in LENGTHS.items():
        rows = []
        for length in lengths:
            changes = edit.get(f"{mode}_{length}", edit.get("every", {}))
            if changes is not None:
                rows.append(_cell(mode, length, **changes))
        files.append(folder / f"sel_{mode}.csv")
        files[-1].write_bytes(csv_of(mode, *rows))
        probes = (MACHINE / f"{canary}.canary.csv").read_bytes()
        (folder / f"sel_{mode}.canary.csv").write_bytes(probes)
    return files


def losing(length: int) -> dict[str, object]:
    """As fast as the reference, and no faster."""
    scale = length / 64
    own = {"speedup": 1.0, "speedup_lo": 0.95, "speedup_hi": 1.05}
    times = {"tri_ms": 0.15 * scale, "tri_p10": 0.147 * scale, "tri_p90": 0.156 * scale}
    shipped = {"operator_shipped_lo": 1.0, "operator_shipped_hi": 1.1}
    return own | times | shipped | {"operator_tri_ms": 0.15 * scale}


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
    return {"tri_ms": tri, "ref_ms": ref} | around | bounds | card


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
        path.write_text(text)
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
    rows = [_cell("varlen", length) | {column: ""} for length in LENGTHS["varlen"]]
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
        source, own = _cell("dense", length), _cell("varlen", length)
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


def test_a_device_that_is_not_used_is_said(tmp_path: Path) -> None:
    found = judged(*write_set(tmp_path), "--device", "H200")
    (note,) = found["notes"]
    assert note.startswith("--device H200 is not used: every row names its card, NVIDIA GeForce")
    assert found["schema"] == 1


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
        (b"<html><body>404</body></html>", "INVALID", "not a JUnit file"),
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


# --- run directories --------------------------------------------------------------------------


def _run(folder: Path) -> Path:
    run = complete(folder)
    run.step(0, "sync", action="sync", details={"files": 3})
    return run.paths.root


def _content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_directory_is_judged_again_and_left_as_it_is(tmp_path: Path) -> None:
    run = _run(tmp_path)
    before = _content(run)
    found = judged(run)
    assert found["exit_code"] == 4
    assert found["runs"][0]["decision"]["outcome"] == "UNDECIDED"
    assert _content(run) == before
    shown = judge(run).output
    assert "phase 1 (parity)" in shown
    assert "UNDECIDED" in shown


def test_a_run_whose_csv_was_edited_is_invalid(tmp_path: Path) -> None:
    run = _run(tmp_path)
    file = next(run.rglob("artifacts/sel_dense.csv"))
    file.write_bytes(file.read_bytes().replace(b"2.", b"3.", 1))
    found = judged(run)
    assert found["exit_code"] == 5
    assert "changed after it was pulled" in json.dumps(found)


def test_runs_and_files_go_together_and_the_worst_decides(tmp_path: Path) -> None:
    run = _run(tmp_path)
    found = judged(run, FOREIGN / "appended.csv")
    assert found["exit_code"] == 5
    assert found["runs"]
    assert found["files"] == ["appended.csv"]


# --- usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ["nan", "inf", "-inf", "0", "0.01", "0.99"])
def test_a_margin_below_one_or_beyond_all_is_a_usage_error(margin: str) -> None:
    words = ["judge", str(FOREIGN / "twice.csv"), "--margin", margin]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "--margin" in result.output


def test_nothing_to_judge_is_a_usage_error(tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.csv"
    telemetry.write_bytes((MACHINE / "quiet.csv").read_bytes())
    for path, says in (
        (tmp_path, "no run.json"),
        (telemetry, "neither a bench CSV nor test results"),
        (tmp_path / "none.csv", "does not exist"),
    ):
        with pytest.raises((UsageError, click.UsageError), match=says):
            judge(path)

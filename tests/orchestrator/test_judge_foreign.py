"""`orchestrate judge` on CSVs that this project did not write: refuted by name, never confirmed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from evidence_samples import csv_of
from judging import FIXTURES, FOREIGN, LENGTHS, cell, judge, judged, verdicts, write_set

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.foreign import parse_foreign

HEADER = "mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae"


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


def test_what_a_word_tells_apart_is_not_called_measured_twice(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    rows = [f"dense,1024,8,128,128,64,1,0.1,0.2,2,1e-4,{b}" for b in ("flash", "math")]
    file.write_text("\n".join([f"{HEADER},backend", *rows]))
    found = judged(file, "--device", "RTX 4090")
    gate = next(gate for gate in found["gates"] if gate["gate"].startswith("completeness t"))
    assert (gate["verdict"], "but for 'backend' (flash, math)" in json.dumps(gate)) == (
        "NOT_VERIFIED",
        True,
    )
    file.write_text(
        "\n".join([f"{HEADER},seconds", *(row.rpartition(",")[0] + ",1" for row in rows)])
    )
    assert "repeats line 2 (dense" in judge(file, "--device", "RTX 4090").output


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
    rows = [cell("dense", length) for length in LENGTHS["dense"]]
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
    assert "microseconds" not in json.dumps(judged(foreign_csv(tmp_path, *fast))["gates"])


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
    assert "UTF-16, not UTF-8 text" in gate["message"]
    assert gate["next_step"] == "Save it as UTF-8."


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_decimal_comma_is_a_point_where_commas_separate_nothing(
    tmp_path: Path, delimiter
) -> None:
    file = tmp_path / "x.csv"
    line = "dense 1024 8 128 128 256 1 0,18 0,24 1,3333 1,2E-05"
    file.write_text(HEADER.replace(",", delimiter) + "\n" + line.replace(" ", delimiter))
    found = judged(file, "--device", "RTX 4090")
    points = tmp_path / "points"
    points.mkdir()
    (points / "x.csv").write_text(file.read_text().replace(",", ".").replace(delimiter, ","))
    assert judged(points / "x.csv", "--device", "RTX 4090")["gates"] == found["gates"]
    assert verdicts(found)["parity"] == "NOT_VERIFIED"


def test_a_decimal_comma_between_commas_is_called_one(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('N,H,D,Dv,L,tri_ms,ref_ms\n1024,8,128,128,256,"0,18",0.24\n')
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

"""`orchestrate judge` on what cannot be read: what it is, and what to do then."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from evidence_samples import PARITY, csv_of, junit, skip
from evidence_samples import case as junit_case
from judging import FOREIGN, cell, judge, judged, write_set

from kernels.bench.contract import CONTRACT_VERSION
from orchestrator.errors import UsageError
from orchestrator.gates import junit as counts
from orchestrator.models.playbook import TestsGate
from orchestrator.models.verdict import Verdict

HEADER = "mode,N,H,D,Dv,L,streams,tri_ms,ref_ms,speedup,mae"


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (b"PK\x03\x04\x14\0\x06\0", "an Excel workbook or another zip archive", "Export the sheet"),
        (gzip.compress(b"x", mtime=0), "compressed", "gunzip it"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF", "Find the CSV"),
        (b"\xef\xbb\xbf <!DOCTYPE html><html>404</html>", "an HTML page", "Download the file"),
        (b"<html><body>404</body></html>", "an HTML page", "Download the file itself"),
        (
            b"\x7fELF\x02\x01\x01\0\0\0",
            "no evidence of any kind: its first line",
            "Name CSVs with L",
        ),
        (
            b"Dear all,\nhere are my numbers\n",
            "'Dear all,', names no column of",
            "Name CSVs with L",
        ),
        (b"a;b\n1;2\n", "'a,b', names no column of", "Name CSVs with L"),
    ],
)
def test_what_is_no_evidence_is_a_usage_error(
    tmp_path: Path, data: bytes, what: str, remedy: str
) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(data)
    with pytest.raises(UsageError) as refused:
        judge(*write_set(tmp_path), file)
    assert str(file) in refused.value.message
    assert what in refused.value.message
    assert str(refused.value.remedy).startswith(remedy)
    assert "JUnit files" in str(refused.value.remedy), "what may be named"


@pytest.mark.parametrize(
    ("data", "says", "remedy"),
    [
        (f"{HEADER}\n".encode("utf-16"), "UTF-16, not UTF-8 text", "Save it as UTF-8."),
        (f"{HEADER},gr\xf6\xdfe\n".encode("latin-1"), "not UTF-8 text", "Save it as UTF-8."),
        (
            csv_of("dense", cell("dense", 64, contract=CONTRACT_VERSION + 1)),
            f"version {CONTRACT_VERSION + 1}; this is {CONTRACT_VERSION}",
            "Update orchestrate: a newer benchmark wrote this.",
        ),
        (
            csv_of("dense", cell("dense", 64, tri_ms='"0,18"')),
            "'0,18' is not a finite number",
            "Write a point, not a decimal comma.",
        ),
        (
            f"{HEADER}\ndense,1024,8,128,128,256,1,0,18,0,24,1.3,2e-4\n".encode(),
            "13 fields, the header names 11: decimal commas",
            "Write decimal points: commas stand between fields only.",
        ),
        (b"N,H,tri_ms,ref_ms\n1,1,1,1\n", "the header names no L: expected", "Look at x.csv for"),
        (b"N,H,L,mae\n1,1,1,1\n", "the header names no time: expected", "Look at x.csv for"),
        (b"N,H,mae\n1,1,1\n", "the header names no L and no time", "Look at x.csv for what"),
    ],
)
def test_evidence_that_cannot_be_read_is_invalid_with_its_remedy(
    tmp_path: Path, data: bytes, says: str, remedy: str
) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(data)
    (gate, *_) = judged(file)["gates"]
    assert gate["verdict"] == "INVALID"
    assert says in gate["message"]
    assert gate["next_step"].startswith(remedy)


def test_an_empty_file_is_not_sought_in_the_log_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("\n")
    (gate,) = judged(file)["gates"]
    assert (gate["verdict"], gate["reason"]) == ("NOT_VERIFIED", "no-evidence")
    assert gate["next_step"].startswith("Name the file that the benchmark wrote")


@pytest.mark.parametrize("skipped", [1, 2])
def test_tests_that_were_skipped_are_not_outvoted_by_a_few(tmp_path: Path, skipped: int) -> None:
    file = tmp_path / "p.xml"
    cases = [junit_case(f"s{n}", inner=skip("no card")) for n in range(skipped)]
    file.write_bytes(junit(junit_case("t", PARITY), *cases))
    (tests, *_) = judged(file)["gates"]
    assert tests["verdict"] == ("PASS" if skipped == 1 else "NOT_VERIFIED")
    if skipped > 1:
        assert tests["message"].startswith("1 test passed and 2 were skipped (no card): those")
    declared = TestsGate(gate="tests", file="p.xml", min_passed=1)
    assert counts.tests_gate(declared, file.read_bytes()).verdict is Verdict.PASS, (
        "a playbook declares it"
    )


# --- what scripts read ----------------------------------------------------------------------------


def _strict(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


@pytest.mark.parametrize("tri_ms", ["1e-320", "1e-305", "nan", "inf"])
def test_json_has_no_numbers_that_json_has_not(tmp_path: Path, tri_ms: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(f"{HEADER}\ndense,1024,4,64,64,1024,1,{tri_ms},.4,1.3,.0001\n")
    shown = judge(file, "--device", "RTX 4090", "--json")
    assert json.loads(shown.output, parse_constant=_strict)["exit_code"] == 5


def test_files_have_a_kind_and_a_path(tmp_path: Path) -> None:
    dense, varlen = write_set(tmp_path)
    found = judged(dense, FOREIGN / "twice.csv", varlen)
    assert found["files"] == [source["file"] for source in found["sources"]]
    kinds = {source["path"]: source["kind"] for source in found["sources"]}
    assert kinds == {
        str(dense): "bench",
        str(varlen): "bench",
        str(FOREIGN / "twice.csv"): "foreign",
        str(tmp_path / "telemetry.csv"): "telemetry",
        str(tmp_path / "sel_dense.canary.csv"): "canary",
        str(tmp_path / "sel_varlen.canary.csv"): "canary",
    }


def test_findings_are_a_list_with_reasons_also_of_one(tmp_path: Path) -> None:
    files = [*write_set(tmp_path, "throttled.csv"), FOREIGN / "twice.csv"]
    found = judged(*files)
    refused = [gate for gate in found["gates"] if gate["verdict"] != "PASS"]
    assert any(len(gate["measured"]["findings"]) == 1 for gate in refused)
    assert any(len(gate["measured"]["findings"]) > 1 for gate in refused)
    for gate in refused:
        first = gate["measured"]["findings"][0]
        assert (first["verdict"], first["reason"]) == (gate["verdict"], gate["reason"])
        assert all(each["message"] and each["next_step"] for each in gate["measured"]["findings"])


def test_the_summary_names_the_gate_and_does_not_say_it_all_again(tmp_path: Path) -> None:
    found = judged(*write_set(tmp_path, every={"ref_probe": "middle", "tri_probe": "middle"}))
    gate = next(gate for gate in found["gates"] if gate["verdict"] != "PASS")
    assert " Also: " in gate["message"]
    summary = found["decision"]["summary"]
    assert summary.startswith(
        f"UNDECIDED: {gate['gate']} is {gate['verdict']}: {gate['message'][:40]}"
    )
    assert "Also: " not in summary
    assert len(summary) < 300

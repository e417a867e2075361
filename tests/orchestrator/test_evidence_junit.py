from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from evidence_samples import PARITY, case, failure, junit, skip
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence import EvidenceError
from orchestrator.evidence import junit as module
from orchestrator.evidence.junit import Suite, TestOutcome, parse_junit

BILLION_LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha">
<!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<testsuites><testcase name="&c;"/></testsuites>"""
XXE = b"""<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<testsuites><testcase name="&x;"/></testsuites>"""
REMOTE_DTD = b'<!DOCTYPE testsuites SYSTEM "http://127.0.0.1:1/evil.dtd"><testsuites/>'


def test_reads_what_pytest_writes(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(record_property): record_property('mae', 1e-4)\n"
        "def test_bad(): assert 0, 'MAE 0.15'\n"
        "@pytest.mark.skip(reason='no GPU')\n"
        "def test_skip(): pass\n"
        "@pytest.fixture\n"
        "def broken(): raise RuntimeError('MLIR')\n"
        "def test_error(broken): pass\n"
    )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=o.xml", "."],
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    suite = parse_junit((tmp_path / "o.xml").read_bytes())
    by_name = {test.name: test for test in suite.tests}
    assert {name: test.outcome.value for name, test in by_name.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_skip": "skipped",
        "test_error": "error",
    }
    assert by_name["test_good"].properties == {"mae": "0.0001"}
    assert "MAE 0.15" in by_name["test_bad"].message
    assert by_name["test_skip"].message == "no GPU"
    assert by_name["test_good"].seconds is not None
    assert str(by_name["test_good"]).endswith("::test_good")


def test_an_empty_suite_is_no_error():
    assert parse_junit(junit()) == Suite(())


def test_message_falls_back_to_the_text():
    suite = parse_junit(junit(case("t", inner="<failure>aborted\nhere</failure>")))
    assert suite.tests[0].message == "aborted\nhere"


def test_the_worst_of_several_outcomes_counts():
    inner = failure("wrong") + '<error message="teardown"/>' + skip("late")
    assert parse_junit(junit(case("t", inner=inner))).tests[0].outcome is TestOutcome.ERROR


@pytest.mark.parametrize("data", [BILLION_LAUGHS, XXE, REMOTE_DTD], ids=["laughs", "xxe", "dtd"])
def test_document_types_and_entities_are_refused(data):
    with pytest.raises(EvidenceError, match="document type or entity"):
        parse_junit(data, "parity.xml")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not XML"),
        (b"no xml", "not XML"),
        (junit(case("t"))[:-20], "not XML"),
        (b"<html/>", "an HTML page"),
        (b"<svg/>", "root is <svg>"),
        (b"<testsuites><testcase/></testsuites>", "without a name"),
        (junit(case("a", inner=case("b"))), "within a test case"),
        (junit(case("t", {"": "1"})), "property without a name"),
        (junit(case("t").replace("0.5", "-1")), "not a duration"),
        (junit(case("t").replace("0.5", "nan")), "not a duration"),
        (b"<testsuites>" * 40, "nested deeper"),
        (junit(case("t", inner="<a>&#0;</a>")), "not XML"),
    ],
)
def test_anything_else_is_refused(data, says):
    with pytest.raises(EvidenceError, match=says) as caught:
        parse_junit(data, "parity.xml")
    assert str(caught.value).startswith("parity.xml")


def test_a_property_recorded_twice_must_not_hide_the_larger_error():
    recorded = "".join(f'<property name="mae" value="{value}"/>' for value in (0.5, 0))
    twice = f"<properties>{recorded}</properties>"
    with pytest.raises(EvidenceError, match="mae twice"):
        parse_junit(junit(case("t", inner=twice)))


def test_size_and_count_are_capped(monkeypatch):
    monkeypatch.setattr(module, "MAX_TESTS", 2)
    with pytest.raises(EvidenceError, match="more than 2 test cases"):
        parse_junit(junit(case("a"), case("b"), case("c")))
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(EvidenceError, match="more than the 10"):
        parse_junit(junit(case("a")))


GOOD = junit(case("a", PARITY), case("b", inner=failure("x")), case("c", inner=skip("y")))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    _read_or_refuse(data)


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=20))
def test_any_damage_is_read_or_refused(start, length, patch):
    _read_or_refuse(GOOD[:start] + patch + GOOD[start + length :])


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")))
def test_any_text_survives_in_names_and_messages(text):
    (test,) = parse_junit(junit(case("t" + text, inner=failure("m" + text)))).tests
    assert test.name == "t" + text
    assert test.message == ("m" + text)[: module.MAX_MESSAGE].strip()


def _read_or_refuse(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        assert isinstance(parse_junit(data), Suite)

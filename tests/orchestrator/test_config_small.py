"""Phase ranges, package data, hints and the JSON Schema."""

from __future__ import annotations

import contextlib
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator.config import resources
from orchestrator.config.hints import nearest, shown
from orchestrator.config.phases import parse_phases
from orchestrator.config.resources import find_playbook, resource
from orchestrator.config.schema import playbook_schema, render
from orchestrator.errors import OrchestrateError, UsageError


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("0-5", (0, 1, 2, 3, 4, 5)),
        ("2", (2,)),
        ("1,2", (1, 2)),
        ("0,2-3", (0, 2, 3)),
        ("3,1,1-2", (1, 2, 3)),
        (" 0 - 1 , 4 ", (0, 1, 4)),
        ("2-2", (2,)),
    ],
)
def test_phase_ranges(text, phases):
    assert parse_phases(text) == phases


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("7", "there is no phase 7", "phases are 0 to 5"),
        ("0-9", "there is no phase 9", "phases are 0 to 5"),
        ("3-1", "the range 3-1 is backwards", "did you mean 1-3?"),
        ("", "'' is no phase", "write one (2), several (1,2) or a range (0-2)"),
        ("a", "'a' is no phase", "phases are 0 to 5"),
        ("1,,2", "'' is no phase", "phases are 0 to 5"),
        ("-1", "'-1' is no phase", "phases are 0 to 5"),
        ("1-", "'1-' is no phase", "phases are 0 to 5"),
        ("٣", "'٣' is no phase", "phases are 0 to 5"),
    ],
)
def test_bad_phase_ranges(text, message, remedy):
    with pytest.raises(UsageError) as caught:
        parse_phases(text)
    assert caught.value.message == f"--phase {text!r}: {message}"
    assert remedy in (caught.value.remedy or "")


@given(st.text(alphabet="0123456789-, a", max_size=12))
def test_any_phase_text_is_understood_or_refused(text):
    try:
        phases = parse_phases(text)
    except UsageError:
        return
    assert phases == tuple(sorted(set(phases)))
    assert set(phases) <= set(range(6))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installation of our own: `tmp_path/orchestrator`, beside it or in it the data."""
    folder = tmp_path / "orchestrator"
    folder.mkdir()
    monkeypatch.setattr(orchestrator, "__file__", str(folder / "__init__.py"))
    return folder


def with_playbooks(folder, *names):
    (folder / "playbooks").mkdir(parents=True)
    for name in names:
        (folder / "playbooks" / name).write_text("version: 1\n")


def test_resources_of_a_checkout_lie_beside_the_package(package):
    with_playbooks(package.parent, "m4-02-selection.yaml")
    assert resource("playbooks") == package.parent / "playbooks"


def test_resources_of_a_wheel_lie_within_the_package(package):
    with_playbooks(package.parent, "of-someone-else.yaml")
    with_playbooks(package / "_data", "m4-02-selection.yaml")
    assert resource("playbooks") == package / "_data" / "playbooks"
    assert find_playbook() == package / "_data" / "playbooks" / "m4-02-selection.yaml"


def test_a_missing_resource_is_an_incomplete_installation(package):
    with pytest.raises(UsageError, match="reports/templates is missing") as caught:
        resource("reports", "templates")
    assert "install orchestrate again" in (caught.value.remedy or "")


def test_playbooks_by_name_and_by_path(package, tmp_path, monkeypatch):
    with_playbooks(tmp_path, "m4-02-selection.yaml", "smoke.yaml", "playbook.schema.json")
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "smoke").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_playbook(None).name == "m4-02-selection.yaml"
    assert find_playbook("smoke") == tmp_path / "playbooks" / "smoke.yaml"
    assert find_playbook("mine.yaml").samefile(tmp_path / "mine.yaml")
    assert find_playbook("./smoke").samefile(tmp_path / "smoke")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("m4-02-selecton", "no playbook named 'm4-02-selecton'; did you mean 'm4-02-selection'?"),
        ("playbooks/smok.yaml", "no playbook 'playbooks/smok.yaml'; did you mean 'smoke.yaml'?"),
        ("nowhere/x.yaml", "no playbook 'nowhere/x.yaml'"),
        ("", "no playbook named ''"),
        ("a\0b.yaml", "'a\\x00b.yaml' is not a file name"),
        ("a" * 5000 + ".yaml", "no playbook 'aaaa"),
    ],
)
def test_unknown_playbooks_name_the_nearest(package, tmp_path, monkeypatch, wanted, message):
    with_playbooks(tmp_path, "m4-02-selection.yaml", "smoke.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        find_playbook(wanted)
    assert message in caught.value.message


@given(st.text(max_size=20).filter(lambda text: os.sep not in text))
def test_any_playbook_name_is_found_or_refused(text):
    with contextlib.suppress(OrchestrateError):
        find_playbook(text)


def test_nearest_ignores_case_and_gives_up_on_long_text():
    assert nearest("comand", ["command", "env"]) == "command"
    assert nearest("Lengths", ["lengths"]) == "lengths"
    assert nearest("zzz", ["command"]) is None
    assert nearest("command" * 100, ["command"]) is None


def test_values_in_messages_are_short_and_harmless():
    assert shown("a\x1b[31m") == "'a\\x1b[31m'"
    assert len(shown("x" * 1000)) == 60
    assert [shown(v) for v in (None, True, 3, [], {})] == [
        "nothing",
        "true",
        "3",
        "an empty list",
        "a mapping",
    ]


def test_the_committed_schema_is_up_to_date():
    path = resources.resource("playbooks", "playbook.schema.json")
    assert path.read_text(encoding="utf-8") == render(), (
        "run: python -m orchestrator.config.schema > playbooks/playbook.schema.json"
    )


def test_the_schema_admits_a_variable_for_plain_values_and_for_nothing_else():
    schema = playbook_schema()
    job = schema["$defs"]["JobStep"]["properties"]
    reference = {"$ref": "#/$defs/Reference"}
    assert re.search(schema["$defs"]["Reference"]["pattern"], "${lengths}")
    for plain in ("timeout", "artifacts", "command"):
        assert reference in job[plain]["anyOf"]
    assert reference in schema["$defs"]["BenchGate"]["properties"]["lengths"]["anyOf"]
    assert reference in schema["$defs"]["Phase"]["properties"]["when"]["anyOf"]
    assert job["action"] == {"const": "job", "title": "Action", "type": "string"}
    assert "anyOf" not in job["gates"]
    assert "anyOf" not in schema["properties"]["phases"]
    assert "anyOf" not in schema["properties"]["version"]


def test_the_schema_is_closed_and_knows_times_with_units():
    schema = playbook_schema()
    assert schema["additionalProperties"] is False
    assert schema["$schema"].endswith("2020-12/schema")
    timeout = schema["$defs"]["JobStep"]["properties"]["timeout"]["anyOf"]
    assert {"type": "string", "pattern": "^[0-9]+ *[smh]?$"} in timeout
    json.dumps(schema)

"""The rationale, and templates of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_later_phases import repaired
from report_runs import (
    Run,
    bare,
    complete,
    new_run,
    rendered,
)

from orchestrator.errors import ConfigError, UsageError
from orchestrator.reporting import render_rationale


def test_the_rationale_has_the_values_of_the_report(tmp_path):
    (tmp_path / "rationale.md.j2").write_text(
        "# {{ report.headline }}\n\n{{ report.summary.parity }}\n\n{{ report.why | prose }}\n"
    )
    run = complete(tmp_path / "runs")
    text = render_rationale(run.paths, run.judgement(), templates=tmp_path)
    assert text.startswith("# UNDECIDED\n\n**2 passed, 0 failed, 1 skipped**; max MAE 3.0e-04")


def test_the_rationale_without_its_template(tmp_path):
    run = complete(tmp_path / "runs")
    with pytest.raises(UsageError, match=r"rationale\.md\.j2 is missing"):
        render_rationale(run.paths, run.judgement(), templates=tmp_path)


def with_template(tmp_path: Path, text: str) -> str:
    file = tmp_path / "mine.md.j2"
    file.write_text(text)
    run = Run(new_run(tmp_path / "runs"))
    judgement = bare(run.paths)
    return rendered(run, judgement=judgement, template=file)


def test_a_template_of_ones_own(tmp_path):
    assert with_template(tmp_path, "{{ report.verdict }} {{ '<b>|' }}") == r"INFRA &lt;b>\|" + "\n"


def test_a_template_may_extend_the_shipped_one(tmp_path):
    mine = "{% extends 'selection_report.md.j2' %}{% block gates %}GATES{% endblock %}"
    text = with_template(tmp_path, mine)
    assert "GATES" in text
    assert "## Provenance" in text
    assert "## Gates" not in text


def test_a_template_that_extends_the_shipped_one_shows_phase_4_too(tmp_path):
    mine = tmp_path / "mine.md.j2"
    mine.write_text("{% extends 'selection_report.md.j2' %}{% block decision %}{% endblock %}")
    run, judgement = repaired(tmp_path)
    assert "1.50x [1.45, 1.55]" in rendered(run, judgement=judgement, template=mine)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a\n{{ report.nothing }}", ":2:1"),
        ("a\n{% if %}", ":2:1"),
        ("{{ ''.__class__.__mro__ }}", ":1:1"),
        ("{{ report.__init__.__globals__ }}", ":1:1"),
        ("{{ report.environment.facts.model_dump_json() }}", ":1:1"),
        ("{{ report.gates.parse_file('/etc/passwd') }}", ":1:1"),
        ("{{ '{0.__class__}'.format(report) }}", ":1:1"),
        ("{% include '../../pyproject.toml' %}", ":1:1"),
        ("{{ 1 / 0 }}", ":1:1"),
    ],
)
def test_a_bad_template_is_a_usage_error_that_says_where(tmp_path, text, where):
    with pytest.raises(ConfigError) as caught:
        with_template(tmp_path, text)
    assert f"mine.md.j2{where}: " in str(caught.value)


def test_a_missing_template(tmp_path):
    run = Run(new_run(tmp_path))
    judgement = bare(run.paths)
    with pytest.raises(UsageError, match="cannot read the template"):
        rendered(run, judgement=judgement, template=tmp_path / "none.j2")

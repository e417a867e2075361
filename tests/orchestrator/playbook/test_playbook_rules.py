"""What a playbook promises itself: evidence, repeats, sections, overrides."""

from __future__ import annotations

import pytest
from playbook_sample import JOB, PLAYBOOK

from orchestrator.errors import ConfigError, UsageError


def test_a_decision_cannot_come_before_its_evidence(refusal):
    start = PLAYBOOK.index("      - id: dense\n")
    end = PLAYBOOK.index("      - id: decide\n")
    lines, _ = refusal(PLAYBOOK[:start] + PLAYBOOK[end:] + PLAYBOOK[start:end])
    assert lines == [
        f"53:13: {JOB}.id: no `tests` and no `parity` gate comes before this decision: it would "
        "stay UNDECIDED",
        f"55:16: {JOB}.dense: step 'dense' comes later; a decision needs what is there",
        f"56:17: {JOB}.varlen: step 'dense' comes later; a decision needs what is there",
    ]


@pytest.mark.parametrize(
    ("change", "line", "remedy"),
    [
        (
            ("{gate: parity, file: p.xml}", "{gate: tests, file: p.xml, min_passed: 2}"),
            "64:13: phases[1].steps[1].id: no `parity` gate comes before this decision: it would "
            "stay UNDECIDED",
            "add a job that runs the parity tests, with gates `tests` and `parity`",
        ),
        (
            ("        dense: dense/dense.csv\n", "        dense: dense/p.xml\n"),
            "66:16: phases[1].steps[1].dense: no bench gate judges 'dense/p.xml': the decision "
            "would stay UNDECIDED",
            "add to step 'dense': {gate: bench, file: p.xml, mode: dense, lengths: [...]}",
        ),
    ],
)
def test_a_decision_without_grounds_is_refused(refusal, change, line, remedy):
    lines, advice = refusal(*change)
    assert (lines, advice) == ([line], remedy)


FIXES = """\
  - id: 4
    name: fixes
    title: Fixes
    repeat: [1, 9]
    variants:
      - {id: other, title: Other}
"""


@pytest.mark.parametrize(
    ("change", "line", "remedy"),
    [
        (
            ("[1, 9]", "[2, 9]"),
            "72:17: phases[2].repeat[1]: there is no phase 9",
            "phases: 0, 2, 4",
        ),
        (
            ("[1, 9]", "[4]"),
            "72:14: phases[2].repeat[0]: phase 4 can only repeat phases before it, not 4",
            "",
        ),
        (
            ("[1, 9]\n    variants:\n      - {id: other, title: Other}", "[2]"),
            "72:13: phases[2].repeat: nothing is repeated without variants",
            "declare `variants`, or leave `repeat` out",
        ),
        (
            ("    repeat: [1, 9]\n", ""),
            "73:7: phases[2].variants: variants of nothing: the phase repeats none",
            "say which phases they repeat: `repeat: [1, 2]`",
        ),
    ],
)
def test_what_is_repeated_is_there(refusal, change, line, remedy):
    lines, advice = refusal(PLAYBOOK + FIXES.replace(*change))
    assert (lines, advice) == ([line], remedy)


def test_one_slip_is_one_line(refusal):
    lines, _ = refusal("        command: [", "        comand: [")
    assert len(lines) == 1


def test_many_errors_are_listed_together(refusal):
    text = PLAYBOOK.replace("version: 1", "version: 2").replace("id: torch", "id: venv")
    lines, _ = refusal(text.replace("timeout: 20m", "timeout: -1"))
    assert [line.split(" ")[0] for line in lines] == ["1:10:", "41:17:", "44:22:"]
    lines, _ = refusal("version: 1\nname: a\ntitle: b\nphases:\n" + "  - 5\n" * 15)
    assert len(lines) == 11
    assert lines[-1] == "... and 5 more"


@pytest.mark.parametrize("key", ["variables", "profiles", "environment", "phases", "deliverables"])
def test_an_empty_or_misshapen_section_is_named(refusal, key):
    what = "a list" if key in ("phases", "deliverables") else "keys and values"
    for written, shown in (("", "nothing"), (" 5", "5"), (" text", "'text'")):
        lines, _ = refusal(f"version: 1\nname: a\ntitle: b\n{key}:{written}\n")
        assert f"{key}: expected {what}, got {shown}" in "\n".join(lines)


def test_an_unknown_profile_names_the_nearest(load):
    with pytest.raises(UsageError, match="has no profile 'cpuu'; did you mean 'cpu'") as caught:
        load(profile="cpuu")
    assert caught.value.remedy == "profiles: gpu, cpu"


def test_a_bad_override_is_a_matter_of_the_command_line(load):
    with pytest.raises(UsageError, match="unknown variable 'lenght'; did you mean 'lengths'"):
        load(overrides={"lenght": "1"})
    with pytest.raises(ConfigError, match=r"^--set torch: unknown variable 'x'"):
        load(overrides={"torch": "${x}"})
    with pytest.raises(ConfigError, match=r"^--set torch: variables refer to each other"):
        load(overrides={"torch": "${torch}"})

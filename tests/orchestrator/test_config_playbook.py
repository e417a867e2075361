from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.playbook import LoadedPlaybook, load_playbook
from orchestrator.config.variables import bind
from orchestrator.errors import ConfigError, OrchestrateError, UsageError
from orchestrator.models.playbook import DecideStep, JobStep, ProvisionStep

PLAYBOOK = """\
version: 1
name: smoke
title: A small one
variables:
  n: 1024
  lengths: [64, 128]
  margin: 1.2
  torch: torch==2.3.*
profiles:
  gpu:
    description: a rented card
    default_for: remote
    environment: {MODE: fast}
  cpu:
    description: a laptop
    default_for: embedded
    variables:
      n: 4
      lengths: [64]
    environment:
      MODE: slow
environment:
  MODE: none
  N: ${n}
deliverables: [dense.csv, selection_report.md]
phases:
  - id: 0
    name: environment
    title: Environment
    steps:
      - id: system
        action: provision
        profiles: [gpu]
        resources:
          - {id: apt, resource: apt, packages: [git]}
      - id: python
        action: provision
        resources:
          - id: venv
            resource: venv
          - id: torch
            resource: pip
            packages: ["${torch}"]
            timeout: 20m
          - id: flash-attn
            resource: pip
            profiles: [gpu]
            packages: [flash-attn]
  - id: 2
    name: bench
    title: Bench
    steps:
      - id: dense
        action: job
        command: ["${pod.python}", bench.py, --N, "${n}", --L_list, "${lengths}", "${out}/d"]
        artifacts: [dense.csv, p.xml]
        gates:
          - gate: bench
            file: dense.csv
            mode: dense
            lengths: ${lengths}
          - {gate: tests, file: p.xml}
          - {gate: parity, file: p.xml}
      - id: decide
        action: decide
        dense: dense/dense.csv
        varlen: dense/dense.csv
        margin: ${margin}
"""


@pytest.fixture
def load(tmp_path):
    """Load a text, or the playbook above with one piece of it exchanged."""
    path = tmp_path / "p.yaml"

    def run(*change: str, **options) -> LoadedPlaybook:
        text = PLAYBOOK
        if len(change) == 1:
            text = change[0]
        elif change:
            assert text.count(change[0]) == 1, "the test must say which piece it means"
            text = text.replace(*change)
        path.write_text(text, encoding="utf-8")
        return load_playbook(path, **options)

    return run


@pytest.fixture
def refusal(load, tmp_path):
    """The error's lines, without the folder: `line:column: message`."""

    def run(*change: str, **options) -> tuple[list[str], str]:
        with pytest.raises(ConfigError) as caught:
            load(*change, **options)
        prefix = f"{tmp_path / 'p.yaml'}:"
        lines = caught.value.message.splitlines()
        assert all(line.startswith((prefix, "... and")) for line in lines)
        assert lines[0].startswith(caught.value.where)
        return [line.removeprefix(prefix) for line in lines], caught.value.remedy or ""

    return run


def step(loaded: LoadedPlaybook, name: str):
    return next(s for phase in loaded.playbook.phases for s in phase.steps if s.id == name)


# --- what is right --------------------------------------------------------------------------------


def test_without_a_profile_only_what_is_for_all_remains(load):
    text = PLAYBOOK.replace("    default_for: remote\n", "")
    loaded = load(text)
    assert loaded.profile is None
    assert [s.id for s in loaded.playbook.phases[0].steps] == ["python"]
    assert loaded.playbook.environment == {"MODE": "none", "N": "1024"}


def test_the_profile_of_a_remote_pod_is_the_default(load):
    loaded = load()
    assert loaded.profile == "gpu"
    assert [s.id for s in loaded.playbook.phases[0].steps] == ["system", "python"]
    assert loaded.playbook.environment == {"MODE": "fast", "N": "1024"}


def test_the_embedded_pod_has_its_own(load):
    loaded = load(embedded=True)
    assert loaded.profile == "cpu"
    python = step(loaded, "python")
    assert isinstance(python, ProvisionStep)
    assert [r.id for r in python.resources] == ["venv", "torch"]
    assert python.resources[1].timeout == 1200
    assert loaded.playbook.environment == {"MODE": "slow", "N": "4"}
    assert loaded.playbook.variables["lengths"] == [64]


def test_an_explicit_profile_wins(load):
    assert load(profile="gpu", embedded=True).profile == "gpu"


def test_the_command_line_wins_over_the_profile_and_the_profile_over_the_playbook(load):
    loaded = load(profile="cpu", overrides={"lengths": "32,64"})
    job = step(loaded, "dense")
    assert isinstance(job, JobStep)
    assert job.command[3:6] == ["4", "--L_list", "32,64"]
    assert job.gates[0].lengths == [32, 64]
    assert loaded.playbook.variables == {
        "n": 4,
        "lengths": [32, 64],
        "margin": 1.2,
        "torch": "torch==2.3.*",
    }


def test_an_override_may_refer_to_other_variables(load):
    loaded = load(overrides={"torch": "torch==${n}"})
    assert step(loaded, "python").resources[1].packages == ["torch==1024"]


def test_what_is_known_of_the_pod_is_put_in_and_what_is_not_is_left(load):
    known = step(load(builtins={"pod.python": "/venv/python"}), "dense")
    assert known.command[0] == "/venv/python"
    assert known.command[-1] == "${out}/d"
    unknown = step(load(), "dense")
    assert unknown.command[0] == "${pod.python}"
    assert bind(unknown.command[0], {"pod.python": "py"}) == "py"


def test_the_source_is_kept_as_it_was(load):
    loaded = load()
    assert loaded.source_text == PLAYBOOK
    assert loaded.sha256 == hashlib.sha256(PLAYBOOK.encode()).hexdigest()


def test_the_result_is_a_valid_playbook_of_its_own(load):
    playbook = load(embedded=True).playbook
    assert type(playbook).model_validate_json(playbook.model_dump_json()) == playbook


def test_a_step_of_which_the_profile_leaves_nothing_is_gone(load):
    only_gpu = "\n            profiles: [gpu]\n"
    text = PLAYBOOK.replace("resource: venv\n", f"resource: venv{only_gpu}")
    text = text.replace('["${torch}"]\n', f'["${{torch}}"]{only_gpu}')
    assert load(text, profile="cpu").playbook.phases[0].steps == []


def test_a_whole_number_will_do_for_a_number(load):
    decide = step(load(overrides={"margin": "2"}), "decide")
    assert isinstance(decide, DecideStep)
    assert decide.margin == 2.0


# --- what is wrong --------------------------------------------------------------------------------

JOB = "phases[1].steps[0]"


@pytest.mark.parametrize(
    ("piece", "instead", "line", "remedy"),
    [
        pytest.param(
            "        command: [",
            "        comand: [",
            f"55:9: {JOB}.comand: unknown key; did you mean 'command'?",
            "",
            id="typo-key",
        ),
        pytest.param(
            "title: A small one",
            "title: A small one\nzzz: 1",
            "4:1: zzz: unknown key",
            "keys: version, name, title, description, variables, profiles, environment",
            id="unknown-key",
        ),
        pytest.param(
            "            packages: [flash-attn]\n",
            "",
            "45:13: phases[0].steps[1].resources[2].packages: required, but missing",
            "",
            id="missing-key",
        ),
        pytest.param(
            "version: 1", "version: 2", "1:10: version: expected 1, got 2", "", id="const"
        ),
        pytest.param(
            "title: Bench",
            "title: 3",
            "51:12: phases[1].title: expected text, got 3; put it in quotes",
            "",
            id="text",
        ),
        pytest.param(
            "id: 2",
            "id: two",
            "49:9: phases[1].id: expected a whole number, got 'two'",
            "",
            id="int",
        ),
        pytest.param("id: 2", "id: 9", "49:9: phases[1].id: must be at most 5, got 9", "", id="le"),
        pytest.param(
            "margin: ${margin}",
            "margin: 0",
            "68:17: phases[1].steps[1].margin: must be at least 1, got 0",
            "",
            id="ge",
        ),
        pytest.param(
            "timeout: 20m",
            "timeout: 20 minutes",
            "44:22: phases[0].steps[1].resources[1].timeout: "
            "expected seconds or a time such as 90s, 20m or 2h, got '20 minutes'",
            "",
            id="time",
        ),
        pytest.param(
            "lengths: ${lengths}",
            "lengths: ${torch}",
            f"61:22: {JOB}.gates[0].lengths[0]: expected a whole number, got 'torch==2.3.*'",
            "",
            id="type-of-a-variable",
        ),
        pytest.param(
            "artifacts: [dense.csv, p.xml]",
            "artifacts: dense.csv",
            f"56:20: {JOB}.artifacts: expected a list, got 'dense.csv'",
            "",
            id="list",
        ),
        pytest.param(
            "packages: [git]",
            "packages: []",
            "35:48: phases[0].steps[0].resources[0].packages: needs at least 1, has 0",
            "",
            id="empty",
        ),
        pytest.param(
            "name: bench",
            "name: My Bench",
            "50:11: phases[1].name: 'My Bench' is not a name: lower-case letters, digits, `_`, `.` "
            "and `-`, beginning with a letter or digit, at most 48",
            "",
            id="identifier",
        ),
        pytest.param(
            "  N: ${n}",
            "  N-1: ${n}",
            "24:3: environment.N-1: 'N-1' is not a name: letters, digits and `_`, not beginning "
            "with a digit",
            "",
            id="environment-name",
        ),
        pytest.param(
            "  N: ${n}",
            "  N: true",
            "24:6: environment.N: quote true and false: a command line has only text",
            "",
            id="bool",
        ),
        pytest.param(
            "default_for: remote",
            "default_for: remot",
            "12:18: profiles.gpu.default_for: expected embedded, remote, got 'remot'; "
            "did you mean 'remote'?",
            "",
            id="literal",
        ),
        pytest.param(
            "    title: Bench",
            "    title: Bench\n    when: allways",
            "52:11: phases[1].when: expected always, underperformance, decided, got 'allways'; "
            "did you mean 'always'?",
            "",
            id="enum",
        ),
        pytest.param(
            "action: job",
            "action: jobb",
            f"54:17: {JOB}.action: there is no action 'jobb'; did you mean 'job'?",
            "action: sync, provision, job, decide",
            id="bad-tag",
        ),
        pytest.param(
            "resource: venv",
            "resource: 3",
            "40:23: phases[0].steps[1].resources[0].resource: there is no resource 3",
            "resource: apt, venv, pip, requirements, device",
            id="tag-of-wrong-type",
        ),
        pytest.param(
            "        action: job\n",
            "",
            f"53:9: {JOB}.action: required, but missing",
            "action: sync, provision, job, decide",
            id="no-tag",
        ),
        pytest.param(
            "gate: bench",
            "gat: bench",
            f"58:13: {JOB}.gates[0].gat: unknown key; did you mean 'gate'?",
            "",
            id="typo-in-tag-key",
        ),
        pytest.param(
            "profiles:\n  gpu:\n",
            "profiles:\n  other: just text\n  gpu:\n",
            "10:10: profiles.other: expected keys and values, got 'just text'",
            "",
            id="mapping",
        ),
        pytest.param(
            "id: 2",
            "id: 0",
            "49:9: phases[1].id: phase '0' is there twice; first in line 27",
            "",
            id="duplicate-phase",
        ),
        pytest.param(
            "id: decide",
            "id: python",
            "64:13: phases[1].steps[1].id: step 'python' is there twice; first in line 36",
            "",
            id="duplicate-step",
        ),
        pytest.param(
            "id: torch",
            "id: venv",
            "41:17: phases[0].steps[1].resources[1].id: resource 'venv' is there twice; "
            "first in line 39",
            "",
            id="duplicate-resource",
        ),
        pytest.param(
            "title: Bench",
            "title: Bench\n    title: Again",
            "52:5: key 'title' is there twice; first in line 51",
            "",
            id="duplicate-yaml-key",
        ),
        pytest.param(
            '--N, "${n}"',
            '--N, "${m}"',
            f"55:52: {JOB}.command[3]: unknown variable 'm'",
            "variables: lengths, margin, n, torch; "
            "provided: out, pod.python, pod.venv, pod.workdir",
            id="unknown-variable",
        ),
        pytest.param(
            "margin: ${margin}",
            "margin: ${margn}",
            "68:17: phases[1].steps[1].margin: unknown variable 'margn'; did you mean 'margin'?",
            "variables: lengths",
            id="misspelt-variable",
        ),
        pytest.param(
            "margin: 1.2",
            "margin: ${torch}\n  a: ${b}\n  b: ${a}",
            "9:6: variables.b: variables refer to each other in a circle: a -> b -> a",
            "",
            id="circle",
        ),
        pytest.param(
            "  n: 1024",
            "  out: x\n  n: 1024",
            "5:3: variables.out: this name is taken: it is provided",
            "",
            id="reserved-variable",
        ),
        pytest.param(
            "variables:\n  n: 1024",
            "variables:\n  no-name: 1\n  n: 1024",
            "5:3: variables.no-name: 'no-name' is not a name: letters, digits and `_`, not "
            "beginning with a digit",
            "",
            id="name-of-a-variable",
        ),
        pytest.param(
            "      n: 4",
            "      m: 4",
            "18:7: profiles.cpu.variables.m: the playbook has no such variable to override",
            "variables: n, lengths, margin, torch",
            id="profile-variable-unknown",
        ),
        pytest.param(
            "      n: 4",
            "      n: four",
            "18:10: profiles.cpu.variables.n: expected a whole number, got 'four'",
            "the playbook has n: 1024 in line 5",
            id="profile-variable-type",
        ),
        pytest.param(
            "profiles: [gpu]\n        resources",
            "profiles: [gpuu]\n        resources",
            "33:20: phases[0].steps[0].profiles[0]: there is no profile 'gpuu'; "
            "did you mean 'gpu'?",
            "profiles: gpu, cpu",
            id="step-of-unknown-profile",
        ),
        pytest.param(
            "profiles: [gpu]\n            packages",
            "profiles: [tpu]\n            packages",
            "47:24: phases[0].steps[1].resources[2].profiles[0]: there is no profile 'tpu'; "
            "did you mean 'gpu'?",
            "profiles: gpu, cpu",
            id="resource-of-unknown-profile",
        ),
        pytest.param(
            "default_for: embedded",
            "default_for: remote",
            "16:18: profiles.cpu.default_for: profile 'gpu' is the default for remote already",
            "",
            id="two-defaults",
        ),
        pytest.param(
            "file: dense.csv",
            "file: dens.csv",
            f"59:19: {JOB}.gates[0].file: 'dens.csv' is not among the step's artifacts; "
            "did you mean 'dense.csv'?",
            "artifacts of step 'dense': dense.csv",
            id="gate-file",
        ),
        pytest.param(
            "varlen: dense/dense.csv",
            "varlen: varlen/varlen.csv",
            "67:17: phases[1].steps[1].varlen: no job step leaves 'varlen/varlen.csv'",
            "step/file: dense/dense.csv",
            id="decide-reference",
        ),
        pytest.param(
            "        action: job\n",
            "        action: job\n        profiles: [gpu]\n",
            "67:16: phases[1].steps[1].dense: step 'dense' takes no part under profile 'cpu'",
            "",
            id="decide-without-its-step",
        ),
        pytest.param(
            "deliverables: [dense.csv",
            "deliverables: [dense.cvs",
            "25:16: deliverables[0]: no step leaves 'dense.cvs'; did you mean 'dense.csv'?",
            "artifacts: dense.csv, p.xml, selection_report.md",
            id="deliverable",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_place(refusal, piece, instead, line, remedy):
    lines, advice = refusal(piece, instead)
    assert lines[0] == line
    assert remedy in advice


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


# --- whatever is written --------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.sampled_from(["1.5", ".inf", "job", "sync", "pip", "bench", "${n}", "${out}", "x/y", "$${"]),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_playbook_loads_or_is_refused(load, data):
    """Any line dropped, doubled, cut or given another value."""
    lines = PLAYBOOK.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        key, colon, _ = lines[at].partition(":")
        damage = data.draw(st.sampled_from(["drop", "double", "cut", "value", "indent"]))
        if damage == "drop":
            del lines[at]
        elif damage == "double":
            lines.insert(at, lines[at])
        elif damage == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
        elif damage == "value":
            lines[at] = f"{key}{colon} {data.draw(LEAVES)}"
        else:
            lines[at] = f"  {lines[at]}"
    try:
        loaded = load("\n".join(lines), embedded=data.draw(st.booleans()))
    except OrchestrateError:
        return
    assert loaded.playbook.version == 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_loads_or_is_refused(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(OrchestrateError):
        load_playbook(path)

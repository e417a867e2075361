"""A playbook as it is meant: profiles, variables, overrides; and whatever else is written."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playbook_sample import PLAYBOOK, step

from orchestrator.config.playbook import load_playbook
from orchestrator.config.variables import bind
from orchestrator.errors import OrchestrateError
from orchestrator.models.playbook import DecideStep, JobStep, ProvisionStep


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

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.document import parse
from orchestrator.config.variables import Interpolator, Variable, bind, override
from orchestrator.errors import ConfigError, OrchestrateError, UsageError

BUILTINS = {"pod.workdir": "/root/nsa"}


def interpolator(text: str) -> Interpolator:
    document = parse(text, file="p.yaml")
    written = document.data.get("variables", {})
    variables = {name: Variable(value, ("variables", name)) for name, value in written.items()}
    return Interpolator(document, variables, BUILTINS, {"out"})


def resolve(text: str):
    found = interpolator(text)
    return found.everywhere(found.document.data)


VARIABLES = """\
variables:
  n: 1024
  margin: 1.2
  lengths: [64, 128]
  name: dense
  csv: sel_${name}.csv
  flag: true
"""


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("${n}", 1024),
        ("${margin}", 1.2),
        ("${lengths}", [64, 128]),
        ("${flag}", True),
        ("${csv}", "sel_dense.csv"),
        ("--n=${n}", "--n=1024"),
        ("L ${lengths}!", "L 64,128!"),
        ("${n}${n}", "10241024"),
        ("${pod.workdir}/x", "/root/nsa/x"),
        ("${out}/${csv}", "${out}/sel_dense.csv"),
        ("${out}", "${out}"),
        ("$${n}", "${n}"),
        ("$${", "${"),
        ("$$${n}", "$${n}"),
        ("$${out}", "$${out}"),
        ("$n costs 5$", "$n costs 5$"),
        ("{n}", "{n}"),
    ],
)
def test_references(written, resolved):
    assert resolve(f"{VARIABLES}x: '{written}'\n")["x"] == resolved


def test_late_names_are_bound_when_the_job_starts():
    late = resolve(f"{VARIABLES}x: ['${{out}}/${{csv}}', '$${{out}}', '$${{HOME}}']\n")["x"]
    assert [bind(word, {"out": "/jobs/1"}) for word in late] == [
        "/jobs/1/sel_dense.csv",
        "${out}",
        "${HOME}",
    ]


def test_references_are_resolved_at_any_depth_and_keys_left_alone():
    data = resolve(f"{VARIABLES}a: {{'${{n}}': [b, {{c: '${{n}}'}}]}}\n")
    assert data["a"] == {"${n}": ["b", {"c": 1024}]}


@pytest.mark.parametrize(
    ("line", "where", "message", "remedy"),
    [
        (
            "x: [a, 'b ${lenghts}']",
            "8:11",
            "x[1]: unknown variable 'lenghts'; did you mean 'lengths'?",
            "variables: csv, flag, lengths, margin, n, name; provided: out, pod.workdir",
        ),
        ("x: ${pod.wrkdir}", "8:4", "did you mean 'pod.workdir'?", "provided: out, pod.workdir"),
        ("x: ${zzz}", "8:4", "x: unknown variable 'zzz'", "variables: csv"),
        ("x: a ${n", "8:6", "x: ${ without }", "write $${ for a literal ${"),
        ("x: ${}", "8:4", "x: '' is not a name for a variable", "write $${"),
        ("x: ${HOME:-a}", "8:4", "'HOME:-a' is not a name for a variable", "write $${"),
        ("x: is ${flag}", "8:7", "x: ${flag}: true and false have no form as text", ""),
        ("x: |\n  one\n  ${zzz}", "10:3", "x: unknown variable 'zzz'", ""),
    ],
)
def test_bad_references(line, where, message, remedy):
    with pytest.raises(ConfigError) as caught:
        resolve(f"{VARIABLES}{line}\n")
    assert caught.value.where == f"p.yaml:{where}"
    assert message in caught.value.message
    assert remedy in (caught.value.remedy or "")


def test_all_bad_references_are_listed():
    with pytest.raises(ConfigError) as caught:
        resolve("a: ${x}\nb: [1, '${y}']\n")
    assert caught.value.message.splitlines() == [
        "p.yaml:1:4: a: unknown variable 'x'",
        "p.yaml:2:9: b[1]: unknown variable 'y'",
    ]


@pytest.mark.parametrize(
    ("variables", "where", "message"),
    [
        ("a: ${b}\n  b: x${c}\n  c: ${a}", "4:6", "in a circle: a -> b -> c -> a"),
        ("a: ${a}", "2:6", "in a circle: a -> a"),
        ("a: ${zzz}", "2:6", "variables.a: unknown variable 'zzz'"),
        ("a:", "2:3", "variables.a: a variable is text, a number, true, false or a list"),
        ("a: {b: 1}", "2:6", "or a list of these, not a mapping"),
        ("a: [1, [2]]", "2:10", "variables.a[1]: a list holds text and numbers, not a list"),
        ("a: [1]\n  b: [1, '${a}']", "3:10", "variables.b[1]: a list holds text and numbers"),
    ],
)
def test_bad_variables(variables, where, message):
    with pytest.raises(ConfigError) as caught:
        interpolator(f"variables:\n  {variables}\n").values()
    assert caught.value.where == f"p.yaml:{where}"
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_variables_cannot_expand_without_end():
    lines = ["variables:", "  v0: xxxxxxxxxx"]
    lines += [f"  v{n}: {f'${{v{n - 1}}}' * 10}" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more text than a playbook can need"):
        interpolator("\n".join(lines)).values()


def test_a_long_chain_of_variables_is_refused():
    lines = ["variables:", "  v999: x"] + [f"  v{n}: ${{v{n + 1}}}" for n in range(999)]
    with pytest.raises(ConfigError, match="more than 50 variables refer to one another"):
        interpolator("\n".join(lines)).values()


DECLARED = {
    "n": 1024,
    "margin": 1.2,
    "name": "dense",
    "version": "2.3",
    "flag": False,
    "lengths": [64, 128],
    "names": ["a", "b"],
    "any": [],
}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "4", 4),
        ("n", " -1 ", -1),
        ("margin", "1.5", 1.5),
        ("margin", "2", 2),
        ("name", "3.10", "3.10"),
        ("name", "a: # b", "a: # b"),
        ("name", "", ""),
        ("version", "true", "true"),
        ("flag", "true", True),
        ("lengths", "[1, 2]", [1, 2]),
        ("lengths", "64,128,256", [64, 128, 256]),
        ("lengths", "64", [64]),
        ("lengths", "", []),
        ("names", "1.10,no", ["1.10", "no"]),
        ("any", "[1, x, true]", [1, "x", True]),
    ],
)
def test_overrides_have_the_declared_type(name, text, value):
    result = override(name, text, DECLARED)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message", "remedy"),
    [
        ("lenghts", "1", "--set: unknown variable 'lenghts'; did you mean 'lengths'?", "any, flag"),
        ("n", "many", "--set n: expected a whole number, got 'many'", "has n: 1024"),
        ("n", "1.5", "--set n: expected a whole number, got '1.5'", "has n: 1024"),
        ("n", "true", "--set n: expected a whole number, got 'true'", "has n: 1024"),
        ("margin", "x", "--set margin: expected a number, got 'x'", "has margin: 1.2"),
        ("flag", "1", "--set flag: expected true or false, got '1'", "has flag: false"),
        ("lengths", "a,b", "--set lengths: expected a list of whole numbers", "[64, 128]"),
        ("lengths", "[1, 2", "--set lengths: expected a list of whole numbers", "[64, 128]"),
        ("names", "[[a]]", "--set names: expected a list of text", "has names: [a, b]"),
        ("any", "a: 1", "--set any: expected a list of text and numbers", "has any: []"),
    ],
)
def test_bad_overrides(name, text, message, remedy):
    with pytest.raises(UsageError) as caught:
        override(name, text, DECLARED)
    assert message in caught.value.message
    assert remedy in (caught.value.remedy or "")


@given(st.sampled_from(sorted(DECLARED)), st.text(max_size=20))
def test_any_override_is_taken_or_refused(name, text):
    with contextlib.suppress(OrchestrateError):
        override(name, text, DECLARED)

"""What is wrong with a playbook is said at its place."""

from __future__ import annotations

import pytest
from playbook_sample import JOB


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

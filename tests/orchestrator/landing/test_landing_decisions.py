"""What each decision lands, and landing it again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from landing_repository import (
    BRANCH,
    CONFIG,
    DOC,
    ENABLE,
    FOLDER,
    KEEP_OFF,
    KEY,
    RUN,
    TEXT,
    UNDECIDED,
    refused,
)

from orchestrator.landing.land import land, plan


def test_enable_is_one_line_of_config_with_its_evidence(repository, request_):
    landed = land(request_)
    assert landed.branch == BRANCH
    assert repository("rev-parse", BRANCH) == landed.commit
    assert repository("rev-parse", f"{BRANCH}^") == repository("rev-parse", "main")
    files = [
        CONFIG,
        *(f"{FOLDER}/{n}" for n in ("sel_dense.csv", "sel_varlen.csv", "selection_report.md")),
    ]
    assert list(landed.files) == files
    assert repository("diff", "--name-only", "main", BRANCH).split() == files
    assert repository("show", f"{BRANCH}:{CONFIG}") == TEXT.replace("4096", "256").strip()
    assert repository("diff", "--numstat", "main", BRANCH, "--", CONFIG).split()[:2] == ["1", "1"]
    assert repository("show", f"{BRANCH}:{FOLDER}/sel_dense.csv") == "a\n1"
    assert (landed.edit.before, landed.edit.after) == (4096, 256)
    assert f"+++ b/{CONFIG}\n" in landed.edit.diff
    message = repository("log", "-1", "--format=%an%n%B", BRANCH)
    assert message.startswith("Ada\nEnable Triton selection from L=256\n\n")
    assert f"{KEY}: 4096 -> 256\nDecision: ENABLE(L>=256), margin 1.2\nRun: {RUN}" in message
    assert (landed.already, landed.pr_url, landed.notes) == (False, None, ())
    assert repository.pushed() == ["main"]


def test_flags_that_the_decision_needs_are_in_the_message(repository, request_):
    flags = {"NSA_SEL_TRITON_DB": "1", "NOTE": "a b"}
    land(replace(request_, decision=ENABLE.model_copy(update={"environment": flags})))
    message = repository("log", "-1", "--format=%B", BRANCH)
    assert message.endswith("Measured with: NSA_SEL_TRITON_DB=1 'NOTE=a b'")


@pytest.mark.parametrize(("current", "after"), [(4096, 4096), (2048, 2048), (0, 2048)])
def test_keep_off_never_lowers_the_threshold(repository, request_, current, after):
    repository.write(CONFIG, TEXT.replace("4096", str(current)))
    repository("commit", "-qam", "current", "--allow-empty")
    landed = land(replace(request_, decision=KEEP_OFF))
    assert f"sel_triton_min_L: {after}  # packed" in repository("show", f"{BRANCH}:{CONFIG}")
    assert repository("show", f"{BRANCH}:{DOC}") == "# KEEP_OFF\n\nIt is slower."
    assert DOC in landed.files
    assert landed.edit.changed == (current != after)
    assert bool(landed.notes) == (current == after)


def test_keep_off_lands_above_the_lengths_that_lost(repository, request_):
    decision = KEEP_OFF.model_copy(update={"min_L": 8193})
    land(replace(request_, decision=decision))
    assert "sel_triton_min_L: 8193  # packed" in repository("show", f"{BRANCH}:{CONFIG}")


def test_undecided_lands_nothing(repository, request_):
    before = repository.state()
    error = refused(
        replace(request_, decision=UNDECIDED, pr=True), "an undecided run lands nothing"
    )
    assert "no CUDA device" in error.message
    assert repository.branches() == ["main"]
    assert repository.state() == before


def test_keep_off_needs_its_rationale(request_):
    keep_off = replace(request_, decision=KEEP_OFF)
    refused(replace(keep_off, rationale="  "), "lands with its rationale")
    refused(replace(keep_off, rationale_doc=None), "lands with its rationale")


def test_a_plan_writes_nothing(repository, request_):
    before = repository.state()
    planned = plan(request_)
    assert (planned.branch, planned.edit.after, len(planned.contents)) == (BRANCH, 256, 3)
    assert repository.branches() == ["main"]
    assert repository.state() == before


# --- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [ENABLE, KEEP_OFF])
def test_landing_twice_is_landing_once(repository, request_, decision):
    first = land(replace(request_, decision=decision))
    repository.write("README.md", "later\n")
    repository("commit", "-qam", "later")
    second = land(replace(request_, decision=decision))
    assert second.already
    assert (second.commit, second.edit, second.files) == (first.commit, first.edit, first.files)
    assert second.notes[-1].startswith(f"landed before: {BRANCH} holds it")


def test_a_report_that_tells_of_the_first_landing_is_no_other_landing(request_, repository):
    first = land(request_)
    request_.report.write_text("# ENABLE\n\nLanded.\n")
    assert land(request_).commit == first.commit
    assert repository("show", f"{BRANCH}:{FOLDER}/selection_report.md") == "# ENABLE"
    shared = replace(request_, folder="reports/latest", branch="latest")
    land(shared)
    request_.report.write_text("# KEEP_OFF\n")
    refused(shared, "what is on it differs")


def test_a_branch_with_something_else_is_refused(repository, request_, evidence):
    first = land(request_)
    evidence[1].write_text("a\n2\n")
    error = refused(request_, f"the branch {BRANCH} exists, and what is on it differs")
    assert f"git branch -D {BRANCH}" in (error.remedy or "")
    assert repository("rev-parse", BRANCH) == first.commit


@pytest.mark.parametrize("deleted", [False, True])
def test_what_is_merged_is_not_landed_again(repository, request_, deleted):
    land(request_)
    repository("merge", "-q", "--no-ff", "-m", "merge", BRANCH)
    if deleted:
        repository("branch", "-d", BRANCH)
    again = land(request_)
    assert (again.already, again.branch, again.commit) == (
        True,
        None,
        repository("rev-parse", "main"),
    )
    assert "HEAD holds all of it already" in again.notes[-1]


def test_landing_again_while_on_the_branch(repository, request_):
    first = land(request_)
    repository("switch", "-q", BRANCH)
    assert land(request_).branch == first.branch

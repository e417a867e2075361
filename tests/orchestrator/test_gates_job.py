from __future__ import annotations

import pytest

from orchestrator.gates.job import job_gate
from orchestrator.models.run import JobOutcome, JobState
from orchestrator.models.verdict import Reason, Verdict


def outcome(state: JobState, **fields: object) -> JobOutcome:
    return JobOutcome(job_id="r.1.parity.1", state=state, duration_s=12.4, **fields)


def test_exit_0_passes():
    result = job_gate(outcome(JobState.SUCCEEDED, exit_code=0))
    assert result.verdict is Verdict.PASS
    assert result.message == "The command ended with exit code 0 after 12 s."
    assert result.measured["exit_code"] == 0


@pytest.mark.parametrize(
    ("fields", "verdict", "word"),
    [
        ({"reason": "exit", "exit_code": 1}, Verdict.FAIL, "exit code 1 after 12 s"),
        ({"reason": "signal", "signal": 6}, Verdict.FAIL, "SIGABRT (signal 6)"),
        ({"reason": "signal", "signal": 99}, Verdict.FAIL, "killed by signal 99"),
        ({"reason": "timeout", "signal": 15}, Verdict.FAIL, "time limit after 12 s"),
        ({"reason": "oom", "signal": 9, "max_rss_bytes": 2**34}, Verdict.FAIL, "used 16.0 GiB"),
        ({"reason": "disk"}, Verdict.INFRA, "disk was full"),
        ({}, Verdict.FAIL, "exit code unknown"),
    ],
)
def test_a_failed_job(fields, verdict, word):
    result = job_gate(outcome(JobState.FAILED, **fields))
    assert (result.verdict, result.reason) == (verdict, Reason.JOB_FAILED)
    assert word in result.message
    assert result.next_step


def test_an_abort_points_to_the_compiler():
    result = job_gate(outcome(JobState.FAILED, reason="signal", signal=6))
    assert "MLIR" in str(result.next_step)


def test_a_hint_of_the_agent_is_the_next_step():
    assert job_gate(outcome(JobState.FAILED, hint="try this")).next_step == "try this"


@pytest.mark.parametrize(
    ("state", "verdict", "reason"),
    [
        (JobState.LOST, Verdict.INFRA, Reason.JOB_LOST),
        (JobState.CANCELLED, Verdict.NOT_VERIFIED, Reason.NOT_RUN),
        (JobState.SUBMITTED, Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE),
        (JobState.RUNNING, Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE),
        (JobState.UNREACHABLE, Verdict.NOT_VERIFIED, Reason.NO_EVIDENCE),
    ],
)
def test_a_job_that_shows_nothing(state, verdict, reason):
    result = job_gate(outcome(state))
    assert (result.verdict, result.reason) == (verdict, reason)
    assert result.next_step

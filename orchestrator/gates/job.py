"""The job itself: did its command end, and well?"""

from __future__ import annotations

import signal

from orchestrator.models.run import JobOutcome, JobState
from orchestrator.models.verdict import GateResult, Reason, Verdict

GATE = "job"


def job_gate(outcome: JobOutcome) -> GateResult:
    """Judge how a job ended. Only exit 0 counts in favour of what it left behind."""
    measured = outcome.model_dump(mode="json", exclude_none=True, exclude={"hint"})

    def result(verdict: Verdict, reason: Reason | None, message: str, step: str) -> GateResult:
        return GateResult(
            gate=GATE,
            verdict=verdict,
            reason=reason,
            message=message,
            measured=measured,
            next_step=outcome.hint or step,
        )

    state = outcome.state
    if state is JobState.SUCCEEDED:
        return GateResult(
            gate=GATE,
            verdict=Verdict.PASS,
            message=f"The command ended with exit code 0{_after(outcome)}.",
            measured=measured,
        )
    if state is JobState.FAILED:
        verdict, message, step = _failure(outcome)
        return result(verdict, Reason.JOB_FAILED, message, step)
    if state is JobState.LOST:
        return result(
            Verdict.INFRA,
            Reason.JOB_LOST,
            "The job vanished: its process is gone and left no result; the pod was probably "
            "restarted or reclaimed.",
            "Check that the pod still exists, then run the phase again.",
        )
    if state is JobState.CANCELLED:
        return result(
            Verdict.NOT_VERIFIED,
            Reason.NOT_RUN,
            f"The job was cancelled{_after(outcome)}, so it shows nothing.",
            "Run the phase again and let it finish.",
        )
    return result(
        Verdict.NOT_VERIFIED,
        Reason.NO_EVIDENCE,
        f"The job has not ended: it was last seen {state.value}.",
        "Follow it to its end, then judge the run again.",
    )


def _failure(outcome: JobOutcome) -> tuple[Verdict, str, str]:
    """What became of a failed job, and what to do, in words."""
    log = "Read the end of the step's log"
    after = _after(outcome)
    if outcome.reason == "timeout":
        return (
            Verdict.FAIL,
            f"The job ran into its time limit{after} and was ended.",
            f"{log}: a kernel that is still compiling needs a longer timeout, a hang needs a fix.",
        )
    if outcome.reason == "oom":
        return (
            Verdict.FAIL,
            f"The pod ran out of memory and its kernel killed the job{after}{_peak(outcome)}.",
            "Use a pod with more memory, or smaller shapes.",
        )
    if outcome.reason == "disk":
        return (
            Verdict.INFRA,
            f"The pod's disk was full, which ended the job{after}.",
            "Free room on the pod, or rent one with a larger disk, and run the phase again.",
        )
    if outcome.signal is not None:
        return (
            Verdict.FAIL,
            f"The command was killed by {_signal(outcome.signal)}{after}.",
            f"{log}. {_SIGNAL_STEPS.get(outcome.signal, 'Find out who sent the signal.')}",
        )
    return (
        Verdict.FAIL,
        f"The command ended with exit code {_known(outcome.exit_code)}{after}.",
        f"{log}, and repeat the command by hand on the pod (it is listed in the report).",
    )


_SIGNAL_STEPS: dict[int, str] = {
    signal.SIGABRT: "An assertion in the Triton compiler (MLIR) ends like this: try another "
    "Triton version.",
    signal.SIGSEGV: "Native code crashed: try another torch or Triton version.",
    signal.SIGKILL: "Often the pod's memory limit: look at the memory it used.",
}


def _signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def _known(code: int | None) -> str:
    return "unknown" if code is None else str(code)


def _after(outcome: JobOutcome) -> str:
    return "" if outcome.duration_s is None else f" after {outcome.duration_s:.0f} s"


def _peak(outcome: JobOutcome) -> str:
    peak = outcome.max_rss_bytes
    return "" if peak is None else f" (it used {peak / 2**30:.1f} GiB)"

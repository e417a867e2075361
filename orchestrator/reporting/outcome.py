"""What a run comes to: headline, summary, next steps, landing, exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from orchestrator.errors import ExitCode
from orchestrator.models.playbook import DecideStep, LandStep
from orchestrator.models.run import BEING_LANDED, Judgement, RunPlan
from orchestrator.models.verdict import Decision, Outcome, Reason, Verdict
from orchestrator.reporting.comparison import flags
from orchestrator.reporting.markdown import Markdown, code, codes, error, link, prose
from orchestrator.reporting.records import Evidence, Totals
from orchestrator.reporting.sections import numbers
from orchestrator.reporting.views import GateLine, Landing, Summary, Symptom
from orchestrator.store.events import Event

_BROKEN = {
    Reason.UNREACHABLE.value: ExitCode.UNREACHABLE,
    Reason.NOT_RUN.value: ExitCode.DETACHED,
    Reason.NOT_LANDED.value: ExitCode.USAGE,
}
"""Exit code by the reason of `run.error`; any other is INFRA."""
_DIAGNOSTICS = "diagnostics "
_ISSUES_SHOWN = 3
_KEY = "runtime.sel_triton_min_L"
_ON_A_GPU = Markdown(
    "Run the same playbook on a pod with an NVIDIA GPU: "
    "`orchestrate run --phase 0-5 --pod user@host:port`"
)


def exit_code(judgement: Judgement, events: Iterable[Event]) -> int:
    """The exit code of the run: an error that ended it comes before any verdict."""
    broken: int | None = None
    for event in events:
        if event.name == "run.error":
            broken = int(_BROKEN.get(str(event.data.get("reason")), ExitCode.INFRA))
        elif event.name == "run.finished" and broken is not None:
            broken = _known(event.data.get("exit_code")) or broken
    return int(judgement.verdict.exit_code) if broken is None else broken


def _known(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and value in list(ExitCode) else None


def headline(plan: RunPlan, judgement: Judgement) -> str:
    """The decision; without one, what was asked for and what came of it."""
    if judgement.decision:
        return str(judgement.decision)
    if _asked_to_decide(plan):
        return "No decision"
    verdict = judgement.verdict.value
    if len(plan.phases) == len(plan.playbook.phases):
        return verdict
    noun = "Phase" if len(plan.phases) == 1 else "Phases"
    return f"{noun} {numbers(plan.phases)} only: {verdict}"


def why(plan: RunPlan, judgement: Judgement) -> str:
    """One sentence under the headline."""
    if judgement.decision:
        summary = judgement.decision.summary
        if summary.startswith(judgement.decision.outcome.value):
            # The headline says it already.
            summary = summary.partition(": ")[2] or summary
        return summary[:1].upper() + summary[1:]
    first = judgement.reasons[0].message if judgement.reasons else ""
    if _asked_to_decide(plan):
        return f"No decision was made. {first}".strip()
    if judgement.verdict is not Verdict.PASS:
        return first or "What was asked for was not shown."
    deciding = _deciding(plan)
    tail = f" The decision is made in phase {deciding[0]}." if deciding else ""
    return f"All gates passed.{tail}"


def _deciding(plan: RunPlan) -> list[int]:
    """Phases that hold a decision."""
    return [
        phase.id
        for phase in plan.playbook.phases
        if any(isinstance(step, DecideStep) for step in phase.steps)
    ]


def _asked_to_decide(plan: RunPlan) -> bool:
    return any(phase in plan.phases for phase in _deciding(plan))


def summary(
    issues: Sequence[tuple[str, str]],
    symptoms: Sequence[Symptom],
    tests: tuple[Totals | None, Totals | None],
    landed: Landing | None,
    decision: Decision | None,
    config_file: str | None,
) -> Summary:
    """The document's short summary; `tests` are those before, and the adopted variant's."""
    before, adopted = tests
    parity = _parity(before)
    if adopted is not None:
        parity += f" With the adopted variant: {_parity(adopted)}"
    shown = "; ".join(f"{code(where)}: {prose(what)}" for where, what in issues[:_ISSUES_SHOWN])
    more = len(issues) - _ISSUES_SHOWN
    tail = f"; and {more} more below" if more > 0 else ""
    met = f"{len(issues)}: {shown}{tail}." if issues else "no failed test, job or cell."
    if symptoms:
        names = dict.fromkeys(prose(symptom.symptom) for symptom in symptoms)
        met += f" Diagnostics show: {'; '.join(names)}."
    return Summary(
        parity=Markdown(parity),
        issues=Markdown(met),
        config=Markdown(_config(landed, decision, config_file)),
    )


def _parity(totals: Totals | None) -> str:
    if totals is None:
        return "not measured."
    counts = f"**{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped**"
    if totals.repeated:
        counts += f" (distinct tests; {totals.repeated} of them in more than one file)"
    if totals.max_mae is None:
        return f"{counts}; no errors were recorded."
    return f"{counts}; max MAE {error(totals.max_mae)} against the fp64 oracle."


def _config(landed: Landing | None, decision: Decision | None, config_file: str | None) -> str:
    if landed and landed.now:
        return f"{code(config_file)} is changed by the commit that this report is part of."
    if landed and landed.commit:
        name = code(config_file)
        if landed.diff:
            return f"{name} changed on branch {code(landed.branch)}; the diff is under Landing."
        return f"{name} has the value already."
    if landed and landed.error:
        return f"not changed: {prose(landed.error)}"
    if decision is None or decision.outcome is Outcome.UNDECIDED:
        return "not changed: nothing was decided."
    return "not changed: the decision is not landed."


def next_steps(
    plan: RunPlan, judgement: Judgement, gates: Iterable[GateLine], landed: Landing | None
) -> Iterator[str]:
    """What to do now, in Markdown or as plain sentences."""
    decision = judgement.decision
    replaced = {phase.id for phase in judgement.phases if phase.superseded}
    # Once a variant is adopted, what ails the others calls for nothing.
    others = [v for v in plan.variants if judgement.adopted not in (None, v.id)]
    dropped = {step for variant in others for step in variant.step_ids}
    if decision is not None and decision.outcome is not Outcome.UNDECIDED:
        yield from _after_decision(plan, decision, landed)
    for line in gates:
        result = line.result
        if line.phase in replaced or line.step in dropped:
            continue
        # The decision's own gate repeats its first obstacle, which stands above these steps.
        if result.verdict is not Verdict.PASS and result.next_step and result.gate != "decision":
            yield result.next_step
    causes = (*(decision.obstacles if decision else ()), *judgement.reasons)
    if any(cause.reason is Reason.NO_CUDA_DEVICE for cause in causes):
        yield _ON_A_GPU


def _after_decision(plan: RunPlan, decision: Decision, landed: Landing | None) -> Iterator[str]:
    step = land_step(plan)
    key = code(step.key if step else _KEY)
    if landed and landed.now:
        yield Markdown("Review this change and merge it.")
    elif landed and landed.pr_url:
        yield Markdown(f"Review the pull request: {link(landed.pr_url)}.")
    elif landed and landed.commit and landed.branch is None:
        yield Markdown("Nothing: the repository has it already.")
    elif landed and landed.commit:
        yield Markdown(f"Review branch {code(landed.branch)} and merge it.")
    elif decision.outcome is Outcome.ENABLE:
        yield Markdown(f"Set {key} to {decision.min_L} and open a pull request.")
    else:
        yield Markdown(f"Keep Triton off: {key} stays at {decision.min_L} or above.")
    if decision.environment and decision.outcome is Outcome.ENABLE:
        yield Markdown(
            f"Set {codes(flags(decision.environment))} wherever the kernel runs: "
            "the decision was measured with it."
        )


def land_step(plan: RunPlan) -> LandStep | None:
    """The playbook's step that lands, if it has one."""
    steps = (step for phase in plan.playbook.phases for step in phase.steps)
    return next((step for step in steps if isinstance(step, LandStep)), None)


def landing(plan: RunPlan, judgement: Judgement, evidence: Evidence) -> Landing | None:
    """What the step that lands has left; None when it did not run."""
    if any(phase.skipped == BEING_LANDED for phase in judgement.phases):
        return Landing(None, None, None, None, (), (), None, now=True)
    step = land_step(plan)
    result = evidence.results.get(step.id) if step else None
    if result is None:
        return None
    details = result.details
    return Landing(
        branch=_text(details, "branch"),
        commit=_text(details, "commit"),
        pr_url=_text(details, "pr_url"),
        diff=_text(details, "diff"),
        files=_texts(details, "files"),
        notes=_texts(details, "notes"),
        error=result.error,
    )


def _text(details: Mapping[str, JsonValue], name: str) -> str | None:
    value = details.get(name)
    return value if isinstance(value, str) and value.strip() else None


def _texts(details: Mapping[str, JsonValue], name: str) -> tuple[str, ...]:
    value = details.get(name)
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def symptoms(gates: Iterable[GateLine]) -> Iterator[Symptom]:
    """Those that the diagnostics gates found."""
    for line in gates:
        found = line.result.measured.get("symptoms")
        if not line.result.gate.startswith(_DIAGNOSTICS) or not isinstance(found, list):
            continue
        for item in found:
            if isinstance(item, dict):
                words = [str(item.get(name, "")) for name in ("symptom", "where", "remedy")]
                yield Symptom(line.step, *words)

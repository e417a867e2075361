"""A run directory to a judgement: pure, offline, repeatable."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path

from orchestrator.engine.history import History
from orchestrator.engine.inherited import Inherited
from orchestrator.engine.step_gates import bench_rows, gates_of
from orchestrator.engine.variants import adopt, best, judge_variants
from orchestrator.engine.waivers import waived
from orchestrator.errors import StoreError
from orchestrator.evidence.facts import Facts
from orchestrator.gates.decision import decide
from orchestrator.models.playbook import DecideStep, LandStep, Phase, ProvisionStep, Step
from orchestrator.models.run import (
    BEING_LANDED,
    Judgement,
    PhaseJudgement,
    PlannedVariant,
    RunPlan,
    StepJudgement,
    VariantJudgement,
)
from orchestrator.models.verdict import (
    Decision,
    GateResult,
    Obstacle,
    Outcome,
    Reason,
    Verdict,
    worst,
)
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

_NOT_INFRA = (Reason.NOT_LANDED, Reason.NOT_RUN)
"""Ends of a run that the machine is not to blame for: the step's own gate says what is missing."""


def judge(
    paths: RunPaths,
    *,
    ignoring: Collection[str] = (),
    landing: bool = False,
    seen: frozenset[Path] = frozenset(),
) -> Judgement:
    """Judge everything that the run has left so far.

    `ignoring` names differences that do not keep inherited phases from counting: whether a fix is
    called for is judged by the run before the fix. With `landing`, the landing phase is left out:
    the report that is landed cannot judge its own landing. `seen` are the runs that inherit.

    Raises:
        StoreError: the plan is missing or damaged, or the run inherits from itself.
    """
    if paths.root in seen:
        raise StoreError(f"{paths.root} inherits from itself")
    source = runs.read_plan(paths).inherits
    parent: Judgement | None = None
    problem = "which had it, is gone"
    if source is not None:
        try:
            parent = judge(RunPaths(Path(source.path)), seen=seen | {paths.root})
        except StoreError as error:
            problem = f"cannot be read ({error.message})"
    inherited = Inherited(source, parent, problem, ignoring) if source else None
    return _Judge(paths, inherited, landing=landing).run()


class _Judge:
    """Judges phase by phase; a decision sees the gates of all phases before it."""

    def __init__(self, paths: RunPaths, inherited: Inherited | None, *, landing: bool) -> None:
        self._paths = paths
        self._plan: RunPlan = runs.read_plan(paths)
        self._inherited = inherited
        self._landing = landing
        self._history = History(paths)
        self._phases: list[PhaseJudgement] = []
        self._variants: list[VariantJudgement] = []
        self._adopted: str | None = None
        self._decisions: dict[str | None, Decision] = {}
        self._variant_of = {s: v for v in self._plan.variants for s in v.step_ids}

    def run(self) -> Judgement:
        """All phases in order, then the whole."""
        for phase in self._plan.playbook.phases:
            self._phases.append(self._phase(phase))
        counting = [p for p in self._phases if p.superseded is None]
        verdicts = [phase.verdict for phase in counting if phase.verdict is not None]
        error = self._history.error
        if error is not None:
            verdicts.append(Verdict.NOT_VERIFIED if error.reason in _NOT_INFRA else Verdict.INFRA)
        deciding = self._deciding()
        return Judgement(
            run_id=self._plan.run_id,
            verdict=worst(verdicts),
            phases=self._phases,
            decision=deciding.decision if deciding else None,
            decided_by=(deciding.inherited or self._plan.run_id) if deciding else None,
            variants=self._variants,
            adopted=self._adopted,
            reasons=self._reasons(counting),
        )

    def _deciding(self) -> PhaseJudgement | None:
        """The last phase that made a decision: a variant's takes the place of the one before."""
        return next((p for p in reversed(self._phases) if p.decision is not None), None)

    # --- phases -----------------------------------------------------------------------------------

    def _phase(self, phase: Phase) -> PhaseJudgement:
        if phase.id not in self._plan.phases:
            return self._not_asked_for(phase)
        head = {"id": phase.id, "name": phase.name, "title": phase.title}
        if self._landing and any(isinstance(step, LandStep) for step in phase.steps):
            return PhaseJudgement(**head, verdict=None, skipped=BEING_LANDED)
        if phase.id in self._history.phases:
            return PhaseJudgement(**head, verdict=None, skipped=self._history.phases[phase.id])
        self._decisions.pop(None, None)
        steps: list[StepJudgement] = []
        for step in phase.steps:
            steps.append(self._step(phase, step, steps))
        variants = [v for v in self._plan.variants if v.phase == phase.id]
        if variants:
            return self._with_variants(phase, steps, variants)
        return PhaseJudgement(
            **head,
            verdict=worst(s.verdict for s in steps),
            decision=self._decisions.get(None),
            steps=steps,
        )

    def _not_asked_for(self, phase: Phase) -> PhaseJudgement:
        if self._inherited is None or not self._inherited.has(phase):
            return PhaseJudgement(
                id=phase.id,
                name=phase.name,
                title=phase.title,
                verdict=None,
                skipped="not asked for",
            )
        taken = self._inherited.take(phase, self._plan, self._phases)
        parent = self._inherited.parent
        if taken.decision is not None and taken.decision.variant is not None and parent is not None:
            # the phase that improved on others comes with what it improved
            self._variants, self._adopted = parent.variants, parent.adopted
            self._supersede({p.id for p in parent.phases if p.superseded}, taken.decision.variant)
        return taken

    def _with_variants(
        self, phase: Phase, steps: list[StepJudgement], variants: list[PlannedVariant]
    ) -> PhaseJudgement:
        judged = {s.step: s for s in steps}
        decisions = {name: d for name, d in self._decisions.items() if name is not None}
        self._variants = judge_variants(variants, judged, decisions)
        before = self._deciding()
        adopted = adopt(self._variants, before.decision if before else None, self._red(variants))
        own = [s.verdict for s in steps if s.step not in self._variant_of]
        if adopted is not None:
            self._adopted = adopted.id
            self._supersede(set(next(v for v in variants if v.id == adopted.id).steps), adopted.id)
        return PhaseJudgement(
            id=phase.id,
            name=phase.name,
            title=phase.title,
            verdict=worst([*own, best(self._variants, adopted)]),
            decision=adopted.decision if adopted else None,
            steps=steps,
        )

    def _supersede(self, numbers: set[int], variant: str) -> None:
        for index, phase in enumerate(self._phases):
            if phase.id in numbers:
                self._phases[index] = phase.model_copy(update={"superseded": variant})

    def _red(self, variants: list[PlannedVariant]) -> bool:
        """Whether what the variants repeat has not passed as it was."""
        repeated = {number for v in variants for number in v.steps}
        return any(
            gate.verdict is not Verdict.PASS and gate.gate != "decision"
            for gate in _all_gates(p for p in self._phases if p.id in repeated)
        )

    # --- steps ------------------------------------------------------------------------------------

    def _step(self, phase: Phase, step: Step, before: list[StepJudgement]) -> StepJudgement:
        result = runs.read_result(self._paths, phase.id, step.id)
        if step.id in self._history.steps:
            gates = [not_run(f"step {step.id}", f"Skipped: {self._history.steps[step.id]}.")]
        elif isinstance(step, DecideStep):
            gates = [self._decide(step, before)]
        elif result is None:
            gates = [not_run(f"step {step.id}", "The step was not run, or did not get to its end.")]
        elif result.error is not None and not isinstance(step, ProvisionStep | LandStep):
            gates = [infra(f"step {step.id}", result.error)]
        else:
            altered = self._history.altered(self._plan.run_id, result)
            gates = gates_of(self._plan, self._paths, step, result, self._gpus)
            gates = [altered, *gates] if altered is not None else gates
            gates = [waived(gate, self._plan.waivers) for gate in gates]
        return StepJudgement(
            phase=phase.id,
            step=step.id,
            title=step.title or step.id,
            attempt=result.attempt if result else 1,
            verdict=worst(gate.verdict for gate in gates),
            gates=gates,
        )

    # --- the decision -----------------------------------------------------------------------------

    def _decide(self, step: DecideStep, before: list[StepJudgement]) -> GateResult:
        variant = self._variant_of.get(step.id)
        decision = decide(
            bench_rows(self._plan, self._paths, step.dense),
            bench_rows(self._plan, self._paths, step.varlen),
            step.margin,
            self._required(variant, before),
            level=step.level,
            reference=step.reference,
        )
        if variant is not None:
            update = {"variant": variant.id, "environment": variant.environment}
            decision = decision.model_copy(update=update)
        self._decisions[variant.id if variant else None] = decision
        measured = {
            "outcome": decision.outcome.value,
            "min_L": decision.min_L,
            "margin": step.margin,
        }
        if decision.outcome is not Outcome.UNDECIDED:
            return GateResult(
                gate="decision", verdict=Verdict.PASS, message=decision.summary, measured=measured
            )
        return GateResult(
            gate="decision",
            verdict=Verdict.NOT_VERIFIED,
            reason=decision.obstacles[0].reason,
            message=decision.summary,
            measured=measured,
            next_step="Remove what stands in the way: " + decision.obstacles[0].message,
        )

    def _required(
        self, variant: PlannedVariant | None, before: list[StepJudgement]
    ) -> list[GateResult]:
        """Every gate that the decision rests on; a variant stands in for what it repeats."""
        if variant is None:
            phases, own = self._phases, before
        else:
            phases = [p for p in self._phases if p.id < min(variant.steps)]
            shared = [s for s in before if s.step not in self._variant_of]
            own = shared + [s for s in before if s.step in variant.step_ids]
        gates = [*_all_gates(phases), *(gate for s in own for gate in s.gates)]
        gates += [
            not_run(f"phase {phase.id}", f"{phase.title}: {phase.skipped}.")
            for phase in phases
            if phase.skipped is not None
        ]
        return gates

    @cached_property
    def _gpus(self) -> list[str] | None:
        """Names of the GPUs that the driver or torch reported; None where neither could."""
        try:
            facts = runs.read(self._paths.facts, Facts)
        except StoreError:
            return self._history.gpus
        known = facts.system is not None and facts.system.gpu_error is None
        names = [gpu.name for gpu in facts.system.gpus] if facts.system else []
        told: list[object] = [facts.device.model_dump()] if facts.device else []
        for phase in self._plan.playbook.phases:
            for step in phase.steps:
                if isinstance(step, ProvisionStep):
                    result = runs.read_result(self._paths, phase.id, step.id)
                    told.append(result.details.get("device") if result else None)
        for device in told:
            found = device.get("devices") if isinstance(device, dict) else None
            if isinstance(found, list | tuple):
                known = True
                names += [str(d.get("name")) for d in found if isinstance(d, dict)]
        return sorted(set(names)) if known else None

    def _reasons(self, counting: list[PhaseJudgement]) -> list[Obstacle]:
        """Distinct causes: a gate's own, and each of an undecided decision's."""
        found: list[Obstacle] = []
        steps = [step for phase in counting for step in phase.steps]
        if self._adopted is not None:  # what ails the other variants is no obstacle any more
            own = next((v.step_ids for v in self._plan.variants if v.id == self._adopted), [])
            steps = [s for s in steps if s.step not in self._variant_of or s.step in own]
        for step in steps:
            for gate in step.gates:
                if gate.verdict is Verdict.PASS or gate.gate == "decision":
                    continue
                if step.step in self._history.steps:
                    continue  # skipped for a reason, which the phase shows
                assert gate.reason is not None  # noqa: S101 - the model demands it
                found.append(Obstacle(reason=gate.reason, message=f"{gate.gate}: {gate.message}"))
        error = self._history.error
        if error is not None and error.reason not in {obstacle.reason for obstacle in found}:
            found.insert(0, error)
        deciding = self._deciding()
        if deciding is not None and deciding.decision is not None:
            found += deciding.decision.obstacles
        return list(dict.fromkeys(found))


def not_run(gate: str, message: str) -> GateResult:
    """Nothing was shown."""
    return GateResult(
        gate=gate,
        verdict=Verdict.NOT_VERIFIED,
        reason=Reason.NOT_RUN,
        message=message,
        next_step="Run it: a decision needs all of phases 0 to 2.",
    )


def infra(gate: str, message: str) -> GateResult:
    """The machine or the network, not the experiment."""
    return GateResult(
        gate=gate,
        verdict=Verdict.INFRA,
        reason=Reason.POD_ERROR,
        message=message,
        next_step="Put the pod right, then run again: nothing was learned about the kernel.",
    )


def _all_gates(phases: Iterable[PhaseJudgement]) -> Iterable[GateResult]:
    return (gate for phase in phases for step in phase.steps for gate in step.gates)

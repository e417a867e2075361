"""A run directory to a judgement: pure, offline, repeatable."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from orchestrator.engine.inherit import SOURCE
from orchestrator.engine.variants import adopt, best, judge_variants
from orchestrator.errors import StoreError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.gates.decision import decide
from orchestrator.gates.environment import device_gate, landing_gate, resources_gate, sync_gate
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import (
    DecideStep,
    JobStep,
    LandStep,
    Phase,
    ProvisionStep,
    Step,
    SyncStep,
)
from orchestrator.models.run import (
    Inheritance,
    Judgement,
    PhaseJudgement,
    PlannedVariant,
    StepJudgement,
    StepResult,
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
from orchestrator.store.events import read_events
from orchestrator.store.paths import RunPaths
from orchestrator.store.runs import read_plan, read_result

_DEPTH = 20
"""Runs may inherit from runs that inherit; a circle can only be made by hand."""


def judge(paths: RunPaths, *, ignoring: Collection[str] = (), depth: int = 0) -> Judgement:
    """Judge everything that the run has left so far.

    `ignoring` names differences that do not keep inherited phases from counting: whether a fix is
    called for is judged by the run before the fix.
    """
    if depth > _DEPTH:
        raise StoreError(f"{paths.root} inherits from itself")
    return _Judge(paths, ignoring, depth).run()


class _Judge:
    """Judges phase by phase; a decision sees the gates of all phases before it."""

    def __init__(self, paths: RunPaths, ignoring: Collection[str], depth: int) -> None:
        self._paths = paths
        self._plan = read_plan(paths)
        self._ignoring = ignoring
        self._skipped: dict[int, str] = {}
        self._skipped_steps: dict[str, str] = {}
        self._error: dict[str, str] | None = None
        self._read_events()
        self._inherited = self._load_inherited(depth)
        self._phases: list[PhaseJudgement] = []
        self._decision: Decision | None = None
        self._variants: list[VariantJudgement] = []
        self._adopted: str | None = None
        self._variant_decisions: dict[str, Decision] = {}
        self._variant_of = {s: v for v in self._plan.variants for s in v.step_ids}

    def _read_events(self) -> None:
        for event in read_events(self._paths.events):
            if event.name == "phase.skipped":
                self._skipped[int(str(event.data["phase"]))] = str(event.data["why"])
            elif event.name == "phase.started":
                self._skipped.pop(int(str(event.data["phase"])), None)
            elif event.name == "step.skipped":
                self._skipped_steps[str(event.data["step"])] = str(event.data["why"])
            elif event.name == "run.error":
                self._error = {name: str(value) for name, value in event.data.items()}
            elif event.name == "run.resumed":
                self._error = None

    def _load_inherited(self, depth: int) -> Judgement | None:
        source = self._plan.inherits
        if source is None:
            return None
        try:
            return judge(RunPaths(Path(source.path)), depth=depth + 1)
        except StoreError:
            return None  # gone or damaged: its phases are not verified

    def run(self) -> Judgement:
        """All phases in order, then the whole."""
        for phase in self._plan.playbook.phases:
            self._phases.append(self._phase(phase))
        counting = [p for p in self._phases if p.superseded is None]
        verdicts = [phase.verdict for phase in counting if phase.verdict is not None]
        if self._error is not None:
            verdicts.append(Verdict.INFRA)
        return Judgement(
            run_id=self._plan.run_id,
            verdict=worst(verdicts),
            phases=self._phases,
            decision=self._decision,
            variants=self._variants,
            adopted=self._adopted,
            reasons=self._reasons(counting),
        )

    # --- phases -----------------------------------------------------------------------------------

    def _phase(self, phase: Phase) -> PhaseJudgement:
        head = {"id": phase.id, "name": phase.name, "title": phase.title}
        source = self._plan.inherits
        if phase.id not in self._plan.phases:
            if source is not None and phase.id in source.phases:
                return self._inherit(phase, source)
            return PhaseJudgement(**head, verdict=None, skipped="not asked for")
        if phase.id in self._skipped:
            return PhaseJudgement(**head, verdict=None, skipped=self._skipped[phase.id])
        steps: list[StepJudgement] = []
        for step in phase.steps:
            steps.append(self._step(phase, step, steps))
        variants = [v for v in self._plan.variants if v.phase == phase.id]
        if variants:
            return self._with_variants(phase, steps, variants)
        return PhaseJudgement(**head, verdict=worst(s.verdict for s in steps), steps=steps)

    def _inherit(self, phase: Phase, source: Inheritance) -> PhaseJudgement:
        head = {"id": phase.id, "name": phase.name, "title": phase.title}
        found = (
            next((p for p in self._inherited.phases if p.id == phase.id), None)
            if (self._inherited)
            else None
        )
        if found is None:
            gate = not_run(f"phase {phase.id}", f"Run {source.run_id}, which had it, is gone.")
        elif found.verdict is None:
            return found.model_copy(update={"inherited": source.run_id})
        else:
            ignoring = {*self._ignoring, *(self._tolerated(phase))}
            differences = [d for d in source.differences if d not in ignoring]
            if not differences:
                self._inherit_decision(phase)
                return found.model_copy(
                    update={"inherited": found.inherited or source.run_id, "superseded": None}
                )
            gate = _differs(phase, found, source, differences)
        step = StepJudgement(
            phase=phase.id,
            step="inherited",
            title=f"from run {source.run_id}",
            attempt=1,
            verdict=gate.verdict,
            gates=[gate],
        )
        return PhaseJudgement(**head, verdict=gate.verdict, inherited=source.run_id, steps=[step])

    def _tolerated(self, phase: Phase) -> set[str]:
        """A fix changes the source within `allow_paths`; what it does not repeat still holds."""
        fixes = any(
            isinstance(step, SyncStep) and step.allow_paths
            for other in self._plan.playbook.phases
            if other.id in self._plan.phases
            for step in other.steps
        )
        repeated = {number for variant in self._plan.variants for number in variant.steps}
        return {SOURCE} if fixes and phase.id not in repeated else set()

    def _inherit_decision(self, phase: Phase) -> None:
        """A decision comes with the phase that made it, and with the one that improved on it."""
        if self._inherited is None:
            return
        decides = any(isinstance(step, DecideStep) for step in phase.steps)
        if decides and self._inherited.decision is not None:
            self._decision = self._inherited.decision

    def _with_variants(
        self, phase: Phase, steps: list[StepJudgement], variants: list[PlannedVariant]
    ) -> PhaseJudgement:
        judged = {s.step: s for s in steps}
        self._variants = judge_variants(variants, judged, self._variant_decisions)
        adopted = adopt(self._variants, self._decision, self._red(variants))
        own = [s.verdict for s in steps if s.step not in self._variant_of]
        if adopted is not None:
            self._adopted, self._decision = adopted.id, adopted.decision
            replaced = next(v for v in variants if v.id == adopted.id).steps
            for index, earlier in enumerate(self._phases):
                if earlier.id in replaced:
                    update = {"superseded": adopted.id}
                    self._phases[index] = earlier.model_copy(update=update)
        verdict = worst([*own, best(self._variants, adopted)])
        return PhaseJudgement(
            id=phase.id, name=phase.name, title=phase.title, verdict=verdict, steps=steps
        )

    def _red(self, variants: list[PlannedVariant]) -> bool:
        """Whether what the variants repeat has not passed as it was."""
        repeated = {number for v in variants for number in v.steps}
        return any(
            gate.verdict is not Verdict.PASS and gate.gate != "decision"
            for p in self._phases
            if p.id in repeated
            for s in p.steps
            for gate in s.gates
        )

    # --- steps ------------------------------------------------------------------------------------

    def _step(self, phase: Phase, step: Step, before: list[StepJudgement]) -> StepJudgement:
        result = read_result(self._paths, phase.id, step.id)
        if step.id in self._skipped_steps:
            gates = [not_run(f"step {step.id}", f"Skipped: {self._skipped_steps[step.id]}.")]
        elif isinstance(step, DecideStep):
            gates = [self._decide(step, before)]
        elif result is None:
            gates = [not_run(f"step {step.id}", "The step was not run, or did not get to its end.")]
        elif result.error is not None and not isinstance(step, ProvisionStep | LandStep):
            gates = [infra(f"step {step.id}", result.error)]
        else:
            gates = self._gates(phase, step, result)
        return StepJudgement(
            phase=phase.id,
            step=step.id,
            title=step.title or step.id,
            attempt=result.attempt if result else 1,
            verdict=worst(gate.verdict for gate in gates),
            gates=gates,
        )

    def _gates(self, phase: Phase, step: Step, result: StepResult) -> list[GateResult]:
        match step:
            case SyncStep():
                return [sync_gate(result)]
            case LandStep():
                return [landing_gate(result)]
            case ProvisionStep():
                devices = [r for r in step.resources if r.resource == "device"]
                gates = [resources_gate(step, result)]
                if gates[0].verdict is Verdict.PASS:
                    gates += [device_gate(device, self._plan.pod, result) for device in devices]
                return gates
            case JobStep():
                gates = self._of_job(step, result)
                listed = {artifact.path for artifact in result.artifacts}
                folder = self._paths.attempt(phase.id, step.id, result.attempt).artifacts

                def read(name: str) -> bytes | None:
                    file = folder / name
                    return file.read_bytes() if name in listed and file.is_file() else None

                return gates + [judge_gate(gate, read) for gate in step.gates]
            case _:
                raise AssertionError(f"no gates for {step.action}")

    @staticmethod
    def _of_job(step: JobStep, result: StepResult) -> list[GateResult]:
        """How the job ended; diagnostics of what breaks may well break, and are no less worth."""
        if result.job is None:
            return []
        gate = job_gate(result.job)
        diagnosing = any(gate.gate == "diagnostics" for gate in step.gates)
        return [] if diagnosing and gate.verdict is not Verdict.INFRA else [gate]

    # --- the decision -----------------------------------------------------------------------------

    def _decide(self, step: DecideStep, before: list[StepJudgement]) -> GateResult:
        variant = self._variant_of.get(step.id)
        decision = decide(
            self._rows(step.dense),
            self._rows(step.varlen),
            step.margin,
            self._required(variant, before),
        )
        if variant is None:
            self._decision = decision
        else:
            update = {"variant": variant.id, "environment": variant.environment}
            self._variant_decisions[variant.id] = decision.model_copy(update=update)
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
            own = [
                s for s in before if s.step in variant.step_ids or s.step not in self._variant_of
            ]
        gates = [gate for phase in phases for s in phase.steps for gate in s.gates]
        gates += [gate for s in own for gate in s.gates]
        gates += [
            not_run(f"phase {phase.id}", f"{phase.title}: {phase.skipped}.")
            for phase in phases
            if phase.skipped is not None
        ]
        return gates

    def _rows(self, source: str) -> list[BenchRow]:
        """Rows of `step/file`; none when it is missing or unreadable (its gate says so)."""
        step_id, _, name = source.partition("/")
        for phase in self._plan.playbook.phases:
            result = read_result(self._paths, phase.id, step_id)
            if result is None or name not in {artifact.path for artifact in result.artifacts}:
                continue
            file = self._paths.attempt(phase.id, step_id, result.attempt).artifacts / name
            try:
                return list(parse_bench(file.read_bytes(), name).rows)
            except (EvidenceError, OSError):
                return []
        return []

    def _reasons(self, counting: list[PhaseJudgement]) -> list[Obstacle]:
        """Distinct causes: a gate's own, and each of an undecided decision's."""
        found: list[Obstacle] = []
        if self._error is not None:
            reason = Reason(self._error.get("reason", Reason.POD_ERROR.value))
            found.append(Obstacle(reason=reason, message=self._error["message"]))
        for gate in _all_gates(counting):
            if gate.verdict is not Verdict.PASS and gate.gate != "decision":
                assert gate.reason is not None  # noqa: S101 - the model demands it
                found.append(Obstacle(reason=gate.reason, message=f"{gate.gate}: {gate.message}"))
        if self._decision is not None:
            found += self._decision.obstacles
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


def _differs(
    phase: Phase, found: PhaseJudgement, source: Inheritance, differences: list[str]
) -> GateResult:
    what = " and ".join(differences)
    files = ", ".join(source.changed_files[:3])
    more = len(source.changed_files) - 3
    if SOURCE in differences and files:
        what += f" ({files}{f' and {more} more' if more > 0 else ''})"
    was = found.verdict.value if found.verdict else "skipped"
    return GateResult(
        gate=f"phase {phase.id}",
        verdict=Verdict.NOT_VERIFIED,
        reason=Reason.INHERITED_DIFFERS,
        message=f"{phase.title} was {was} in run {source.run_id}, but since then the {what} "
        "changed, so that it says nothing about this run.",
        measured={"run": source.run_id, "differences": list(differences)},
        next_step=f"Run it anew: orchestrate run --phase {phase.id}-{max(source.phases)} or 0-5.",
    )


def _all_gates(phases: Iterable[PhaseJudgement]) -> Iterable[GateResult]:
    return (gate for phase in phases for step in phase.steps for gate in step.gates)

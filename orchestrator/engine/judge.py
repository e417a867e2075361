"""A run directory to a judgement: pure, offline, repeatable."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import BenchRow, parse_bench
from orchestrator.gates.decision import decide
from orchestrator.gates.environment import device_gate, resources_gate, sync_gate
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import judge_gate
from orchestrator.models.playbook import DecideStep, JobStep, Phase, ProvisionStep, Step, SyncStep
from orchestrator.models.run import (
    Judgement,
    PhaseJudgement,
    RunPlan,
    StepJudgement,
    StepResult,
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


def judge(paths: RunPaths) -> Judgement:
    """Judge everything that the run has left so far."""
    return Judge(paths).run()


class Judge:
    """Judges phase by phase; a decision sees the gates of all phases before it."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._plan: RunPlan = read_plan(paths)
        self._skipped: dict[int, str] = {}
        self._error: dict[str, str] | None = None
        for event in read_events(paths.events):
            if event.name == "phase.skipped":
                self._skipped[int(str(event.data["phase"]))] = str(event.data["why"])
            elif event.name == "phase.started":
                self._skipped.pop(int(str(event.data["phase"])), None)
            elif event.name == "run.error":
                self._error = {name: str(value) for name, value in event.data.items()}
        self._phases: list[PhaseJudgement] = []
        self._decision: Decision | None = None

    def run(self) -> Judgement:
        """All phases in order, then the whole."""
        for phase in self._plan.playbook.phases:
            self._phases.append(self._phase(phase))
        verdicts = [phase.verdict for phase in self._phases if phase.verdict is not None]
        if self._error is not None:
            verdicts.append(Verdict.INFRA)
        return Judgement(
            run_id=self._plan.run_id,
            verdict=worst(verdicts),
            phases=self._phases,
            decision=self._decision,
            reasons=self._reasons(),
        )

    def _phase(self, phase: Phase) -> PhaseJudgement:
        head = {"id": phase.id, "name": phase.name, "title": phase.title}
        if phase.id not in self._plan.phases:
            return PhaseJudgement(**head, verdict=None, skipped="not asked for")
        if phase.id in self._skipped:
            return PhaseJudgement(**head, verdict=None, skipped=self._skipped[phase.id])
        steps: list[StepJudgement] = []
        for step in phase.steps:
            steps.append(self._step(phase, step, steps))
        verdict = worst(step.verdict for step in steps)
        return PhaseJudgement(**head, verdict=verdict, steps=steps)

    def _step(self, phase: Phase, step: Step, before: list[StepJudgement]) -> StepJudgement:
        result = read_result(self._paths, phase.id, step.id)
        if isinstance(step, DecideStep):
            gates = [self._decide(step, before)]
        elif result is None:
            gates = [not_run(f"step {step.id}", "The step was not run, or did not get to its end.")]
        elif result.error is not None and not isinstance(step, ProvisionStep):
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
            case ProvisionStep():
                devices = [r for r in step.resources if r.resource == "device"]
                gates = [resources_gate(step, result)]
                if gates[0].verdict is Verdict.PASS:
                    gates += [device_gate(device, self._plan.pod, result) for device in devices]
                return gates
            case JobStep():
                gates = [job_gate(result.job)] if result.job else []
                listed = {artifact.path for artifact in result.artifacts}
                folder = self._paths.attempt(phase.id, step.id, result.attempt).artifacts

                def read(name: str) -> bytes | None:
                    file = folder / name
                    return file.read_bytes() if name in listed and file.is_file() else None

                return gates + [judge_gate(gate, read) for gate in step.gates]
            case _:
                raise AssertionError(f"no gates for {step.action}")

    def _decide(self, step: DecideStep, before: list[StepJudgement]) -> GateResult:
        earlier = [s for phase in self._phases for s in phase.steps] + before
        gates = [gate for s in earlier for gate in s.gates]
        gates += [
            not_run(f"phase {phase.id}", f"{phase.title}: {phase.skipped}.")
            for phase in self._phases
            if phase.skipped is not None
        ]
        decision = decide(self._rows(step.dense), self._rows(step.varlen), step.margin, gates)
        self._decision = decision
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

    def _reasons(self) -> list[Obstacle]:
        """Distinct causes: a gate's own, and each of an undecided decision's."""
        found: list[Obstacle] = []
        if self._error is not None:
            reason = Reason(self._error.get("reason", Reason.POD_ERROR.value))
            found.append(Obstacle(reason=reason, message=self._error["message"]))
        for gate in _all_gates(self._phases):
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


def _all_gates(phases: Iterable[PhaseJudgement]) -> Iterable[GateResult]:
    return (gate for phase in phases for step in phase.steps for gate in step.gates)

"""`orchestrate judge`: run directories and bench CSVs, offline."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import STYLES, Console
from orchestrator.cli.strict_json import strict_json
from orchestrator.engine.judge_files import FilesJudgement, judge_files
from orchestrator.errors import UsageError
from orchestrator.evidence.cards import CARDS, cards_like, find_card
from orchestrator.models.verdict import Decision, GateResult, Verdict, worst
from orchestrator.store.paths import RunPaths

if TYPE_CHECKING:
    from orchestrator.models.run import Judgement

SCHEMA = 1
"""Of `--json`: raised when a key goes or changes its meaning; new ones may come any time."""
_SHOWN = 5


def judge_command(
    paths: tuple[Path, ...], *, device: str | None, margin: float, as_json: bool
) -> int:
    """Judge each run directory by itself, and all other files together."""
    runs = [RunPaths(path.resolve()) for path in paths if path.is_dir()]
    for run in runs:
        if not run.plan.exists():
            raise UsageError(
                f"{run.root} is not a run directory: it holds no run.json",
                remedy="name the CSVs in it",
            )
    files = [path for path in paths if not path.is_dir()]
    device = _meant(device) if device is not None else None
    with _no_collecting():
        judged = _judge_runs(runs) if runs else []
        of_files = judge_files(files, device=device, margin=margin) if files else None
    verdict = worst([*(run.verdict for run in judged), *([of_files.verdict] if of_files else [])])
    if as_json:
        click.echo(strict_json(_summary(judged, of_files, verdict)))
        return int(verdict.exit_code)
    console = Console()
    for run_judgement in judged:
        _print_run(console, run_judgement)
    if of_files is not None:
        _print_files(console, of_files)
    console.say(f"verdict {verdict.value}, exit code {int(verdict.exit_code)}", STYLES[verdict])
    return int(verdict.exit_code)


def _judge_runs(runs: Sequence[RunPaths]) -> list[Judgement]:
    # imported here: the models of a whole run take a tenth of a second, and files need none
    from orchestrator.engine.judge import judge

    return [judge(run) for run in runs]


def _meant(device: str) -> str:
    """The name of the one card that `--device` can mean."""
    cards = cards_like(device)
    if len(cards) == 1:
        return device if find_card(device) else cards[0].name
    if cards:
        raise UsageError(
            f"--device {device} may be {' or '.join(card.name for card in cards)}",
            remedy="name one of them: their peaks differ",
        )
    raise UsageError(
        f"--device {device}: no peaks are known of such a card",
        remedy=f"name one of {', '.join(card.name for card in CARDS)}; or leave --device out, and "
        "all that needs no peaks is judged",
    )


@contextmanager
def _no_collecting() -> Iterator[None]:
    """No search for unused cycles among a hundred thousand rows: it takes a fifth of the time.

    Nor afterwards: what was judged is left to the end of the process, which is near.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _summary(
    runs: list[Judgement], of_files: FilesJudgement | None, verdict: Verdict
) -> dict[str, Any]:
    """One set of keys, whatever was named: documented in docs/judge.md."""
    sources = of_files.sources if of_files else ()
    cards = of_files.cards if of_files else ()
    decision = of_files.decision if of_files else None
    return {
        "schema": SCHEMA,
        "verdict": verdict.value,
        "exit_code": int(verdict.exit_code),
        "runs": [run.model_dump(mode="json") for run in runs],
        "files": [source.name for source in sources],
        "sources": [
            {"file": source.name, "kind": source.kind.value, "path": str(source.path)}
            for source in sources
        ],
        "notes": list(of_files.notes) if of_files else [],
        "gates": [gate.model_dump(mode="json") for gate in of_files.gates] if of_files else [],
        "decision": decision.model_dump(mode="json") if decision else None,
        "decisions": [
            {**card.decision.model_dump(mode="json"), "device": card.device} for card in cards
        ],
    }


def _print_run(console: Console, judgement: Judgement) -> None:
    console.say(f"run {judgement.run_id}", "bold")
    for phase in judgement.phases:
        if phase.verdict is None:
            console.say(f"phase {phase.id} ({phase.name}): skipped, {phase.skipped}", indent=2)
            continue
        console.verdict(phase.verdict.value, f"phase {phase.id} ({phase.name})", indent=2)
        for step in phase.steps:
            for gate in step.gates:
                _print_gate(console, gate, indent=4)
    if judgement.decision is not None:
        _print_decision(console, judgement.decision)


def _print_files(console: Console, judged: FilesJudgement) -> None:
    for note in judged.notes:
        console.say(note, "dim")
    several = len(judged.cards) > 1
    for card in judged.cards:
        if several:
            console.say(card.device or "no card named", "bold")
        for gate in card.gates:
            _print_gate(console, gate, indent=2 if several else 0)
        _print_decision(console, card.decision, indent=2 if several else 0)


def _print_decision(console: Console, decision: Decision, indent: int = 0) -> None:
    console.say(decision.summary, "bold", indent=indent)
    indent += 2
    if decision.sensitivity:
        told = (f"{at.margin:g}: {_from(at.min_L)}" for at in decision.sensitivity)
        console.say(f"by margin   {', '.join(told)}", indent=indent)
    for other in decision.comparisons:
        console.say(
            f"{other.level} level, {other.reference} reference: {_from(other.min_L)}, lowest "
            f"speedup {other.lowest:.3f}",
            indent=indent,
        )
    for kind, cells in (
        ("not monotone", decision.non_monotone),
        ("within noise", decision.noise_bound),
    ):
        for cell in cells[:_SHOWN]:
            console.say(f"{kind}  {cell}", "yellow", indent=indent)
        if len(cells) > _SHOWN:
            console.say(f"{kind}  and {len(cells) - _SHOWN} more", "yellow", indent=indent)


def _from(length: int | None) -> str:
    return f"L>={length}" if length else "off"


def _print_gate(console: Console, gate: GateResult, indent: int = 0) -> None:
    several = gate.measured.get("findings")
    findings = (
        [each for each in several if isinstance(each, dict)] if isinstance(several, list) else []
    )
    if gate.verdict is Verdict.PASS or not findings:
        findings = [{"message": gate.message, "next_step": gate.next_step}]
    for number, finding in enumerate(findings):
        if number == 0:
            console.verdict(gate.verdict.value, f"{gate.gate}: {finding['message']}", indent)
        else:
            console.say(f"{finding['message']}", indent=indent + 13)
        if gate.verdict is not Verdict.PASS and finding["next_step"]:
            console.say(f"-> {finding['next_step']}", "dim", indent=indent + 13)

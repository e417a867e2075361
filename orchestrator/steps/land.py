"""`land`: write the decision where it takes effect."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import ConfigError, LandingError
from orchestrator.landing.land import land
from orchestrator.landing.request import LandRequest
from orchestrator.models.playbook import LandStep, Playbook
from orchestrator.models.pod import Pod
from orchestrator.models.run import StepResult
from orchestrator.models.verdict import Outcome
from orchestrator.reporting import render_rationale
from orchestrator.steps.base import Action, Attempt, Session, Stopwatch, result


class Land:
    """A branch of its own, a commit, with `--pr` a pull request; the checkout stays as it is."""

    def plan(self, step: LandStep, playbook: Playbook, pod: Pod) -> list[Action]:  # noqa: ARG002
        """What either decision does."""
        return [
            Action(f"ENABLE: set {step.key} in {step.config_file} on a new branch and commit it"),
            Action(f"KEEP_OFF: set it to at least 2048 and write {step.rationale_doc}"),
        ]

    def apply(self, step: LandStep, session: Session, attempt: Attempt) -> StepResult:
        """Land; what keeps it from landing is the user's to put right, and the decision stands."""
        watch = Stopwatch()
        judgement, report = session.conclude()
        if judgement.decision is None or judgement.decided_by is None:
            raise LandingError("there is no decision to land", remedy="orchestrate run --phase 0-2")
        stays_off = judgement.decision.outcome is Outcome.KEEP_OFF
        names = [name for name in session.playbook.deliverables if name.endswith(".csv")]
        benches = [session.paths.deliverable(name) for name in names]
        request = LandRequest(
            decision=judgement.decision,
            # the run that decided: landing again meets the same branch
            run_id=judgement.decided_by,
            root=Path(session.root),
            config_file=step.config_file,
            key=step.key,
            report=report,
            benches=tuple(file for file in benches if file.exists()),
            rationale_doc=step.rationale_doc,
            rationale=render_rationale(session.paths, judgement) if stays_off else None,
            folder=f"{step.evidence_dir}/{{run_id}}",
            pr=session.pr,
            pr_body=report.read_text(encoding="utf-8"),
        )
        try:
            landed = land(request)
        except (LandingError, ConfigError) as error:
            return result(attempt, watch, error=str(error))
        details = {
            "branch": landed.branch,
            "commit": landed.commit,
            "pr_url": landed.pr_url,
            "diff": landed.edit.diff,
            "before": landed.edit.before,
            "after": landed.edit.after,
            "files": list(landed.files),
            "notes": list(landed.notes),
        }
        session.events.append(
            "landed", branch=landed.branch, commit=landed.commit, pr=landed.pr_url
        )
        return result(attempt, watch, details=details)

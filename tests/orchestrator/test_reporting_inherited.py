"""What the report says of phases that another run went through."""

from __future__ import annotations

import re
from pathlib import Path

from evidence_samples import (
    RTX_4090,
    row,
)
from report_runs import (
    Run,
    complete,
    new_run,
    rendered,
    section,
)

from orchestrator.models.run import (
    Inheritance,
    Judgement,
)
from orchestrator.models.verdict import (
    Verdict,
)


def inheriting(tmp_path: Path, source: Path, **more: object) -> Run:
    inherits = Inheritance(run_id="20250101-000000-aaaa", path=str(source), phases=[0, 1], **more)
    run = Run(new_run(tmp_path / "new", phases=[2], inherits=inherits))
    for mode in ("dense", "varlen"):
        run.bench(mode, row)
    return run


def inherited(run: Run) -> Judgement:
    judgement = run.judgement()
    update = {"verdict": Verdict.PASS, "inherited": "20250101-000000-aaaa"}
    phases = [p.model_copy(update=update) if p.id < 2 else p for p in judgement.phases]
    return judgement.model_copy(update={"phases": phases})


def test_inherited_phases(tmp_path):
    source = complete(tmp_path / "old", row, RTX_4090)
    run = inheriting(tmp_path, source.paths.root)
    text = rendered(run, judgement=inherited(run))
    assert "Phases 0, 1 of run `20250101-000000-aaaa` were reused: playbook" in section(
        text, "Inherited"
    )
    assert "**2 passed, 0 failed, 1 skipped**; max MAE 3.0e-04" in section(text, "Parity")
    assert re.search(r"\| +1 \| Parity .*inherited from run 20250101-000000-aaaa", text)
    assert "Phase 3: not asked for (--phase 2)" in section(text, "What did not run")
    assert "2 min 30 s of work" in text
    assert "torch 2.13.0+cpu" in text or "CUDA device            | not asked" in text


def test_phases_that_cannot_be_inherited_any_more(tmp_path):
    source = complete(tmp_path / "old", row, RTX_4090)
    changed = [f"kernels/selection/k{n}.py" for n in range(22)]
    run = inheriting(
        tmp_path, source.paths.root, differences=["playbook", "source"], changed_files=changed
    )
    shown = section(rendered(run, judgement=inherited(run)), "Inherited")
    assert "cannot be reused as evidence: not equal are playbook, source." in shown
    assert "22 changed source files: `kernels/selection/k0.py`, " in shown
    assert "`kernels/selection/k19.py` and 2 more." in shown


def test_what_is_inherited_may_be_gone(tmp_path):
    run = inheriting(tmp_path, tmp_path / "nowhere")
    text = rendered(run, judgement=inherited(run))
    assert "Phase 1 is inherited from run 20250101-000000-aaaa, which is unreadable" in text
    assert "No test results." in text


def test_a_run_that_inherits_from_itself(tmp_path):
    run = inheriting(tmp_path, tmp_path / "new" / "20250102-030405-9f3a")
    assert "inherits phase 1 from itself" in rendered(run, judgement=inherited(run))

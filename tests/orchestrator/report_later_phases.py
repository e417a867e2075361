"""A run of all phases: broken, repaired by a variant, landed."""

from __future__ import annotations

import json
from pathlib import Path

from evidence_samples import (
    PARITY,
    case,
    junit,
    row,
)
from report_runs import (
    PLAYBOOK,
    Run,
    new_run,
)

from orchestrator.models.playbook import Playbook
from orchestrator.models.run import (
    Judgement,
    VariantJudgement,
)
from orchestrator.models.verdict import (
    Decision,
    GateResult,
    Outcome,
    Verdict,
)
from orchestrator.store.events import EventLog


def full_playbook() -> Playbook:
    """The playbook with diagnostics, two variants and a landing."""
    debug = {"gate": "diagnostics", "file": "diagnostics.jsonl"}
    late = [
        {
            "id": 3,
            "name": "diagnostics",
            "title": "Diagnostics",
            "steps": [
                {"id": "debug", "action": "job", "command": ["debug"], "gates": [debug]},
            ],
        },
        {
            "id": 4,
            "name": "fixes",
            "title": "Targeted fixes",
            "repeat": [1, 2],
            "variants": [
                {"id": "db", "title": "Double `buffer`", "environment": {"NSA_SEL_TRITON_DB": 1}},
                {"id": "code", "title": "Changed code", "changed_code": True},
            ],
        },
        {
            "id": 5,
            "name": "landing",
            "title": "Landing",
            "steps": [
                {
                    "id": "land",
                    "action": "land",
                    "config_file": "configs/base.yaml",
                    "rationale_doc": "docs/why.md",
                }
            ],
        },
    ]
    early = PLAYBOOK.model_dump(mode="json", exclude_unset=True)
    return Playbook.model_validate({**early, "phases": early["phases"][:3] + late})


DIFF = """--- a/configs/base.yaml
+++ b/configs/base.yaml
@@ -1,2 +1,2 @@
 runtime:
-  sel_triton_min_L: 2048  # ``` high
+  sel_triton_min_L: 64  # ``` high
"""


def slow(mode: str, length: int) -> dict[str, object]:
    return row(mode, length, speedup=0.5, speedup_lo=0.4, speedup_hi=0.6, ref_ms=0.05 * length / 64)


def call(path: str, length: int, **more: object) -> bytes:
    return json.dumps({"path": path, "kernels": [], "bucket": length, "L": length, **more}).encode()


def repaired(tmp_path: Path, **landing: object) -> tuple[Run, Judgement]:
    """Slow at first; variant `db` is fast, variant `code` did not run; landed."""
    run = Run(new_run(tmp_path, playbook=full_playbook()))
    passed = {**PARITY, "mae": "4e-4"}
    run.parity(junit(case("a", passed), case("b", passed)))
    for mode in ("dense", "varlen"):
        run.bench(mode, slow)
    torn = call("triton.ranges.head", 256, ms=1.5, mae=0.02) + b"\n" + b'{"path": "tri'
    run.file(3, "debug", "diagnostics.jsonl").write_bytes(torn)
    run.job(3, "debug")
    run.parity(junit(case("a", PARITY), case("b", PARITY)), 4, "db.parity-dense")
    for mode in ("dense", "varlen"):
        run.bench(mode, row, 4, "db.")
    for step in ("parity-dense", "bench-dense", "bench-varlen", "threshold"):
        EventLog(run.paths.events).append("step.skipped", step=f"code.{step}", why="code is equal")
    run.step(5, "land", action="land", **landing)
    measured = {"outcome": "KEEP_OFF", "min_L": 2048}
    kept = GateResult(gate="decision", verdict=Verdict.PASS, message="off.", measured=measured)
    run.steps[2][-1].gates.append(kept)
    judgement = run.judgement()
    good = Decision(
        outcome=Outcome.ENABLE,
        min_L=64,
        margin=1.2,
        summary="ENABLE from L=64: fast.",
        variant="db",
        environment={"NSA_SEL_TRITON_DB": "1"},
    )
    variants = [
        VariantJudgement(id="db", title="x", verdict=Verdict.PASS, decision=good),
        VariantJudgement(id="code", title="y", verdict=Verdict.NOT_VERIFIED, decision=None),
    ]
    phases = [
        phase.model_copy(update={"superseded": "db"}) if phase.id in (1, 2) else phase
        for phase in judgement.phases
    ]
    update = {"decision": good, "variants": variants, "adopted": "db", "phases": phases}
    return run, judgement.model_copy(update=update)


LANDED = {
    "branch": "m4-02/enable-64",
    "commit": "c0ffee",
    "pr_url": "https://example.com/pull/7",
    "diff": DIFF,
    "files": ["configs/base.yaml", "reports/a|b.csv"],
    "notes": ["Opened with `gh`."],
}

"""From evidence to verdicts: pure functions, one family of gates a file.

A gate that is added gets a model in `orchestrator.models.playbook`, a module here, and a line in
`judge.judge_gate`.
"""

from orchestrator.gates.decision import decide
from orchestrator.gates.job import job_gate
from orchestrator.gates.judge import judge_gate

__all__ = ["decide", "job_gate", "judge_gate"]

"""From evidence to verdicts: pure functions, one family of gates a file.

A gate that is added gets a model in `orchestrator.models.playbook`, a module here, and a line in
`judge.judge_gate`.
"""

"""A small playbook, to be changed piece by piece."""

from __future__ import annotations

from orchestrator.config.playbook import LoadedPlaybook

PLAYBOOK = """\
version: 1
name: smoke
title: A small one
variables:
  n: 1024
  lengths: [64, 128]
  margin: 1.2
  torch: torch==2.3.*
profiles:
  gpu:
    description: a rented card
    default_for: remote
    environment: {MODE: fast}
  cpu:
    description: a laptop
    default_for: embedded
    variables:
      n: 4
      lengths: [64]
    environment:
      MODE: slow
environment:
  MODE: none
  N: ${n}
deliverables: [dense.csv, selection_report.md]
phases:
  - id: 0
    name: environment
    title: Environment
    steps:
      - id: system
        action: provision
        profiles: [gpu]
        resources:
          - {id: apt, resource: apt, packages: [git]}
      - id: python
        action: provision
        resources:
          - id: venv
            resource: venv
          - id: torch
            resource: pip
            packages: ["${torch}"]
            timeout: 20m
          - id: flash-attn
            resource: pip
            profiles: [gpu]
            packages: [flash-attn]
  - id: 2
    name: bench
    title: Bench
    steps:
      - id: dense
        action: job
        command: ["${pod.python}", bench.py, --N, "${n}", --L_list, "${lengths}", "${out}/d"]
        artifacts: [dense.csv, p.xml]
        gates:
          - gate: bench
            file: dense.csv
            mode: dense
            lengths: ${lengths}
          - {gate: tests, file: p.xml}
          - {gate: parity, file: p.xml}
      - id: decide
        action: decide
        dense: dense/dense.csv
        varlen: dense/dense.csv
        margin: ${margin}
"""


def step(loaded: LoadedPlaybook, name: str):
    return next(s for phase in loaded.playbook.phases for s in phase.steps if s.id == name)


JOB = "phases[1].steps[0]"

"""The command `orchestrate`: arguments, printing, exit codes; no logic.

Nothing heavy is imported here or in `app`: each command imports what it needs when it runs, so
that `--help` and completion answer at once.
"""

from orchestrator.cli.app import main

__all__ = ["main"]

"""Landing a decision: one scalar of a YAML file, one branch, one pull request.

The user's checkout is read and never written: commits are made in a temporary worktree.
"""

from orchestrator.landing.config_edit import Edit, propose, read_value, set_value
from orchestrator.landing.land import land, plan
from orchestrator.landing.request import Landed, LandRequest, Plan

__all__ = [
    "Edit",
    "LandRequest",
    "Landed",
    "Plan",
    "land",
    "plan",
    "propose",
    "read_value",
    "set_value",
]

"""Landing a decision: one number of a YAML file, one branch, one pull request.

The user's checkout is read and never written: commits are made in a temporary worktree. Import the
module you need; `land.land` is the way in.
"""

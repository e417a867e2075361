"""The compile matrix: Triton versions by GPU targets, without a GPU."""

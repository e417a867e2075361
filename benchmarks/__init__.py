"""Ours beside the rival, in one run."""

"""Plan, execute, judge: a run reads as a list of stages."""

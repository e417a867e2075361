"""Jobs on a pod: launchers, states, following and collecting; `agent/` runs there."""

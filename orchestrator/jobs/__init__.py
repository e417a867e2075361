"""Jobs on a pod: launchers, states, following and collecting; `agent.py` runs there."""

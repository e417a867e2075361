"""Starts the agent from wherever its folder lies; nothing is installed on the pod."""

import sys
from pathlib import Path

# The modules belong to the package `agent`, the name of this folder here and there.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.verbs import main  # type: ignore[import-not-found]

sys.exit(main(sys.argv[1:]))

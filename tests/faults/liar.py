"""liar.py ANSWER PYTHON ARGS...: an agent that is not ours. Of what a job left it says ANSWER.

Everything else it has done by the true one, which ARGS are the command line of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

answer = json.loads(Path(sys.argv[1]).read_text())
agent = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE)
assert agent.stdout is not None
for line in agent.stdout:
    said = json.loads(line)
    if "files" in said:
        said = answer
    elif "manifest" in said:
        said["manifest"] = answer
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n")
    sys.stdout.buffer.write(agent.stdout.read(said.get("log") or 0))
    sys.stdout.buffer.flush()
sys.exit(agent.wait())

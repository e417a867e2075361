"""work.py COUNTER SECONDS LINES MODE KIND LENGTHS DEVICE FILE: a benchmark that takes its time.

Appends a line to COUNTER when it starts, prints LINES numbered lines spread over SECONDS, then
does what bench.py does with the other arguments. The dense one also does what parity.py does, and
with BULK set leaves a file of that many bytes. Copied into the fixture repository.
"""

import os
import runpy
import sys
import time
from pathlib import Path

counter, seconds, lines, *rest = sys.argv[1:]
_mode, kind, _lengths, device, _file = rest
out = Path(os.environ["ORCH_OUT"])


def run(program: str, *arguments: str) -> None:
    """As a program of the fixture repository, in this process."""
    sys.argv[1:] = arguments
    runpy.run_path(program, run_name="__main__")


with Path(counter).open("a") as file:
    file.write(f"{kind} {os.getpid()}\n")
for number in range(int(lines)):
    time.sleep(float(seconds) / int(lines))
    sys.stdout.write(f"line {number:06d} {'x' * 60}\n")
    sys.stdout.flush()
sys.path.insert(0, ".")
if kind == "dense":
    if int(os.environ["BULK"]):
        (out / "bulk.bin").write_bytes(os.urandom(int(os.environ["BULK"])))
    run("parity.py", "good", "0", device, str(out / "parity.xml"))
run("bench.py", *rest)

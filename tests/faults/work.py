"""work.py COUNTER SECONDS LINES MODE KIND LENGTHS DEVICE FILE: a benchmark that takes its time.

Appends a line to COUNTER when it starts, prints LINES numbered lines spread over SECONDS, then
does what bench.py does with the other arguments. With BULK set, the dense one also leaves a file
of that many bytes. Copied into the fixture repository.
"""

import os
import runpy
import sys
import time
from pathlib import Path

counter, seconds, lines = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
with Path(counter).open("a") as file:
    file.write(f"{sys.argv[5]} {os.getpid()}\n")
for number in range(lines):
    time.sleep(seconds / lines)
    sys.stdout.write(f"line {number:06d} {'x' * 60}\n")
    sys.stdout.flush()
if int(os.environ["BULK"]) and sys.argv[5] == "dense":
    Path(os.environ["ORCH_OUT"], "bulk.bin").write_bytes(os.urandom(int(os.environ["BULK"])))
sys.argv[1:] = sys.argv[4:]
sys.path.insert(0, ".")
runpy.run_path("bench.py", run_name="__main__")

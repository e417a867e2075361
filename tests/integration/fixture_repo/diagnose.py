"""diagnose.py PARITY BENCH FILE: what a rerun with the debug flags leaves."""

import json
import sys

parity, bench, target = sys.argv[1:]
with open(target, "w") as file:
    for length in (64, 128):
        line = {
            "path": "triton.varlen.group",
            "kernels": ["varlen_rows_fwd.group"],
            "reason": "selected",
            "L": length,
            "bucket": length,
            "ms": 1.5,
            "mae": 0.15 if parity in ("broken", "repairable") else 1e-4,
        }
        file.write(json.dumps(line) + "\n")
print("diagnosed", flush=True)

"""parity.py MODE SECONDS DEVICE FILE: stands in for pytest; writes the JUnit file of MODE."""

import os
import sys
import time

mode, seconds, device, target = sys.argv[1], float(sys.argv[2]), *sys.argv[3:]
if mode == "repairable":
    mode = "good" if os.environ.get("FIX") or os.path.exists("kernels/fixed") else "broken"
MAE = {"broken": 0.15}.get(mode, 0.0001)
PATHS = ["triton.dense.group", "triton.ranges.group"]
PATHS.append("packed_sdpa" if mode == "fallback" else "triton.varlen.group")

print("collecting", flush=True)
time.sleep(seconds)
cases = []
for number, path in enumerate(PATHS):
    mae = MAE + number * 1e-6  # every kernel has its own error
    properties = {"mae": mae, "max_err": mae, "kernel_path": path, "device": device}
    inner = "".join(f'<property name="{k}" value="{v}"/>' for k, v in properties.items())
    body = "<skipped/>" if mode == "skipped" else f"<properties>{inner}</properties>"
    cases.append(f'<testcase classname="t" name="test_{path}">{body}</testcase>')
if mode == "escapes":
    print("\x1b]0;owned\x07\x1b[2Jcleared")
if mode == "crash":
    sys.exit(3)
with open(target, "w") as file:
    file.write(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
print(f"{len(cases)} cases", flush=True)

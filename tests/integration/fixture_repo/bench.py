"""bench.py MODE dense|varlen LENGTHS DEVICE FILE: writes the CSV that MODE asks for."""

import os
import sys
from pathlib import Path

from kernels.bench.contract import CONTRACT_VERSION, BenchWriter

mode, kind, lengths, device, target = sys.argv[1:]
if mode == "repairable":
    mode = "wins" if os.environ.get("FIX") or os.path.exists("kernels/fixed") else "loses"
with BenchWriter(Path(target), kind) as csv:
    for length in map(int, lengths.split(",")):
        speedup = {"loses": 0.5, "wins-late": 2.0 if length >= 128 else 0.9}.get(mode, 2.0)
        if mode == "aborts" and length > 64:
            os.abort()
        row = {
            "mode": kind, "N": 1024, "H": 8, "D": 128, "Dv": 128, "L": length, "nspans": 8,
            "streams": 1, "tri_ms": 1.0, "ref_ms": speedup, "speedup": speedup,
            "mae": 0.15 if mode == "wrong" else 1e-4, "contract": CONTRACT_VERSION, "status": "ok",
            "dist": "few" if kind == "dense" else "many", "dtype": "fp16", "device": device,
            "level": "kernel", "kernel": f"triton.{kind}.group", "reference": "packed_sdpa",
            "max_err": 1e-3, "ref_mae": 0.8 if mode == "first-key" else 1e-5, "ref_max_err": 1e-4,
            "ref_probe": "ok", "speedup_lo": speedup * 0.99, "speedup_hi": speedup * 1.01,
            "iters": 50, "warmup": 5,
        }  # fmt: skip
        csv.row({name: row[name] for name in csv.columns})
        print(f"L={length}", flush=True)

path = Path(target)
text = path.read_text()
if mode == "missing-column":
    rows = [line.split(",") for line in text.splitlines()]
    gone = rows[0].index("mae")
    path.write_text("\n".join(",".join(f for i, f in enumerate(r) if i != gone) for r in rows))
elif mode == "twice":
    path.write_text(text + text)
elif mode == "nan":
    path.write_text(text.replace(",0.0001,", ",nan,"))
elif mode == "truncated":
    path.write_text("\n".join(text.splitlines()[:-2]) + "\n")

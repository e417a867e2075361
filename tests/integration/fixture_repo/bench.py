"""bench.py MODE dense|varlen LENGTHS DEVICE FILE: writes the CSV that MODE asks for."""

import os
import sys
import time
from pathlib import Path

from kernels.bench.bench_csv import BenchWriter
from kernels.bench.contract import CONTRACT_VERSION

ITERS = 10
PROBES = (("copy", 900, "GB/s"), ("gemm", 150, "TFLOP/s"), ("launch", 3, "us"))

mode, kind, lengths, device, target = sys.argv[1:]
started = time.time()
if mode == "repairable":
    mode = "wins" if os.environ.get("FIX") or os.path.exists("kernels/fixed") else "loses"
with BenchWriter(Path(target), kind) as csv:
    for length in map(int, lengths.split(",")):
        speedup = {"loses": 0.5, "wins-late": 2.0 if length >= 128 else 0.9}.get(mode, 2.0)
        if mode == "aborts" and length > 64:
            os.abort()
        # every length its own error, as real kernels have; the reference's is a little larger
        # and every form its own times: equal ones would be a copy of the other's file
        mae, tri = 1e-4 + length * 1e-8, 0.0015 * length * (1.001 if kind == "varlen" else 1.0)
        ref = speedup * tri
        weak = 1.5 if mode == "weak-fallback" else 1.0
        times = {"tri": tri, "shipped": ref * weak, "strongest": ref}
        began = time.time()
        time.sleep(ITERS * (tri + ref) / 1000)  # what it claims to have measured takes its time
        row = {
            "mode": kind, "N": 1024, "H": 8, "D": 128, "Dv": 128, "L": length, "nspans": 8,
            "streams": 1, "tri_ms": tri, "ref_ms": ref, "speedup": speedup,
            "mae": 0.15 + mae if mode == "wrong" else mae, "contract": CONTRACT_VERSION,
            "status": "ok",
            "dist": "few" if kind == "dense" else "many", "dtype": "fp16", "device": device,
            "level": "operator", "kernel": "triton.ranges_fwd.group", "reference": "packed_sdpa",
            "max_err": 1.0 if mode == "wrong" else 10 * mae,
            "ref_mae": 0.8 + mae if mode == "first-key" else 2 * mae,
            "ref_max_err": 4.0 if mode == "first-key" else 20 * mae,
            "ref_probe": "ok", "speedup_lo": speedup * 0.99, "speedup_hi": speedup * 1.01,
            "iters": ITERS, "warmup": 5, "basis": "strongest", "ragged": "equal", "form": "rows",
            "seed": 0, "tri_probe": "ok", "tri_p10": tri * 0.99, "tri_p90": tri * 1.02,
            "ref_p10": ref * 0.99, "ref_p90": ref * 1.02, "tri_cv": 0.01, "ref_cv": 0.01,
            "aa_lo": 0.99, "aa_hi": 1.01, "bytes": 1024 * 512 * (length + 8),
            "flops": 2 * 1024 * 8 * 256 * length, "tri_streams": 1, "ref_streams": 1,
            "timer": "events", "settled": "yes", "flush_mib": 256, "l2_mib": 72, "launch_us": 3,
            "sm_mhz": 2520, "sm_max_mhz": 2520, "mem_mhz": 10501, "temperature_c": 55,
            "began_ms": int(began * 1000), "ended_ms": int(time.time() * 1000) + 1,
            "torch": "2.13.0", "triton": "3.9.0",
        }  # fmt: skip
        for level in ("kernel", "operator"):
            part = 0.9 if level == "kernel" else 1.0  # keys that are packed already cost less
            row |= {f"{level}_{side}_ms": part * ms for side, ms in times.items()}
            path = kind if level == "kernel" else "ranges"
            row[f"{level}_launched"] = f"triton.{path}_fwd.group"
            for basis in ("shipped", "strongest"):
                row[f"{level}_{basis}"] = "packed_sdpa"
                row[f"{level}_{basis}_lo"] = times[basis] / tri * 0.99
                row[f"{level}_{basis}_hi"] = times[basis] / tri * 1.01
        csv.row({name: row.get(name, "") for name in csv.columns})
        print(f"L={length}", flush=True)

path = Path(target)
with BenchWriter(path.with_suffix(".canary.csv"), "canary") as canary:
    for when in ("before", "after"):
        at = started if when == "before" else time.time()
        for probe, value, unit in PROBES:
            said = {"when": when, "probe": probe, "value": value, "unit": unit, "device": device}
            said["began_ms"] = int(at * 1000)
            canary.row({name: said.get(name, "") for name in canary.columns})

text = path.read_text()
if mode == "missing-column":
    rows = [line.split(",") for line in text.splitlines()]
    gone = rows[0].index("mae")
    path.write_text("\n".join(",".join(f for i, f in enumerate(r) if i != gone) for r in rows))
elif mode == "twice":
    path.write_text(text + text)
elif mode == "nan":
    rows = [line.split(",") for line in text.splitlines()]
    for fields in rows[1:-1]:
        fields[rows[0].index("mae")] = "nan"
    path.write_text("\n".join(map(",".join, rows)))
elif mode == "truncated":
    path.write_text("\n".join(text.splitlines()[:-2]) + "\n")

"""`orchestrate judge` on foreign CSVs with the document's columns: how long it takes as a command.

    .venv/bin/python -m benchmarks.judge_files [--rows N]

CPU time is printed beside: on a busy machine it is the one to compare.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = 100


def csv_of(mode: str, rows: int) -> str:
    """A hundred lengths a family, every time another."""
    spans = ("nspans,", "8,") if mode == "varlen" else ("", "")
    lines = [f"mode,N,H,D,Dv,L,{spans[0]}streams,tri_ms,ref_ms,speedup,mae"]
    for number in range(rows):
        length, n = 64 * (1 + number % LENGTHS), 1024 + number // LENGTHS
        ours = n * length * 512 / 0.8e9 * (1 + number * 1e-8)
        lines.append(
            f"{mode},{n},8,128,128,{length},{spans[1]}1,{ours:.6g},{1.5 * ours:.6g},1.5,"
            f"{2e-4 * (1 + number * 1e-8):.6g}"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Print how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="in both files together")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"sel_{mode}.csv" for mode in ("dense", "varlen")]
        for file in files:
            text = csv_of(file.stem.removeprefix("sel_"), args.rows // 2)
            file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "orchestrator", "judge", *map(str, files)]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--device", "RTX 4090"], capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{args.rows} rows: {took:.2f} s, CPU {used.ru_utime + used.ru_stime:.2f} s, "
        f"peak {used.ru_maxrss / 1024:.0f} MiB: {done.stdout.splitlines()[-1]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `orchestrate judge` costs, as the command that a user types, for each form of bench CSV.

    .venv/bin/python -m benchmarks.judge [--rows N] [--profile]

*document*: the source project's columns. They can be refuted, never confirmed.
*ours*: every column of the contract, with canary and telemetry, all honest: the rows are decided.

Both hold a dense and a varlen CSV of a hundred lengths a family, no time like another. Beside the
wall clock stands the CPU time: on a busy machine it is the one to compare. Exit codes: 0, or 1 if
a verdict is not the one that such rows deserve.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernels.bench import contract
from tests.orchestrator.evidence_samples import RTX_4090, row

MODES = ("dense", "varlen")
LENGTHS = [64 * (number + 1) for number in range(100)]
SMALLEST_N = 64
DIM = 64
ITERS = 50
TB_PER_S = 0.8
"""That the kernel reaches, of the card's 1.008."""
CALL_MS = 0.005
"""Beside the moving of bytes."""
NOISE = 0.005
"""Of what is measured. Six digits of ten times: no two cells are alike."""
BEGAN = 1763900000000
TELEMETRY = (
    "timestamp_ms,index,name,sm_mhz,max_sm_mhz,mem_mhz,power_w,temperature_c,throttle_reasons,"
    "utilization_pct,memory_used_mib,memory_total_mib,foreign_processes,foreign_pids"
)
SAMPLE_MS = 2000
PROBES = {
    "copy": (920, "GB/s"),
    "l2_read": (4800, "GB/s"),
    "gemm": (150, "TFLOP/s"),
    "launch": (2.4, "us"),
}


@dataclass(frozen=True)
class Deserved:
    """What judging must say of a form."""

    exit_code: int
    decision: str
    """Found in a line of the output."""


FORMS = {
    "document": Deserved(4, "would enable Triton from L=64."),
    "ours": Deserved(0, "ENABLE from L=64: "),
}


def cells(mode: str, count: int, began_ms: int) -> Iterator[dict[str, object]]:
    """So many good rows, one after the other; each number that is measured has noise of its own."""
    noisy = random.Random(mode)  # noqa: S311 - the same rows each time
    for number in range(count):
        length, n = LENGTHS[number % len(LENGTHS)], SMALLEST_N + number // len(LENGTHS)
        a, b, c, d, e, f = (noisy.uniform(1 - NOISE, 1 + NOISE) for _ in range(6))
        ours = (CALL_MS + n * length * 2 * DIM * 2 / (TB_PER_S * 1e9)) * a
        theirs = 1.5 * ours * b
        ended_ms = began_ms + int(1.2 * ITERS * 2.5 * ours) + 1
        values = row(
            mode, length, N=n, D=DIM, Dv=DIM, iters=ITERS,
            tri_ms=ours, ref_ms=theirs, speedup=theirs / ours,
            speedup_lo=1.45 * b, speedup_hi=1.55 * b, kernel_tri_ms=0.9 * ours * c,
            tri_p10=0.97 * ours * d, tri_p90=1.05 * ours * d,
            ref_p10=0.97 * theirs * e, ref_p90=1.05 * theirs * e, mae=2e-4 * f, ref_mae=1e-4 * f,
            began_ms=began_ms, ended_ms=ended_ms,
        )  # fmt: skip
        yield {name: _text(value) for name, value in values.items()}
        began_ms = ended_ms + 1


def _text(value: object) -> object:
    return format(value, ".6g") if isinstance(value, float) else value


def write(form: str, folder: Path, rows: int) -> list[Path]:
    """The CSVs of a form, with what lies beside them; returns the CSVs."""
    files = []
    at = BEGAN
    for mode in MODES:
        file = folder / f"sel_{mode}.csv"
        files.append(file)
        began = at
        names = contract.columns(mode)
        if form == "document":
            names = contract.VARLEN_COLUMNS if mode == "varlen" else contract.DENSE_COLUMNS
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for values in cells(mode, rows // len(MODES), began):
                writer.writerow(values)
                at = int(str(values["ended_ms"]))
            out.write(f"{contract.END_MARK},{rows // len(MODES)}\n")
        if form == "ours":
            _write_canary(file.with_suffix(".canary.csv"), {"before": began, "after": at})
    if form == "ours":
        _write_telemetry(folder / "telemetry.csv", BEGAN, at)
    return files


def _write_canary(file: Path, times: Mapping[str, int]) -> None:
    lines = [",".join(contract.columns("canary"))]
    for when, at in times.items():
        lines += [
            f"{when},{probe},{value},{unit},{RTX_4090},,,,2520,55,{at}"
            for probe, (value, unit) in PROBES.items()
        ]
    file.write_text("\n".join([*lines, f"{contract.END_MARK},{len(lines) - 1}", ""]))


def _write_telemetry(file: Path, began: int, ended: int) -> None:
    sample = f"0,{RTX_4090},2505,2520,10501,310.20,61,0x0000000000000000,98,2210,24564,0,"
    times = range(began, ended + SAMPLE_MS, SAMPLE_MS)
    file.write_text("\n".join([TELEMETRY, *(f"{at},{sample}" for at in times), ""]))


def judge(form: str, rows: int, *, profile: bool) -> bool:
    """Judge a form and print what it took; whether the verdict is the one it deserves."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(form, Path(folder), rows)
        megabytes = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        command = [sys.executable, *(["-m", "cProfile", "-s", "tottime"] if profile else [])]
        command += ["-m", "orchestrator", "judge", *map(str, files), "--device", "RTX 4090"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    deserved = FORMS[form]
    told = " ".join(done.stdout.split())
    said = f"exit code {deserved.exit_code}"  # the profiler exits with 0
    as_deserved = said in told and deserved.decision in told
    print(
        f"{form:9} {rows} rows, {megabytes:.0f} MB: {took:.2f} s, CPU {cpu:.2f} s, peak "
        f"{after.ru_maxrss / 1024:.0f} MiB: "
        + (said if as_deserved else f"not {said} with {deserved.decision!r}")
    )
    if profile or not as_deserved:
        print(done.stdout[:6000], done.stderr[:2000], sep="\n")
    return as_deserved


def main() -> int:
    """Print how long each form took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="in both files together")
    parser.add_argument("--profile", action="store_true", help="and where the time went")
    args = parser.parse_args()
    results = [judge(form, args.rows, profile=args.profile) for form in FORMS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

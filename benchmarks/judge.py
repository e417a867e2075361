"""What judging costs: bench rows of two CSVs, parsed, gated and decided, as `engine/judge` does.

.venv/bin/python -m benchmarks.judge [--rows N] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import io
import pstats
import resource
import sys
import time

from kernels.bench import contract
from orchestrator.evidence.bench import parse_bench
from orchestrator.gates import decide
from orchestrator.gates.bench import table_gate
from orchestrator.gates.physics import physics_gate
from orchestrator.models.playbook import BenchGate
from orchestrator.models.verdict import Decision, GateResult, Verdict
from tests.orchestrator.evidence_samples import RTX_4090, row

MODES = ("dense", "varlen")
LENGTHS = [64 * (number + 1) for number in range(100)]


def csv_of(mode: str, rows: int) -> bytes:
    """A CSV of so many rows, a hundred lengths a family, every cell with times of its own."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    write.writerow(contract.columns(mode))
    for number in range(rows):
        values = row(mode, LENGTHS[number % len(LENGTHS)], N=1024 + number // len(LENGTHS))
        write.writerow([_jittered(value, number) for value in values.values()])
    write.writerow([contract.END_MARK, rows])
    return text.getvalue().encode()


def _jittered(value: object, number: int) -> object:
    """Measured values differ in their last digits, and no two are read for the price of one."""
    return format(value * (1 + number * 1e-8), ".6g") if isinstance(value, float) else value


def judge(data: dict[str, bytes]) -> tuple[Decision, list[GateResult]]:
    """Both files through all their gates, then the decision on all rows."""
    gates = [
        GateResult(gate=kind, verdict=Verdict.PASS, message="Given.", measured={"given": True})
        for kind in ("tests", "parity")
    ]
    rows = {}
    for mode in MODES:
        file = f"sel_{mode}.csv"
        gate = BenchGate(gate="bench", file=file, mode=mode, lengths=LENGTHS)
        table = parse_bench(data[mode], file)
        gates.append(table_gate(gate, table, [RTX_4090]))
        gates.append(physics_gate(file, table.rows))
        rows[mode] = table.rows
    return decide(rows["dense"], rows["varlen"], contract.DEFAULT_MARGIN, gates), gates


def main() -> int:
    """Print how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="in both files together")
    parser.add_argument("--profile", action="store_true", help="and where the time went")
    args = parser.parse_args()
    data = {mode: csv_of(mode, args.rows // 2) for mode in MODES}
    profile = cProfile.Profile()
    start, cpu = time.perf_counter(), time.process_time()
    decision, gates = profile.runcall(judge, data) if args.profile else judge(data)
    took, busy = time.perf_counter() - start, time.process_time() - cpu
    megabytes = sum(map(len, data.values())) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.rows} rows, {megabytes:.0f} MB: {took:.2f} s, of which {busy:.2f} s of processor "
        f"time; peak {peak:.0f} MiB: {decision}"
    )
    for gate in gates:
        print(f"  {gate.verdict.value:12} {gate.gate}")
    if args.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return 0


if __name__ == "__main__":
    sys.exit(main())

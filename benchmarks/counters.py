"""Hardware counters of the row kernels and of the probe, by Nsight Compute: where the time goes.

    python -m benchmarks.counters --csv counters.csv [--dims 128] [--lengths 64 256 1024]

The cells of `benchmarks.rows`, each kernel launched once. Nsight Compute replays it with cold
caches and with the clocks as they are. `us` is the kernel alone, without its launch; where a cell
has several, such as decode with its combination, each has a line.

Exit codes: 0 written; 1 Nsight Compute failed; 2 usage, no `ncu`, no CUDA device.
"""

# ruff: noqa: N806 - H, D, L are the field's names

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.probe import probe_call
from benchmarks.rows import FEWER_HEADS, cells, decode_rows, unwritable
from kernels.selection.flags import Flags

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats")
KERNELS = "regex:rows_fwd|ranges_fwd|combine_rows|probe"
PROBE = (256, 4)
"""Width and warps: of those that `benchmarks.rows` tries, a fast one; not so for ragged rows."""
COLUMNS = {
    "us": "gpu__time_duration.sum",
    "dram_pct": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "compute_pct": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "programs": "launch__grid_size",
    "registers": "launch__registers_per_thread",
    "waves": "launch__waves_per_multiprocessor",
    "warps_possible_pct": "sm__maximum_warps_per_active_cycle_pct",
    "warps_active_pct": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
"""Ours, by Nsight Compute's name."""
SCALES = {"us": {"ns": 1e-3, "us": 1.0}}
STALL = "smsp__average_warps_issue_stalled_"
STALL_END = "_per_issue_active.ratio"
SHOWN_STALLS = 3
CELL = ("cell", "D", "L")


def launch(dims: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Launch each cell's kernels once; one item for each, in the order of their launches."""
    flags = Flags.from_env()
    torch.manual_seed(0)
    like = torch.empty(0, dtype=torch.float16, device="cuda")
    for cell, D, L, rows in cells(dims, lengths, like):
        if rows.Q.shape[-2] == FEWER_HEADS:
            continue  # they read what those of more heads read
        rows.triton(flags)
        yield cell, D, L
        probe_call(rows, *PROBE)()
        yield f"{cell}, probe", D, L
    decode = decode_rows(like)
    decode.triton(flags)
    for kernel in ("decode", "decode, combination"):
        yield kernel, decode.Q.shape[-1], decode.L
    torch.cuda.synchronize()


def read(lines: Iterable[str]) -> list[dict[str, str]]:
    """What Nsight Compute wrote with `--page raw --csv`: our columns of each kernel, as text.

    Raises:
        ValueError: there is no table in it, or one in units that are not known.
    """
    table = csv.reader(line for line in lines if line.strip() and not line.startswith("=="))
    header = next(table, None)
    units = next(table, None)
    if not header or not units or "Kernel Name" not in header:
        raise ValueError("Nsight Compute wrote no table")
    kinds = dict(zip(header, units, strict=True))
    found = []
    for fields in table:
        values = dict(zip(header, fields, strict=True))
        row = {"kernel": values["Kernel Name"]}
        for name, theirs in COLUMNS.items():
            row[name] = _scaled(values.get(theirs, ""), SCALES.get(name), kinds.get(theirs, ""))
        found.append({**row, "stalls": _stalls(values)})
    return found


def _scaled(value: str, scales: Mapping[str, float] | None, unit: str) -> str:
    """A number in the unit of our column; as it stands where we know no other."""
    plain = value.replace(",", "")
    if not plain or not scales:
        return plain
    if unit not in scales:
        raise ValueError(f"Nsight Compute counts in {unit!r}; known are {', '.join(scales)}")
    return f"{float(plain) * scales[unit]:.4g}"


def _stalls(values: Mapping[str, str]) -> str:
    """What warps wait for most, in warps that wait for it per instruction issued."""
    stalls = {
        name[len(STALL) : -len(STALL_END)]: float(value.replace(",", ""))
        for name, value in values.items()
        if name.startswith(STALL) and name.endswith(STALL_END) and value
    }
    most = sorted(stalls, key=lambda name: -stalls[name])[:SHOWN_STALLS]
    return " ".join(f"{name}={stalls[name]:.1f}" for name in most)


def main(argv: Sequence[str] | None = None) -> int:
    """Profile what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counters")
    parser.add_argument("--csv", type=Path, help="file to write; must not exist")
    parser.add_argument("--dims", type=int, nargs="+", default=[128], help="D, and Dv")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[64, 256, 1024], help="keys of a row"
    )
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        return _refuse("no CUDA device", 2)
    if args.csv is None:  # as Nsight Compute runs it
        for cell in launch(args.dims, args.lengths):
            print(*cell, sep="\t")
        return 0
    ncu = shutil.which("ncu")
    if ncu is None:
        return _refuse("no ncu on the PATH: install NVIDIA Nsight Compute", 2)
    if wrong := unwritable(args.csv):
        return _refuse(wrong, 2)
    shapes = ["--dims", *map(str, args.dims), "--lengths", *map(str, args.lengths)]
    for _ in launch(args.dims, args.lengths):
        pass  # compiled here, where nothing slows it down
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        command = [
            ncu, "--csv", "--page", "raw", "--log-file", str(log), "--kernel-name", KERNELS,
            "--clock-control", "none", "--cache-control", "all",
            *(word for section in SECTIONS for word in ("--section", section)),
            sys.executable, "-m", "benchmarks.counters", *shapes,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        text = log.read_text(encoding="utf-8") if log.exists() else ""
    if done.returncode:
        return _refuse(f"ncu failed:\n{text[-1000:]}\n{done.stderr[-1000:]}", 1)
    named = list(named_cells(done.stdout))
    try:
        kernels = read(text.splitlines())
    except ValueError as error:  # without permission for the counters it says so and exits with 0
        return _refuse(f"{error}:\n{text[-1000:]}", 1)
    if len(named) != len(kernels):
        return _refuse(f"ncu saw {len(kernels)} kernels, {len(named)} were launched", 1)
    rows = [{**cell, **counted} for cell, counted in zip(named, kernels, strict=True)]
    with args.csv.open("x", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(args.csv)
    return 0


def named_cells(text: str) -> Iterator[dict[str, str]]:
    """The cells that the profiled process printed, among what Nsight Compute adds."""
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) == len(CELL):
            yield dict(zip(CELL, words, strict=True))


def _refuse(message: str, code: int) -> int:
    print(f"benchmarks.counters: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Plots and tables of a report, from what lies in its folder.

    python -m benchmarks.plots reports/h200-2026-11-24

Reads the CSVs and canaries of `kernels.bench`, `rows.csv` of `benchmarks.rows` and `tuning.json` of
`kernels.tune`. Writes `speedup.svg` and `roofline.svg`, and prints the tables of the README.
matplotlib is needed here only (`pip install matplotlib`); one version of it writes the same bytes
every time, and the committed files are of 3.11.2.

Exit codes: 0 written; 2 usage, no matplotlib, or a CSV that breaks the contract.
"""

# ruff: noqa: N806 - N, H, D, L are the field's names

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.bench.bench_csv import read_table
from kernels.bench.contract import DEFAULT_MARGIN, ContractError

Row = Mapping[str, str]
Shape = tuple[int, int, int]
"""N, H and D = Dv."""

FILES = {"few": "sel_dense", "many": "sel_varlen"}
"""By distribution, the CSV's stem."""
LEVELS = ("operator", "kernel")
FLEX = "flex_attention"
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
"""Of Okabe and Ito, told apart with any colour vision; shapes of markers say the same again."""
COLOURS = {(256, 64): ORANGE, (256, 128): RED, (1024, 64): GREEN, (1024, 128): BLUE}
"""By N and D."""
MARKERS = {4: "^", 8: "o"}
"""By H."""
FORMS = {
    ("kernel", "few"): (BLUE, "o", "dense rows"),
    ("kernel", "many"): (GREEN, "s", "varlen rows"),
    ("operator", "few"): (ORANGE, "^", "1 range a row, in place"),
    ("operator", "many"): (RED, "v", "8 ranges a row, in place"),
}
CARD_TB_S = {"NVIDIA H200": 4.8}
"""DRAM, of the data sheet."""
TUNED = {"dense": ("kernel", "few"), "varlen": ("kernel", "many"), "ranges": ("operator", "many")}
"""Forms of the tuning table, as `FORMS` has them."""
ROWS_TUNED = 1024
TIMES = r'"kernel": "{form}", "bits": 16, .* N=1024 H=8 D=(\d+) Dv=(\d+) L=(\d+): ([\d.]+) us;'
"""What `kernels.tune` writes into the source of a measured entry."""
MODEL_US, MODEL_TB_S = 3.5, 4.24
"""What `kernels/selection/README.md` expects of an H200."""
LOOK = {
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text stays text
    "font.family": ["DejaVu Sans", "sans-serif"],
    "svg.hashsalt": "selection",  # names of clip paths are random otherwise
}
UNDATED = {"Date": None, "Creator": None}


def main(argv: Sequence[str] | None = None) -> int:
    """Plot what the folder holds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots")
    parser.add_argument("folder", type=Path, help="of the report, with " + " and ".join(_names()))
    folder = parser.parse_args(argv).folder
    try:
        rows = {dist: _rows(folder / f"{stem}.csv") for dist, stem in FILES.items()}
        copies = [
            float(row["value"]) / 1e3
            for stem in FILES.values()
            for row in _rows(folder / f"{stem}.canary.csv")
            if row["probe"] == "copy"
        ]
        probed = _rows(folder / "rows.csv", marked=False)
        table = (folder / "tuning.json").read_text(encoding="utf-8")
        import matplotlib as mpl  # here, so that the message below can be given
    except (ContractError, OSError) as error:
        return _refuse(str(error))
    except ImportError:
        return _refuse("matplotlib is missing: pip install matplotlib")
    mpl.use("svg")
    mpl.rcParams.update(LOOK)
    speedups(rows).savefig(folder / "speedup.svg", metadata=UNDATED)
    roofline(rows, copies, probed, table).savefig(folder / "roofline.svg", metadata=UNDATED)
    print("\n".join(tables(rows)))
    return 0


def speedups(rows: Mapping[str, Sequence[Row]]) -> Any:
    """The strongest reference's time over ours, by L: a row a level, a column a distribution."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, 2, figsize=(8.4, 6.6), sharex=True, sharey="row", layout="constrained"
    )
    for level, across in zip(LEVELS, axes, strict=True):
        for (dist, cells), ax in zip(rows.items(), across, strict=True):
            for place, shape in enumerate(_shapes(cells)):
                _intervals(ax, level, shape, _of(cells, shape), place)
            ax.axhline(1, color="black", linewidth=0.8)
            if level == "operator":
                ax.axhline(DEFAULT_MARGIN, color="black", linewidth=0.8, linestyle="--")
            spans = {"few": "1 span a row", "many": "8 spans a row"}[dist]
            ax.set_title(f"{level} level, {spans}", fontsize=9)
            ax.set_xscale("log", base=2)
            lengths = sorted({int(row["L"]) for row in cells})
            ax.set_xticks(lengths, map(str, lengths))
            ax.minorticks_off()
            ax.set_ylim(bottom=0)
    for ax in axes[1]:
        ax.set_xlabel("L, keys of a row")
    for ax in axes[:, 0]:
        ax.set_ylabel("strongest reference / ours")
    handles, labels = axes[0][0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))  # each once
    order = sorted(named)  # the shapes first
    figure.legend(
        [named[name] for name in order], order, loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def _intervals(ax: Any, level: str, shape: Shape, cells: Sequence[Row], place: int) -> None:
    """One shape's 95 % intervals, beside those of the others rather than on top of them."""
    N, H, D = shape
    shift = 1 + 0.012 * (place - 3.5)
    bounds = [[float(row[f"{level}_strongest_{end}"]) for row in cells] for end in ("lo", "hi")]
    ratios = [float(row[f"{level}_strongest_ms"]) / float(row[f"{level}_tri_ms"]) for row in cells]
    low, high = ([abs(a - b) for a, b in zip(ratios, end, strict=True)] for end in bounds)
    at = [int(row["L"]) * shift for row in cells]
    ax.errorbar(
        at, ratios, (low, high),
        color=COLOURS[N, D], marker=MARKERS[H], markersize=4, linewidth=1, capsize=2,
        label=f"N={N} H={H} D={D}",
    )  # fmt: skip
    others = [
        (x, y)
        for x, y, row in zip(at, ratios, cells, strict=True)
        if level == "operator" and row["operator_strongest"] != FLEX
    ]
    if others:
        ax.scatter(
            *zip(*others, strict=True), s=70, facecolors="none", edgecolors="black",
            label="strongest found: SDPA under a mask",
        )  # fmt: skip


def roofline(
    rows: Mapping[str, Sequence[Row]], copies: Sequence[float], probed: Sequence[Row], table: str
) -> Any:
    """Achieved TB/s against the bytes that a cell must move, by either clock.

    Args:
        rows: of the benchmark, whose flushes write.
        copies: TB/s of the canary.
        probed: of `benchmarks.rows`, whose flushes read.
        table: launch parameters, whose sources hold times by the same clock.
    """
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 4.4), sharex=True, sharey=True, layout="constrained"
    )
    for (level, dist), (colour, marker, label) in FORMS.items():
        for N in (256, 1024):
            cells = [row for row in rows[dist] if (row["N"], row["H"]) == (str(N), "8")]
            _points(left, cells, f"{level}_tri_ms", colour, marker, label, filled=N == 1024)
    dense = [row for row in rows["few"] if row["H"] == "8"]
    _points(left, dense, "kernel_strongest_ms", "grey", "x", "strongest SDPA over dense rows")
    left.set_title("benchmark, H=8; hollow: N=256, filled: N=1024", fontsize=9)

    for form, key in TUNED.items():
        found = [
            (2e-6 * ROWS_TUNED * int(L) * (int(D) + int(Dv)), float(us))
            for D, Dv, L, us in re.findall(TIMES.format(form=form), table)
        ]
        colour, marker, _ = FORMS[key]
        sizes, rates = [mb for mb, _ in found], [mb / us for mb, us in found]
        right.scatter(sizes, rates, s=24, color=colour, marker=marker)
    _points(right, [r for r in probed if r["cell"] == "dense"], "probe_us", "black", "D", "probe")
    right.set_title("cold by reading, N=1024 H=8 (varlen: ragged)", fontsize=9)

    sizes = sorted(int(row["bytes"]) / 1e6 for row in dense)
    (device,) = {row["device"] for row in dense}
    heights = {"data sheet": CARD_TB_S[device], "canary's copy": sum(copies) / len(copies)}
    for ax in (left, right):
        expected = [mb / (MODEL_US + mb / MODEL_TB_S) for mb in sizes]
        name = f"{MODEL_US} us + bytes / {MODEL_TB_S} TB/s"
        ax.plot(sizes, expected, color="black", linewidth=1, linestyle=":", label=name)
        for what, height in heights.items():
            ax.axhline(height, color="black", linewidth=0.8, linestyle="--")
            text = f"{what}: {height:.2f} TB/s"
            ax.annotate(text, (sizes[0], height), (0, 2), textcoords="offset points")
        ax.set_xscale("log")
        ax.set_ylim(0, 5.2)
        ax.set_xlabel("bytes that a cell must move, MB")
    left.set_ylabel("TB/s, of these bytes")
    named = {
        label: handle
        for ax in (left, right)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _points(
    ax: Any, cells: Sequence[Row], column: str, colour: str, marker: str, label: str,
    *, filled: bool = True,
) -> None:  # fmt: skip
    """Of each cell its bytes, in MB, and TB/s by the time in a column."""
    per_us = 1e3 if column.endswith("_ms") else 1.0
    megabytes = [int(row["bytes"]) / 1e6 for row in cells]
    rates = [mb / (per_us * float(row[column])) for mb, row in zip(megabytes, cells, strict=True)]
    # hollow ones have no label: the title says what they are
    face = {} if marker == "x" else {"edgecolors": colour}
    ax.scatter(
        megabytes, rates, s=24, marker=marker, linewidths=1,
        label=label if filled else None, facecolors=colour if filled else "none", **face,
    )  # fmt: skip


def tables(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Markdown: lower bounds of all four speedups, strongest before shipped."""
    for level in LEVELS:
        lengths = sorted({row["L"] for cells in rows.values() for row in cells}, key=int)
        yield f"\n{level} level\n"
        yield f"| dist | N | H | D | {' | '.join(f'L={L}' for L in lengths)} |"
        yield "|---" * (4 + len(lengths)) + "|"
        for dist, cells in rows.items():
            for shape in _shapes(cells):
                found = {row["L"]: _bounds(level, row) for row in _of(cells, shape)}
                shown = (found.get(L, "-") for L in lengths)
                yield f"| {dist} | {' | '.join(map(str, shape))} | {' | '.join(shown)} |"


def _bounds(level: str, row: Row) -> str:
    strongest, shipped = (
        _rounded_down(float(row[f"{level}_{basis}_lo"])) for basis in ("strongest", "shipped")
    )
    mark = "*" if level == "operator" and row["operator_strongest"] != FLEX else ""
    return f"{strongest}{mark} / {shipped}"


def _rounded_down(bound: float) -> str:
    """A lower bound stays one."""
    digits = 1 if bound >= 10 else 2
    return f"{math.floor(bound * 10**digits) / 10**digits:.{digits}f}"


def _names() -> list[str]:
    return [f"{stem}{end}.csv" for stem in FILES.values() for end in ("", ".canary")]


def _rows(path: Path, *, marked: bool = True) -> list[Row]:
    """The rows that were measured.

    Raises:
        ContractError: the file is not whole, if it is one that has an end mark.
    """
    table = read_table(path.read_text(encoding="utf-8"), str(path))
    if marked and not table.complete:
        raise ContractError(f"{path}: {table.problem}")
    return [row for row in table.rows if row.get("status", "ok") == "ok"]


def _shapes(cells: Sequence[Row]) -> list[Shape]:
    return sorted({(int(row["N"]), int(row["H"]), int(row["D"])) for row in cells})


def _of(cells: Sequence[Row], shape: Shape) -> list[Row]:
    return [row for row in cells if (int(row["N"]), int(row["H"]), int(row["D"])) == shape]


def _refuse(message: str) -> int:
    print(f"benchmarks.plots: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

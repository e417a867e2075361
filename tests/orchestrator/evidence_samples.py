"""Evidence as pods write it, for the tests of parsers, gates and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from kernels.bench.bench_csv import BenchWriter
from kernels.bench.contract import CONTRACT_VERSION, CPU_INTERPRETER, columns
from orchestrator.evidence.bench import parse_bench

RTX_4090 = "NVIDIA GeForce RTX 4090"
PARITY = {"mae": "2.1e-04", "max_err": "1.9e-03", "kernel_path": "triton.dense", "device": RTX_4090}


def case(name: str, properties: Mapping[str, str] | None = None, inner: str = "") -> str:
    """One `<testcase>`."""
    recorded = "".join(
        f"<property name={quoteattr(key)} value={quoteattr(value)}/>"
        for key, value in (properties or {}).items()
    )
    wrapped = f"<properties>{recorded}</properties>" if recorded else ""
    head = f'<testcase classname="tests.kernels.test_parity" name={quoteattr(name)} time="0.5">'
    return f"{head}{wrapped}{inner}</testcase>"


def failure(message: str) -> str:
    return f"<failure message={quoteattr(message)}>{escape('Traceback: ' + message)}</failure>"


def skip(message: str) -> str:
    return f'<skipped type="pytest.skip" message={quoteattr(message)}>x.py:1</skipped>'


def junit(*cases: str) -> bytes:
    """A file as pytest writes it."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">'
        f'<testsuite name="pytest" tests="{len(cases)}">{"".join(cases)}</testsuite></testsuites>'
    ).encode()


def row(mode: str, length: int, **changes: object) -> dict[str, object]:
    """One good row of a bench CSV: 1.5 times as fast at operator level, 1.8 at kernel level.

    Where a time, a bound, the level or the basis of the row's own comparison is changed, the other
    columns follow, as if measured in the same run; bytes and FLOPs follow the shape; other changes
    stand as they are.
    """
    # no two cells of one card take the same to the last digit
    scale = length / 64 * (1.0 if mode == "dense" else 1.001)
    # one after the other, the varlen ones behind
    began = 1763900000000 + 1000 * length + (0 if mode == "dense" else 20_000_000)
    values: dict[str, object] = {
        "mode": mode, "N": 1024, "H": 8, "D": 128, "Dv": 128, "L": length,
        "nspans": 8, "streams": 1, "tri_ms": 0.1 * scale, "ref_ms": 0.15 * scale,
        "speedup": 1.5, "mae": 2e-4 + length * 1e-9, "contract": CONTRACT_VERSION, "status": "ok",
        "dist": "few" if mode == "dense" else "many", "dtype": "fp16", "device": RTX_4090,
        "level": "operator", "kernel": f"triton.{mode}", "reference": "sdpa_packed",
        "max_err": 2e-3, "ref_mae": 1e-4 + length * 1e-9, "ref_max_err": 1.5e-3, "ref_probe": "ok",
        "speedup_lo": 1.45, "speedup_hi": 1.55, "iters": 50, "warmup": 5,
        "basis": "strongest", "ragged": "equal", "form": "rows", "seed": 0,
        "kernel_tri_ms": 0.08 * scale, "kernel_shipped_ms": 0.15 * scale,
        "kernel_strongest_ms": 0.144 * scale, "operator_tri_ms": 0.1 * scale,
        "operator_shipped_ms": 0.155 * scale, "operator_strongest_ms": 0.15 * scale,
        "kernel_shipped_lo": 1.8, "kernel_shipped_hi": 1.95, "kernel_strongest_lo": 1.75,
        "kernel_strongest_hi": 1.85, "operator_shipped_lo": 1.5, "operator_shipped_hi": 1.6,
        "operator_strongest_lo": 1.45, "operator_strongest_hi": 1.55,
        "kernel_shipped": "sdpa_packed", "kernel_strongest": "sdpa_packed",
        "operator_shipped": "sdpa_packed", "operator_strongest": "sdpa_packed", "tri_probe": "ok",
        "tri_p10": 0.098 * scale, "tri_p90": 0.105 * scale, "ref_p10": 0.147 * scale,
        "ref_p90": 0.156 * scale, "tri_cv": 0.02, "ref_cv": 0.02, "aa_lo": 0.99, "aa_hi": 1.01,
        "tri_streams": 1, "ref_streams": 1,
        "timer": "events", "settled": "yes", "flush_mib": 256, "l2_mib": 72, "launch_us": 2.5,
        "sm_mhz": 2520, "sm_max_mhz": 2520, "mem_mhz": 10501, "temperature_c": 55,
        "began_ms": began, "ended_ms": began + 990,
        "torch": "2.13.0", "triton": "3.9.0",
        "kernel_launched": f"triton.{mode}", "operator_launched": f"triton.{mode}",
    }  # fmt: skip
    values.update(changes)
    values = {**_work(values), **values}
    if not changes.keys().isdisjoint(_OWN):
        others = _follow(values)
        values.update({name: value for name, value in others.items() if name not in changes})
    return {name: values.get(name, "") for name in columns(mode)}


def _work(values: Mapping[str, object]) -> dict[str, object]:
    """Bytes and FLOPs as the benchmark counts them: rows of half precision, each with its keys."""
    rows, heads, key, value, length = (
        size if isinstance(size := values[name], int) else 1 for name in ("N", "H", "D", "Dv", "L")
    )
    keys, queries = rows * length * (key + value), rows * heads * (key + value)
    return {"bytes": 2 * (keys + queries), "flops": 2 * heads * keys}


_OWN = ("tri_ms", "ref_ms", "speedup_lo", "speedup_hi", "level", "basis")


def _follow(values: Mapping[str, object]) -> dict[str, object]:
    """Times and bounds of all four comparisons; kernel level does a tenth less than operator."""
    found: dict[str, object] = {}
    parts = {"kernel": 0.9, "operator": 1.0}
    own = parts.get(str(values["level"]), 1.0)
    for level, part in parts.items():
        for side, name in (("tri", "tri_ms"), ("shipped", "ref_ms"), ("strongest", "ref_ms")):
            found[f"{level}_{side}_ms"] = _times(values[name], part / own)
            if side != "tri":
                found[f"{level}_{side}_lo"] = values["speedup_lo"]
                found[f"{level}_{side}_hi"] = values["speedup_hi"]
    for side in ("tri", "ref"):
        found[f"{side}_p10"] = _times(values[f"{side}_ms"], 0.98)
        found[f"{side}_p90"] = _times(values[f"{side}_ms"], 1.05)
    return found


def _times(ms: object, factor: float) -> object:
    return ms * factor if isinstance(ms, float | int) else ms


def interpreted(mode: str, length: int) -> dict[str, object]:
    changes = dict.fromkeys(
        ("sm_mhz", "sm_max_mhz", "mem_mhz", "temperature_c", "aa_lo", "aa_hi"), ""
    )
    fixed = {"device": CPU_INTERPRETER, "timer": "wall", "settled": "no: too few pairs"}
    fixed |= {"iters": 1, "warmup": 0, "N": 4, "flush_mib": 0, "l2_mib": 0, "launch_us": ""}
    return row(mode, length, **changes, **fixed)


def write_csv(path: Path, mode: str, rows: Iterable[Mapping[str, object]]) -> bytes:
    """A CSV, by the writer that the benchmark uses."""
    with BenchWriter(path, mode) as writer:
        for values in rows:
            writer.row(values)
    return path.read_bytes()


def csv_of(mode: str, *rows: Mapping[str, object]) -> bytes:
    """The same in memory; a value of None leaves the field empty."""
    lines = [",".join(columns(mode))]
    lines += [",".join("" if v is None else str(v) for v in values.values()) for values in rows]
    return "\n".join([*lines, f"#end,{len(rows)}", ""]).encode()


def bench_rows(mode: str, *rows: Mapping[str, object]):
    return parse_bench(csv_of(mode, *rows), f"sel_{mode}.csv").rows

"""Evidence as pods write it, for the tests of parsers, gates and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from kernels.bench.contract import CPU_INTERPRETER, BenchWriter, columns
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
    """One good row of a bench CSV."""
    values: dict[str, object] = {
        "mode": mode, "N": 1024, "H": 8, "D": 128, "Dv": 128, "L": length,
        "nspans": 8, "streams": 1, "tri_ms": 0.1 * length / 64, "ref_ms": 0.15 * length / 64,
        "speedup": 1.5, "mae": 2e-4, "contract": 1, "status": "ok",
        "dist": "few" if mode == "dense" else "many", "dtype": "fp16", "device": RTX_4090,
        "level": "operator", "kernel": f"triton.{mode}", "reference": "sdpa_packed",
        "max_err": 2e-3, "ref_mae": 1e-4, "ref_max_err": 1e-3, "ref_probe": "ok",
        "speedup_lo": 1.45, "speedup_hi": 1.55, "iters": 50, "warmup": 5,
    }  # fmt: skip
    values.update(changes)
    return {name: values[name] for name in columns(mode)}


def interpreted(mode: str, length: int) -> dict[str, object]:
    return row(mode, length, device=CPU_INTERPRETER, iters=1, warmup=0, N=4)


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

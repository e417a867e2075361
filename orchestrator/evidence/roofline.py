"""What a cell must move and compute at least, and how long a card needs for it. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.evidence.cards import MIB, Card

ITEMSIZE = {"fp16": 2, "bf16": 2, "fp32": 4}
_SPELLINGS = {
    "float16": "fp16", "half": "fp16", "torch.float16": "fp16", "f16": "fp16",
    "bfloat16": "bf16", "torch.bfloat16": "bf16",
    "float32": "fp32", "float": "fp32", "torch.float32": "fp32", "f32": "fp32",
}  # fmt: skip
_ASSUMED_DTYPE = "fp16"
_TERA = 1e12
_LARGEST = 1e9
"""No shape has more rows, heads or keys; larger numbers are not multiplied."""


@dataclass(frozen=True)
class Work:
    """The least that a cell's attention has to do, whatever implements it."""

    bytes: int
    """Q, the selected K and V, and the output."""
    read_bytes: int
    """Of these, what is read: the output may stay in L2 when the clock stops."""
    flops: int
    dtype: str
    assumed: tuple[str, ...] = ()
    """What the row does not say, taken so that the work is the least possible."""


def work(N: int, H: int, D: int, Dv: int, keys: int, dtype: str) -> Work:  # noqa: N803
    """Of N rows that attend to `keys` keys in all, H heads sharing them.

    Dense rows of L keys have `keys = N * L`: then `bytes` is
    `N * (L * (D + Dv) + H * (D + Dv)) * itemsize`.
    """
    size = ITEMSIZE[dtype]
    read = (keys * (D + Dv) + N * H * D) * size
    return Work(read + N * H * Dv * size, read, 2 * H * keys * (D + Dv), dtype)


def work_of(row: Mapping[str, str]) -> Work | tuple[str, ...]:
    """Work of a bench row, by its columns; or the columns that are missing for it.

    What is missing and can only make the work larger (H, Dv, dtype) is taken at its smallest: a
    time that is impossible for that is impossible for more. Where rows differ in length, or share
    one cache, only the writer knows the bytes; its column `bytes` may lower the formula's, never
    raise it.
    """
    sizes = {name: whole(row, name) for name in ("N", "H", "D", "Dv", "L")}
    missing = tuple(name for name in ("N", "D", "L") if not sizes[name])
    if missing:
        return missing
    dtype = _dtype(row.get("dtype", ""))
    assumed = []
    if dtype is None:
        dtype = _ASSUMED_DTYPE
        assumed.append(f"dtype ({_ASSUMED_DTYPE}, the smallest)")
    if sizes["H"] is None:
        assumed.append("H (1)")
    if sizes["Dv"] is None:
        assumed.append("Dv (0)")
    N, L = sizes["N"] or 0, sizes["L"] or 0  # noqa: N806
    most = work(N, sizes["H"] or 1, sizes["D"] or 0, sizes["Dv"] or 0, N * L, dtype)
    if _every_row_has_its_own(row):
        return Work(most.bytes, most.read_bytes, most.flops, dtype, tuple(assumed))
    told = number(row, "bytes")
    if told is None or told <= 0:
        return ("bytes",)
    written = most.bytes - most.read_bytes
    least = min(int(told), most.bytes)
    flops = number(row, "flops")
    computed = int(min(flops, most.flops)) if flops and flops > 0 else 0
    return Work(least, max(least - written, 0), computed, dtype, tuple(assumed))


def _every_row_has_its_own(row: Mapping[str, str]) -> bool:
    """Whether the row is N times L keys, none of them shared."""
    ragged = row.get("ragged") or ("ragged" if row.get("dist") == "mixed" else "equal")
    return ragged == "equal" and (row.get("form") or "rows") == "rows"


def _dtype(text: str) -> str | None:
    name = text.strip().lower()
    name = _SPELLINGS.get(name, name)
    return name if name in ITEMSIZE else None


@dataclass(frozen=True)
class Bound:
    """The least time that a card needs, ms, and which of its peaks says so."""

    ms: float
    peak: str


def dram_bound(todo: Work, card: Card) -> Bound:
    """When everything that is read comes from DRAM: the caches are cold."""
    return _larger(
        Bound(
            todo.read_bytes / (card.dram_tb_per_s * _TERA) * 1e3,
            f"{card.dram_tb_per_s:g} TB/s (DRAM)",
        ),
        _compute_bound(todo, card),
    )


def warm_bound(todo: Work, card: Card, l2_tb_per_s: float | None) -> Bound:
    """When as much as fits was left in L2 by the iteration before.

    `l2_tb_per_s` is its bandwidth, None where nobody knows it: then L2 is taken as free.
    """
    cold = max(todo.read_bytes - card.l2_bytes, 0)
    bound = Bound(
        cold / (card.dram_tb_per_s * _TERA) * 1e3,
        f"{card.dram_tb_per_s:g} TB/s (DRAM)",
    )
    if l2_tb_per_s:
        through = Bound(todo.read_bytes / (l2_tb_per_s * _TERA) * 1e3, f"{l2_tb_per_s:g} TB/s (L2)")
        bound = _larger(bound, through)
    return _larger(bound, _compute_bound(todo, card))


def _compute_bound(todo: Work, card: Card) -> Bound:
    tflops = card.tflops[todo.dtype]
    return Bound(todo.flops / (tflops * _TERA) * 1e3, f"{tflops:g} TFLOP/s ({todo.dtype})")


def _larger(one: Bound, other: Bound) -> Bound:
    return one if one.ms >= other.ms else other


def implied_tb_per_s(todo: Work, ms: float) -> float:
    """Bandwidth that a time claims."""
    return todo.bytes / (ms * 1e-3) / _TERA


def flushed(row: Mapping[str, str], l2_bytes: int) -> bool:
    """Whether the row says that all of L2 was overwritten before each iteration."""
    return (number(row, "flush_mib") or 0) * MIB >= l2_bytes


def number(row: Mapping[str, str], column: str) -> float | None:
    """A finite number; None where the row has none."""
    try:
        value = float(row[column])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def whole(row: Mapping[str, str], column: str) -> int | None:
    """A positive whole number; None where the row has none."""
    value = number(row, column)
    fits = value is not None and 1 <= value <= _LARGEST and value == int(value)
    return int(value) if value is not None and fits else None

"""What a cell must move and compute at least, and how long a card needs for it. Arithmetic only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from orchestrator.evidence.cards import Card
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows, tuples

ITEMSIZE = {"fp16": 2, "bf16": 2, "fp32": 4}
_ASSUMED_DTYPE = "fp16"
_ASSUMED = {
    missing: tuple(
        itertools.compress(("dtype (fp16 assumed)", "H (1 assumed)", "Dv (0 assumed)"), missing)
    )
    for missing in itertools.product((False, True), repeat=3)
}
_ROUNDED = 0.01
"""Of bytes and FLOPs: what writing them with few digits may change."""
_UNIFORM = "uniform"
"""What the benchmark's `--ragged` writes into `ragged`."""
_SIGMAS = 6
_TERA_MS = 1e9
"""A tera per second is a giga per millisecond."""


class Work(NamedTuple):
    """The least that a cell's attention has to do, whatever implements it."""

    bytes: int
    """Q, the selected K and V, and the output."""
    read_bytes: int
    """Of these, what is read: the output may stay in L2 when the clock stops."""
    flops: int
    dtype: str
    assumed: tuple[str, ...] = ()
    """What the row does not say, taken so that the work is the least possible."""


def work(
    N: int,  # noqa: N803
    H: int,  # noqa: N803
    D: int,  # noqa: N803
    Dv: int,  # noqa: N803
    keys: int,
    dtype: str,
    assumed: tuple[str, ...] = (),
) -> Work:
    """Of N rows that attend to `keys` keys in all, H heads sharing them.

    Dense rows of L keys have `keys = N * L`: then `bytes` is
    `N * (L * (D + Dv) + H * (D + Dv)) * itemsize`.
    """
    return works(H, D, Dv, [N], [keys], dtype, assumed)[0]


def works(
    H: int,  # noqa: N803
    D: int,  # noqa: N803
    Dv: int,  # noqa: N803
    rows: Sequence[int],
    keys: Sequence[int],
    dtype: str,
    assumed: tuple[str, ...] = (),
) -> list[Work]:
    """Of cells that differ in their rows and keys only."""
    size = ITEMSIZE[dtype]
    reads = [(k * (D + Dv) + n * H * D) * size for n, k in zip(rows, keys, strict=True)]
    moved = [read + n * H * Dv * size for n, read in zip(rows, reads, strict=True)]
    flops = [2 * H * k * (D + Dv) for k in keys]
    count = len(moved)
    return tuples(Work, moved, reads, flops, [dtype] * count, [assumed] * count)


_ALIKE = ("H", "D", "Dv", "dtype", "dist", "ragged", "form")


def works_of(rows: Rows[Row]) -> Sequence[Work | tuple[str, ...]]:
    """Work of each bench row, by its columns; or the columns that are missing for it.

    What is missing and can only make the work larger (H, Dv, dtype) is taken at its smallest: a
    time that is impossible for that is impossible for more. Where rows differ in length, or share
    one cache, only the writer knows the work: its columns `bytes` and `flops` are taken, between
    the least that such rows can have and the formula. From then on it is their column `work`.
    """
    return rows.derived("work", _works)


def _works(rows: Rows[Row]) -> Sequence[Work | tuple[str, ...]]:
    return rows.together(_works_alike, *_ALIKE)


def work_of(row: Row) -> Work | tuple[str, ...]:
    """Work of one row, as `works_of` has it."""
    return works_of(Rows([row]))[0]


def _works_alike(
    rows: Rows[Row],
    H: int | None,  # noqa: N803
    D: int | None,  # noqa: N803
    Dv: int | None,  # noqa: N803
    told_dtype: str | None,
    dist: str | None,
    ragged: str | None,
    form: str | None,
) -> Sequence[Work | tuple[str, ...]]:
    dtype = told_dtype if told_dtype in ITEMSIZE else None
    assumed = () if dtype and H and Dv else _ASSUMED[not dtype, not H, not Dv]
    # what is missing is put in its place below
    counts = [N or 1 for N in rows.column("N")]
    lengths = [L or 1 for L in rows.column("L")]
    keys = list(map(mul, counts, lengths))
    most = works(H or 1, D or 1, Dv or 0, counts, keys, dtype or _ASSUMED_DTYPE, assumed)
    found: Sequence[Work | tuple[str, ...]] = most
    if not _each_has_its_own(dist, ragged, form):
        told = zip(most, counts, lengths, rows.columns("nspans", "bytes", "flops"), strict=True)
        found = [
            _shared(full, N, H or 1, D or 1, Dv or 0, L, nspans, moved, done, dist, ragged, form)
            for full, N, L, (nspans, moved, done) in told
        ]
    if D and all(rows.column("N")) and all(rows.column("L")):
        return found
    needed = [(("N", N), ("D", D), ("L", L)) for N, L in rows.columns("N", "L")]
    return [
        tuple(name for name, value in each if not value) or work
        for each, work in zip(needed, found, strict=True)
    ]


def _shared(
    most: Work,
    N: int,  # noqa: N803
    H: int,  # noqa: N803
    D: int,  # noqa: N803
    Dv: int,  # noqa: N803
    L: int,  # noqa: N803
    nspans: int | None,
    told_bytes: float | None,
    told_flops: float | None,
    dist: str | None,
    ragged: str | None,
    form: str | None,
) -> Work | tuple[str, ...]:
    """Of rows that differ in length or share a cache: what was written, if it can be."""
    if told_bytes is None or not 0 < told_bytes < math.inf:
        return ("bytes",)
    selected = _least_selected(N, L, nspans, dist, ragged)
    least = work(N, H, D, Dv, selected, most.dtype)
    # rows that share a cache may all select the same keys: those of the longest row
    distinct = L if form == "decode" else selected
    fewest = work(N, H, D, Dv, distinct, most.dtype).bytes
    told = min(max(int(told_bytes), fewest), most.bytes)
    flops = told_flops if told_flops is not None and 0 < told_flops < math.inf else 0
    return most._replace(
        bytes=told,
        read_bytes=told - (most.bytes - most.read_bytes),
        flops=min(max(int(flops), least.flops), most.flops),
    )


def misstated(row: Row, todo: Work) -> str | None:
    """How `bytes` or `flops` of a row of this project differ from any that its shape can have."""
    for name, told, known in (("bytes", row.bytes, todo.bytes), ("flops", row.flops, todo.flops)):
        if told is not None and abs(told - known) > _ROUNDED * known:
            return f"{name} is {told:g}, which rows of that shape cannot have: {known:g} can"
    return None


def _least_selected(
    N: int,  # noqa: N803
    L: int,  # noqa: N803
    nspans: int | None,
    dist: str | None,
    ragged: str | None,
) -> int:
    """Keys that all rows select together, at least: one row is the longest."""
    if ragged in (None, "equal"):
        return N * L if ragged else L + N - 1
    spans = min(nspans or 1, L)
    if dist == "mixed":
        spans = 1
    if ragged != _UNIFORM:
        return L + (N - 1) * spans
    # lengths drawn evenly between the spans and L: their sum is known but for chance
    mean = (N - 1) * (spans + L) / 2
    deviation = math.sqrt((N - 1) / 12) * (L - spans)
    return L + max((N - 1) * spans, int(mean - _SIGMAS * deviation))


def _each_has_its_own(dist: str | None, ragged: str | None, form: str | None) -> bool:
    """Whether N rows have N times L keys, none of them shared."""
    if ragged is None and dist == "mixed":
        return False
    return ragged in (None, "equal") and form in (None, "rows")


class Bound(NamedTuple):
    """The least time that a card needs, ms, and which of its peaks says so."""

    ms: float
    rate: float
    of: str
    """Unit of the rate, and what has it."""

    @property
    def peak(self) -> str:
        """In words."""
        return f"{self.rate:g} {self.of}"


def dram_ms(todo: Work, card: Card) -> float:
    """Least time when everything that is read comes from DRAM: the caches are cold."""
    moving = todo.read_bytes / (card.dram_tb_per_s * _TERA_MS)
    computing = todo.flops / (card.tflops[todo.dtype] * _TERA_MS)
    return moving if moving >= computing else computing


def dram_times(rows: Rows[Row], card: Card) -> Sequence[float]:
    """`dram_ms` of each row, 0 where its work is not known."""

    def of(rows: Rows[Row]) -> list[float]:
        return [dram_ms(todo, card) if isinstance(todo, Work) else 0.0 for todo in works_of(rows)]

    return rows.derived(f"dram_ms of {card.name}", of)


def dram_bound(todo: Work, card: Card) -> Bound:
    """`dram_ms`, with the peak that it rests on."""
    return max(_moving(todo.read_bytes, card), _computing(todo, card))


def warm_bound(todo: Work, card: Card, l2_tb_per_s: float | None) -> Bound:
    """When as much as fits was left in L2 by the iteration before.

    `l2_tb_per_s` is the most that it may give, None where nobody knows: then L2 is taken as free.
    """
    cold = _moving(max(todo.read_bytes - card.l2_bytes, 0), card)
    slower = max(cold, _computing(todo, card))
    if not l2_tb_per_s:
        return slower
    through = todo.read_bytes / (l2_tb_per_s * _TERA_MS)
    return max(slower, Bound(through, l2_tb_per_s, "TB/s (L2, generously)"))


def _moving(read_bytes: int, card: Card) -> Bound:
    return Bound(read_bytes / (card.dram_tb_per_s * _TERA_MS), card.dram_tb_per_s, "TB/s (DRAM)")


def _computing(todo: Work, card: Card) -> Bound:
    tflops = card.tflops[todo.dtype]
    return Bound(todo.flops / (tflops * _TERA_MS), tflops, f"TFLOP/s ({todo.dtype})")


def implied_tb_per_s(todo: Work, ms: float) -> float:
    """Bandwidth that a time claims."""
    return todo.bytes / (ms * _TERA_MS)

"""What the benchmark runs on: seeded inputs, at both levels, with the truth about them.

| `--dist` | a row's keys | mode |
|---|---|---|
| `few` | one span | dense; varlen with `--ragged` |
| `many` | 8 spans | varlen |
| `mixed` | alternately 1 and 8 spans | varlen |

A row has L keys in all; with `--ragged` the first has L and the others anything from their number
of spans to L. At *operator* level both sides get `Q, K, V, ranges`, the spans lying at random
places, and everything they do with them counts. At *kernel* level both sides get the same selected
keys already packed: rows end to end, and the same rows one by one, padded where they are ragged.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.selection.reference import pad_varlen, selection_attention_oracle

CACHE_FACTOR = {"rows": 4, "decode": 64}
"""Keys in a cache of the operator level, per selected key: a cache a row, or one for all."""
OBVIOUS_ROWS = 32
"""Rows, about, that the obvious oracle computes too."""
ORACLES_APART = 1e-9
BATCHED_KEYS = 2**18
"""Keys whose fp64 copies are held at a time: half a gigabyte with D = Dv = 128."""

Places = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """One cell: what to build."""

    N: int
    H: int
    D: int
    Dv: int
    L: int
    nspans: int
    mixed: bool
    ragged: bool
    form: str
    dtype: torch.dtype
    device: torch.device
    seed: int

    @property
    def dense(self) -> bool:
        """Every row is one span of L keys."""
        return self.nspans == 1 and not self.ragged


@dataclass(frozen=True)
class PackedRows:
    """Kernel level: `Q[N, H, D]` and the keys of each row, in both packed forms."""

    Q: Tensor
    K_all: Tensor
    """`[sum L, D]`, rows end to end."""
    V_all: Tensor
    cu_seqlens: Tensor
    """`[N + 1]` int32."""
    K: Tensor
    """`[N, L, D]`: the same keys, padded; a view of `K_all` where all rows have L."""
    V: Tensor
    lengths: Tensor | None
    """`[N]`; None where all rows have L."""
    dense: bool

    @classmethod
    def build(
        cls, Q: Tensor, K_all: Tensor, V_all: Tensor, cu: Tensor, L: int, *, dense: bool
    ) -> PackedRows:
        """Pad here, outside any timed region: both sides get packed rows."""
        N = Q.shape[0]
        if K_all.shape[0] == N * L:  # no row is longer than L, so all are equally long
            return cls(Q, K_all, V_all, cu, K_all.view(N, L, -1), V_all.view(N, L, -1), None, dense)
        return cls(Q, K_all, V_all, cu, *pad_varlen(K_all, V_all, cu, L), dense)

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        """`[keys, D]` and `[keys, Dv]`, for the mutation probe."""
        return self.K_all, self.V_all

    def with_keys(self, K: Tensor, V: Tensor) -> PackedRows:
        """Equal, but for the keys and values, in the form of `keys`."""
        L = self.K.shape[1]
        return self.build(self.Q, K, V, self.cu_seqlens, L, dense=self.dense)

    def places(self) -> Places:
        """First, middle and last key of each row, for `checks.ignored_keys`."""
        return _places(self.cu_seqlens.long())

    def split(self, parts: int) -> list[PackedRows]:
        """The rows in `parts` workloads, one per stream."""
        return [self._part(rows) for rows in _parts(self.Q, parts)]

    def _part(self, rows: slice) -> PackedRows:
        cu = self.cu_seqlens[rows.start : rows.stop + 1]
        first, end = int(cu[0]), int(cu[-1])
        return replace(
            self,
            Q=self.Q[rows],
            K_all=self.K_all[first:end],
            V_all=self.V_all[first:end],
            cu_seqlens=cu - first,
            K=self.K[rows],
            V=self.V[rows],
            lengths=None if self.lengths is None else self.lengths[rows],
        )


@dataclass(frozen=True)
class Selection:
    """Operator level: ranges over caches.

    `Q[N, H, D]`, `K[R, S_kv, D]`, `V[R, S_kv, Dv]`, `ranges[N, n, 2]`. Form `rows` has `R = N`:
    the operator sees `B=N, S=G=1`. Form `decode` has `R = 1`: one query a sequence, `B=S=1, G=N`,
    over a cache that all share by stride 0.
    """

    Q: Tensor
    K: Tensor
    V: Tensor
    ranges: Tensor
    L: int
    selected: Tensor
    """`[sum L]`: the selected keys of all rows, as rows of the flattened cache."""
    bounds: Tensor
    """`[N + 1]`: where each row's begin in `selected`."""
    equal: bool
    """All rows select L keys."""

    @property
    def shared(self) -> bool:
        """One cache for all rows."""
        return len(self.K) == 1 < len(self.Q)

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        """As `PackedRows.keys`."""
        return self.K.flatten(0, 1), self.V.flatten(0, 1)

    def with_keys(self, K: Tensor, V: Tensor) -> Selection:
        """As `PackedRows.with_keys`."""
        return replace(self, K=K.view_as(self.K), V=V.view_as(self.V))

    def places(self) -> Places:
        """As `PackedRows.places`."""
        found = {name: self.selected[place] for name, place in _places(self.bounds).items()}
        if not self.shared:
            return found
        # rows share the cache, and a key can be changed for one row only: three rows, once each
        rows = sorted({0, self.Q.shape[0] // 2, self.Q.shape[0] - 1})
        for name, keys in found.items():
            chosen = torch.full_like(keys, -1)
            for row in rows:
                if not (chosen == keys[row]).any():
                    chosen[row] = keys[row]
            found[name] = chosen
        return found

    def split(self, parts: int) -> list[Selection]:
        """As `PackedRows.split`."""
        return [self._part(rows) for rows in _parts(self.Q, parts)]

    def _part(self, rows: slice) -> Selection:
        caches = slice(None) if self.shared else rows
        bounds = self.bounds[rows.start : rows.stop + 1]
        first, end = int(bounds[0]), int(bounds[-1])
        before = 0 if self.shared else rows.start * self.K.shape[1]
        return replace(
            self,
            Q=self.Q[rows],
            K=self.K[caches],
            V=self.V[caches],
            ranges=self.ranges[rows],
            selected=self.selected[first:end] - before,
            bounds=bounds - first,
        )

    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`Q[B, S, G, H, D], K[B, G, S_kv, D], V[B, G, S_kv, Dv], ranges[B, S, G, n, 2]`."""
        if not self.shared:
            return (
                self.Q[:, None, None],
                self.K[:, None],
                self.V[:, None],
                self.ranges[:, None, None],
            )
        N = self.Q.shape[0]
        K, V = (X.expand(N, -1, -1)[None] for X in (self.K, self.V))
        return self.Q[None, None], K, V, self.ranges[None, None]


@dataclass(frozen=True)
class Inputs:
    """One copy of a cell's inputs, for both levels, and what is true of them."""

    kernel: PackedRows
    operator: Selection
    bytes: int
    """That any correct implementation must move: Q, each selected key and value, and the output."""
    flops: int

    def at(self, level: str) -> PackedRows | Selection:
        """The workload of a level."""
        return self.kernel if level == "kernel" else self.operator

    def refill(self, other: Inputs) -> None:
        """Overwrite all tensors, in place, with those of another copy of the same shape."""
        mine, theirs = self.kernel, other.kernel
        pairs = [(mine.K_all, theirs.K_all), (mine.V_all, theirs.V_all)]
        if mine.lengths is not None:  # padded, in memory of their own
            pairs += [(mine.K, theirs.K), (mine.V, theirs.V)]
        for name in ("Q", "K", "V", "ranges", "selected", "bounds"):
            pairs.append((getattr(self.operator, name), getattr(other.operator, name)))
        for target, source in pairs:
            target.copy_(source)

    def oracle(self) -> Tensor:
        """`[N, H, Dv]` fp64, from the operator's tensors; the packed rows must give the same.

        In two ways that share nothing, because the obvious one takes a second: that one for the
        first rows, all rows in batches, and the two must agree.

        Raises:
            ArithmeticError: they do not.
        """
        out = _batched_oracle(self.operator)
        few = self.operator.split(max(1, len(out) // OBVIOUS_ROWS))[0]
        obvious = selection_attention_oracle(*few.operands()).view(few.Q.shape[0], *out.shape[1:])
        apart = float((out[: len(obvious)] - obvious).abs().max())
        if not apart <= ORACLES_APART:
            raise ArithmeticError(f"the two oracles are {apart:.3g} apart")
        return out


def build(shape: Shape, copy: int = 0) -> Inputs:
    """Inputs of a cell; another `copy` has other values at other places, in the same shape.

    Raises:
        ValueError: fewer keys than spans.
    """
    seed = (shape.seed * 1_000_003 + shape.L) * 101 + copy
    S_kv = CACHE_FACTOR[shape.form] * shape.L
    caches = 1 if shape.form == "decode" else shape.N
    # how long the rows are is part of the shape: equal in every copy
    rows = _span_lengths(shape, random.Random(shape.seed))  # noqa: S311 - inputs, not secrets
    places = random.Random(seed)  # noqa: S311
    ranges = torch.zeros(shape.N, shape.nspans, 2, dtype=torch.int32)
    starts: list[int] = []
    for row, spans in enumerate(rows):
        room = S_kv // len(spans)  # one span in each: disjoint, and far apart
        for i, length in enumerate(spans):
            start = i * room + places.randint(0, room - length)
            ranges[row, i, 0], ranges[row, i, 1] = start, start + length
            starts.append(start if caches == 1 else row * S_kv + start)
    bounds = torch.tensor([0, *(sum(spans) for spans in rows)]).cumsum(0)
    selected = _concatenated(starts, [length for spans in rows for length in spans])
    bounds, selected = bounds.to(shape.device), selected.to(shape.device)
    rng = torch.Generator(shape.device).manual_seed(seed)
    Q = _randn(shape, rng, shape.N, shape.H, shape.D)
    K = _randn(shape, rng, caches, S_kv, shape.D)
    V = _randn(shape, rng, caches, S_kv, shape.Dv)
    packed = PackedRows.build(
        Q,
        K.flatten(0, 1)[selected],
        V.flatten(0, 1)[selected],
        bounds.to(torch.int32),
        shape.L,
        dense=shape.dense,
    )
    read = int(selected.unique().numel()) * (shape.D + shape.Dv)
    moved = shape.N * shape.H * (shape.D + shape.Dv) + read
    return Inputs(
        packed,
        Selection(
            Q, K, V, ranges.to(shape.device), shape.L, selected, bounds, equal=not shape.ragged
        ),
        moved * Q.element_size(),
        2 * selected.numel() * shape.H * (shape.D + shape.Dv),
    )


def _batched_oracle(selection: Selection) -> Tensor:
    """`[N, H, Dv]` fp64: softmax attention over each row's selected keys, padded with -inf."""
    bounds = selection.bounds
    at = torch.arange(selection.L, device=bounds.device)
    K, V = selection.keys
    found = []
    for rows in _parts(selection.Q, max(1, len(selection.Q) * selection.L // BATCHED_KEYS)):
        first, end = bounds[rows][:, None], bounds[rows.start + 1 : rows.stop + 1][:, None]
        valid = first + at < end  # [rows, L]
        keys = selection.selected[torch.where(valid, first + at, first)]
        scores = selection.Q[rows].double() @ K[keys].double().mT / math.sqrt(K.shape[1])
        weights = scores.masked_fill(~valid[:, None], -math.inf).softmax(dim=-1)
        found.append(weights @ V[keys].double())
    return torch.cat(found)


def _concatenated(starts: list[int], lengths: list[int]) -> Tensor:
    """`start, start + 1, ...` of each span, end to end."""
    counts = torch.tensor(lengths)
    ends = counts.cumsum(0)
    shift = torch.tensor(starts) - (ends - counts)
    return torch.arange(int(ends[-1])) + shift.repeat_interleave(counts)


def _span_lengths(shape: Shape, rng: random.Random) -> list[list[int]]:
    if shape.nspans > shape.L:
        raise ValueError(f"L={shape.L} is less than the {shape.nspans} spans of a row")
    rows = []
    for row in range(shape.N):
        spans = 1 if shape.mixed and row % 2 == 0 else shape.nspans
        total = shape.L
        if shape.ragged and row > 0:  # row 0 is the longest
            total = rng.randint(spans, shape.L)
        rows.append([total // spans + (i < total % spans) for i in range(spans)])
    return rows


def _randn(shape: Shape, rng: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=rng, device=shape.device, dtype=shape.dtype)


def _parts(rows: Tensor, parts: int) -> list[slice]:
    N = rows.shape[0]
    bounds = [N * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _places(bounds: Tensor) -> dict[str, Tensor]:
    first, last = bounds[:-1], bounds[1:] - 1
    return {"first": first, "middle": (first + last) // 2, "last": last}

"""What the benchmark runs on: seeded inputs, and both sides of the comparison over them.

| `--dist` | a row's keys | mode |
|---|---|---|
| `few` | one span of L keys | dense |
| `many` | 8 spans, together L keys | varlen |
| `mixed` | alternately 1 and 8 spans, together 1 to L keys; the longest row has L | varlen |

At *kernel* level both sides get K/V already packed: dense rows, or rows end to end for Triton and
the same rows padded to L for SDPA (a plain view where all rows are equally long). At *operator*
level both sides get `Q, K, V, ranges` over a shared cache of `64 * L` keys, and everything they do
with them counts: the reference's gather, and Triton's own preparation.
"""


# ruff: noqa: D102 - the methods are documented once, on the protocol

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kernels.selection import op
from kernels.selection.flags import Flags
from kernels.selection.reference import (
    dense_attention_oracle,
    dense_attention_packed,
    grouped_selection_attention_packed,
    pad_varlen,
    selected_keys,
    selection_attention_oracle,
    varlen_attention_oracle,
)

MANY_SPANS = 8
CACHE_FACTOR = 64
"""Keys in the cache of an operator-level workload, per selected key."""


@dataclass(frozen=True)
class Shape:
    """One cell: what to build."""

    N: int
    H: int
    D: int
    Dv: int
    L: int
    dist: str
    dtype: torch.dtype
    device: torch.device
    seed: int

    @property
    def nspans(self) -> int:
        """Most spans that a row has."""
        return 1 if self.dist == "few" else MANY_SPANS


class Workload(Protocol):
    """Inputs of a cell, with both sides, the oracle, and the keys to probe."""

    level: str
    reference_name: str

    @property
    def rows(self) -> Tensor:
        """Queries as `[N, H, D]`."""
        ...

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        """Keys and values as `[keys, D]` and `[keys, Dv]`."""
        ...

    def with_keys(self, K: Tensor, V: Tensor) -> Workload:
        """Equal, but for the keys and values, in the form of `keys`."""
        ...

    def places(self) -> Mapping[str, Tensor]:
        """First, middle and last key of each row, for `checks.ignored_keys`."""
        ...

    def split(self, parts: int) -> list[Workload]:
        """The rows in `parts` workloads, one per stream."""
        ...

    def triton(self, flags: Flags) -> Tensor:
        """`[N, H, Dv]`."""
        ...

    def reference(self) -> Tensor:
        """`[N, H, Dv]`."""
        ...

    def oracle(self) -> Tensor:
        """`[N, H, Dv]` fp64."""
        ...


@dataclass(frozen=True)
class DenseWorkload:
    """`Q[N, H, D], K[N, L, D], V[N, L, Dv]`."""

    Q: Tensor
    K: Tensor
    V: Tensor
    level: str = "kernel"
    reference_name: str = "packed_sdpa"

    @property
    def rows(self) -> Tensor:
        return self.Q

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        return self.K.flatten(0, 1), self.V.flatten(0, 1)

    def with_keys(self, K: Tensor, V: Tensor) -> DenseWorkload:
        return replace(self, K=K.view_as(self.K), V=V.view_as(self.V))

    def places(self) -> Mapping[str, Tensor]:
        N, L = self.K.shape[:2]
        bounds = torch.arange(N + 1, device=self.K.device) * L
        return _places(bounds)

    def split(self, parts: int) -> list[Workload]:
        return [replace(self, Q=self.Q[r], K=self.K[r], V=self.V[r]) for r in _parts(self.Q, parts)]

    def triton(self, flags: Flags) -> Tensor:
        launcher = op.sel_attn_fwd_dense_group if flags.group else op.sel_attn_fwd_dense
        return launcher(self.Q, self.K, self.V, flags=flags)

    def reference(self) -> Tensor:
        return dense_attention_packed(self.Q, self.K, self.V)

    def oracle(self) -> Tensor:
        return dense_attention_oracle(self.Q, self.K, self.V)


@dataclass(frozen=True)
class VarlenWorkload:
    """`Q[N, H, D]`, keys end to end for Triton, and the same keys padded for SDPA."""

    Q: Tensor
    K_all: Tensor
    V_all: Tensor
    cu_seqlens: Tensor
    L: int
    padded: tuple[Tensor, Tensor, Tensor | None]
    level: str = "kernel"
    reference_name: str = "packed_sdpa"

    @classmethod
    def build(cls, Q: Tensor, K_all: Tensor, V_all: Tensor, cu: Tensor, L: int) -> VarlenWorkload:
        """Pad for SDPA here, outside any timed region: both sides get packed rows."""
        N = Q.shape[0]
        if K_all.shape[0] == N * L:  # no row is longer than L, so all are equally long
            padded = (K_all.view(N, L, -1), V_all.view(N, L, -1), None)
            return cls(Q, K_all, V_all, cu, L, padded)
        padded = pad_varlen(K_all, V_all, cu, L)
        return cls(Q, K_all, V_all, cu, L, padded, reference_name="packed_sdpa.masked")

    @property
    def rows(self) -> Tensor:
        return self.Q

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        return self.K_all, self.V_all

    def with_keys(self, K: Tensor, V: Tensor) -> VarlenWorkload:
        return self.build(self.Q, K, V, self.cu_seqlens, self.L)

    def places(self) -> Mapping[str, Tensor]:
        return _places(self.cu_seqlens.long())

    def split(self, parts: int) -> list[Workload]:
        def part(rows: slice) -> VarlenWorkload:
            cu = self.cu_seqlens[rows.start : rows.stop + 1]
            first, end = int(cu[0]), int(cu[-1])
            padded = tuple(None if p is None else p[rows] for p in self.padded)
            return replace(
                self,
                Q=self.Q[rows],
                K_all=self.K_all[first:end],
                V_all=self.V_all[first:end],
                cu_seqlens=cu - first,
                padded=padded,
            )

        return [part(rows) for rows in _parts(self.Q, parts)]

    def triton(self, flags: Flags) -> Tensor:
        launcher = op.sel_attn_fwd_varlen_group if flags.group else op.sel_attn_fwd_varlen
        return launcher(self.Q, self.K_all, self.V_all, self.cu_seqlens, flags=flags)

    def reference(self) -> Tensor:
        return dense_attention_packed(self.Q, *self.padded)

    def oracle(self) -> Tensor:
        return varlen_attention_oracle(self.Q, self.K_all, self.V_all, self.cu_seqlens)


@dataclass(frozen=True)
class OperatorWorkload:
    """`Q, K, V, ranges` over one shared cache.

    `Q[N, H, D]`, `K[S_kv, D]`, `V[S_kv, Dv]`, `ranges[N, n, 2]`. A decode step is
    `B=1, S=1, G=N`: one query per sequence, the cache shared by stride 0. Otherwise the rows are
    `B=1, S=N, G=1`: a prefill.
    """

    Q: Tensor
    K: Tensor
    V: Tensor
    ranges: Tensor
    L: int
    decode: bool
    level: str = "operator"
    reference_name: str = "grouped_selection_attention_packed"

    @property
    def rows(self) -> Tensor:
        return self.Q

    @property
    def keys(self) -> tuple[Tensor, Tensor]:
        return self.K, self.V

    def with_keys(self, K: Tensor, V: Tensor) -> OperatorWorkload:
        return replace(self, K=K, V=V)

    def places(self) -> Mapping[str, Tensor]:
        names = ("first", "middle", "last")
        found = {name: [-1] * self.Q.shape[0] for name in names}
        for row in sorted({0, self.Q.shape[0] // 2, self.Q.shape[0] - 1}):
            keys = selected_keys(self.ranges[row].tolist(), self.K.shape[0])
            for name, key in zip(names, (keys[0], keys[len(keys) // 2], keys[-1]), strict=True):
                if key not in found[name]:  # rows share the cache: one row changes a key
                    found[name][row] = key
        return {name: torch.tensor(keys, device=self.K.device) for name, keys in found.items()}

    def split(self, parts: int) -> list[Workload]:
        return [replace(self, Q=self.Q[r], ranges=self.ranges[r]) for r in _parts(self.Q, parts)]

    def triton(self, flags: Flags) -> Tensor:
        out = op.selection_attention_triton(*self._operands(), max_len=self.L, flags=flags)
        return out.view(*self.Q.shape[:2], -1)

    def reference(self) -> Tensor:
        out = grouped_selection_attention_packed(*self._operands(), max_len=self.L)
        return out.view(*self.Q.shape[:2], -1)

    def oracle(self) -> Tensor:
        return selection_attention_oracle(*self._operands()).view(*self.Q.shape[:2], -1)

    def _operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        N = self.Q.shape[0]
        if not self.decode:
            return (
                self.Q[None, :, None],
                self.K[None, None],
                self.V[None, None],
                self.ranges[None, :, None],
            )
        K = self.K.expand(1, N, *self.K.shape)
        V = self.V.expand(1, N, *self.V.shape)
        return self.Q[None, None], K, V, self.ranges[None, None]


def kernel_workload(shape: Shape) -> Workload:
    """Packed rows for the kernel-level comparison.

    Raises:
        ValueError: fewer keys than spans.
    """
    rng = _generator(shape)
    Q = _randn(shape, rng, shape.N, shape.H, shape.D)
    if shape.dist == "few":
        K = _randn(shape, rng, shape.N, shape.L, shape.D)
        return DenseWorkload(Q, K, _randn(shape, rng, shape.N, shape.L, shape.Dv))
    lengths = [sum(spans) for spans in _span_lengths(shape, rng)]
    K_all = _randn(shape, rng, sum(lengths), shape.D)
    V_all = _randn(shape, rng, sum(lengths), shape.Dv)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(shape.device, torch.int32)
    return VarlenWorkload.build(Q, K_all, V_all, cu_seqlens, shape.L)


def operator_workload(shape: Shape, *, decode: bool) -> Workload:
    """Ranges over one shared cache for the operator-level comparison.

    Raises:
        ValueError: fewer keys than spans.
    """
    rng = _generator(shape)
    S_kv = CACHE_FACTOR * shape.L
    ranges = torch.zeros(shape.N, shape.nspans, 2, dtype=torch.int32)
    for row, spans in enumerate(_span_lengths(shape, rng)):
        room = S_kv // len(spans)  # one span in each: disjoint, and far apart
        for i, length in enumerate(spans):
            gap = int(torch.randint(0, room - length + 1, (), generator=rng))
            ranges[row, i, 0] = i * room + gap
            ranges[row, i, 1] = i * room + gap + length
    return OperatorWorkload(
        _randn(shape, rng, shape.N, shape.H, shape.D),
        _randn(shape, rng, S_kv, shape.D),
        _randn(shape, rng, S_kv, shape.Dv),
        ranges.to(shape.device),
        shape.L,
        decode,
    )


def _span_lengths(shape: Shape, rng: torch.Generator) -> list[list[int]]:
    if shape.nspans > shape.L:
        raise ValueError(f"L={shape.L} is less than the {shape.nspans} spans of a row")
    rows = []
    for row in range(shape.N):
        total, spans = shape.L, shape.nspans
        if shape.dist == "mixed":
            spans = 1 if row % 2 == 0 else MANY_SPANS
            if row > 0:  # row 0 is the longest
                total = int(torch.randint(spans, shape.L + 1, (), generator=rng))
        rows.append([total // spans + (i < total % spans) for i in range(spans)])
    return rows


def _generator(shape: Shape) -> torch.Generator:
    # on the CPU: the same inputs on every device
    return torch.Generator().manual_seed(shape.seed * 1_000_003 + shape.L)


def _randn(shape: Shape, rng: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=rng).to(shape.device, shape.dtype)


def _parts(rows: Tensor, parts: int) -> list[slice]:
    N = rows.shape[0]
    bounds = [N * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _places(bounds: Tensor) -> Mapping[str, Tensor]:
    first, last = bounds[:-1], bounds[1:] - 1
    empty = last < first
    named = {"first": first, "middle": (first + last) // 2, "last": last}
    return {name: torch.where(empty, -1, place) for name, place in named.items()}

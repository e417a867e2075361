"""Rows to time and a clock for them, for `kernels.tune` and `benchmarks.rows`.

Independent of `kernels.bench` on purpose: two harnesses that share no clock can check each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.capture import captured
from kernels.selection import op
from kernels.selection.flags import Flags
from kernels.selection.reference import (
    dense_attention_oracle,
    selection_attention_oracle,
    varlen_attention_oracle,
)
from kernels.selection.tuning import LaunchParams

SPANS = 8
"""Ranges of a row of the form `ranges`."""
CACHE_FACTOR = 4
"""Keys in the cache of such a row, per selected key."""


@dataclass(frozen=True)
class Rows:
    """Inputs of one launch in one of the three forms.

    `dense`: `Q[N, H, D]`, `K[N, L, D]`, `V[N, L, Dv]`. `varlen`: `K[keys, D]`, `V[keys, Dv]`, and
    `index` is `cu_seqlens[N + 1]`. `ranges`: the shapes of the operator, and `index` is `ranges`.
    """

    form: str
    L: int
    """Keys of the longest row."""
    Q: Tensor
    K: Tensor
    V: Tensor
    index: Tensor | None = None

    def triton(self, flags: Flags, params: LaunchParams | None = None) -> Tensor:
        """What the group kernel gives."""
        if self.form == "dense":
            return op.sel_attn_fwd_dense_group(self.Q, self.K, self.V, flags=flags, params=params)
        assert self.index is not None
        if self.form == "varlen":
            return op.sel_attn_fwd_varlen_group(
                self.Q, self.K, self.V, self.index, max_len=self.L, flags=flags, params=params
            )
        return op.sel_attn_fwd_ranges(
            self.Q, self.K, self.V, self.index,
            group=True, max_len=self.L, flags=flags, params=params,
        )  # fmt: skip

    def oracle(self) -> Tensor:
        """The same in fp64."""
        if self.form == "dense":
            return dense_attention_oracle(self.Q, self.K, self.V)
        assert self.index is not None
        oracle = varlen_attention_oracle if self.form == "varlen" else selection_attention_oracle
        return oracle(self.Q, self.K, self.V, self.index)

    def starts_and_lengths(self) -> tuple[Tensor, Tensor]:
        """`[N, n]` int64 each: the runs of keys of each row, counted in the flattened K."""
        if self.form == "dense":
            N, L = self.K.shape[:2]
            starts = torch.arange(N, device=self.K.device)[:, None] * L
            return starts, torch.full_like(starts, L)
        assert self.index is not None
        if self.form == "varlen":
            bounds = self.index.long()
            return bounds[:-1, None], (bounds[1:] - bounds[:-1])[:, None]
        B, _, G, n, _ = self.index.shape
        cache = torch.arange(B, device=self.K.device).view(B, 1, 1, 1) * G
        cache = cache + torch.arange(G, device=self.K.device).view(1, 1, G, 1)
        spans = self.index.long()
        starts = cache * self.K.shape[2] + spans[..., 0]
        return starts.view(-1, n), (spans[..., 1] - spans[..., 0]).view(-1, n)

    def bytes_read(self) -> int:
        """Bytes of K and V that the rows select, each counted once."""
        keys = int(self.starts_and_lengths()[1].sum())
        return keys * (self.K.shape[-1] + self.V.shape[-1]) * self.K.element_size()


def dense_rows(N: int, H: int, D: int, Dv: int, L: int, *, like: Tensor) -> Rows:
    """`N` rows of `L` keys each; dtype and device are those of `like`."""
    return Rows("dense", L, _randn(like, N, H, D), _randn(like, N, L, D), _randn(like, N, L, Dv))


def varlen_rows(N: int, H: int, D: int, Dv: int, L: int, *, ragged: bool, like: Tensor) -> Rows:
    """Rows end to end: of `L` keys each, or of 1 to `2 L - 1`."""
    lengths = torch.randint(1, 2 * L, (N,)) if ragged else torch.full((N,), L)
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(like.device, torch.int32)
    keys = int(lengths.sum())
    Q, K, V = _randn(like, N, H, D), _randn(like, keys, D), _randn(like, keys, Dv)
    return Rows("varlen", int(lengths.max()), Q, K, V, cu)


def ranges_rows(
    N: int, H: int, D: int, Dv: int, L: int, *, like: Tensor, G: int = 1, S_kv: int | None = None
) -> Rows:
    """The operator's rows, `B=N, S=1`: 8 disjoint ranges of a cache, together `L` keys."""
    S_kv = S_kv or CACHE_FACTOR * L
    room, width = S_kv // SPANS, L // SPANS
    start = torch.randint(0, room - width + 1, (N, 1, G, SPANS)) + torch.arange(SPANS) * room
    ranges = torch.stack([start, start + width], dim=-1).to(like.device, torch.int32)
    Q = _randn(like, N, 1, G, H, D)
    return Rows("ranges", L, Q, _randn(like, N, G, S_kv, D), _randn(like, N, G, S_kv, Dv), ranges)


def _randn(like: Tensor, *size: int) -> Tensor:
    # a generator of its own: a capture that fails leaves torch's default one of the device unusable
    rng = torch.Generator(like.device).manual_seed(int(torch.randint(2**31, ())))
    return torch.randn(size, generator=rng, device=like.device, dtype=like.dtype)


class ColdClock:
    """Device time of a call whose inputs are in DRAM, by CUDA graphs.

    One graph holds `repeats` times a pass over a buffer of twice the L2 and then the call, another
    the passes alone; the difference is the calls. The passes read: written lines would have to go
    back to DRAM while the call runs. A graph leaves out what the host takes to launch.
    """

    def __init__(self, device: torch.device, *, repeats: int = 20, rounds: int = 15) -> None:
        properties = torch.cuda.get_device_properties(device)
        # named l2_cache_size or L2_cache_size by the torch version
        size = getattr(properties, "L2_cache_size", getattr(properties, "l2_cache_size", 0))
        self._cold = torch.zeros(max(2 * size, 2**26) // 4, dtype=torch.int32, device=device)
        self._sink = torch.zeros((), dtype=torch.int32, device=device)
        self.repeats, self.rounds = repeats, rounds
        self._passes = self._graph(lambda: None)

    def microseconds(
        self, call: Callable[[], object], *, hopeless: float = math.inf
    ) -> tuple[float, float]:
        """Median and half the spread of the middle half, of one call.

        What takes longer than `hopeless` the first two times is not measured any further.
        """
        call()  # compiled, and its memory found, before the capture
        graph = self._graph(call)
        times = []
        for round_ in range(self.rounds + 2):
            found = self._replay(graph) - self._replay(self._passes)
            us = 1e3 * found / self.repeats
            if round_ == 1 and us > hopeless:
                return us, 0.0
            if round_ >= 2:  # the first ones warm up
                times.append(us)
        low, _, high = statistics.quantiles(times, n=4)
        return statistics.median(times), (high - low) / 2

    def _graph(self, call: Callable[[], object]) -> torch.cuda.CUDAGraph:
        torch.amax(self._cold, 0, out=self._sink)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with captured(graph):
            for _ in range(self.repeats):
                torch.amax(self._cold, 0, out=self._sink)
                call()
        return graph

    def _replay(self, graph: torch.cuda.CUDAGraph) -> float:
        """Milliseconds of one replay."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))


def worst(out: Tensor, oracle: Tensor) -> float:
    """Largest absolute error; NaN is infinite."""
    error = float((out.double() - oracle.view_as(out)).abs().max())
    return math.inf if math.isnan(error) else error

"""The floor that memory sets: a kernel that reads the same keys and values and computes nothing."""

# ruff: noqa: N803, N806 - X, Y are the field's names

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.measure import Rows


@triton.jit
def probe(  # type: ignore[no-untyped-def] # noqa: ANN201
    X,  # noqa: ANN001 - int32 words: the keys
    Y,  # noqa: ANN001 - likewise, the values
    STARTS,  # noqa: ANN001 - [rows, runs] int64: the first key of each run
    LENGTHS,  # noqa: ANN001 - [rows, runs] int64: in keys
    OUT,  # noqa: ANN001 - [rows] int32
    runs,  # noqa: ANN001
    WORDS_X: tl.constexpr,  # of a key
    WORDS_Y: tl.constexpr,
    RUNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Reads the runs of one row and stores the sum of their words: no read can be left out."""
    row = tl.program_id(0).to(tl.int64)
    offs_r = tl.arange(0, RUNS)
    offs_w = tl.arange(0, WIDTH)
    start = tl.load(STARTS + row * runs + offs_r, mask=offs_r < runs, other=0)
    length = tl.load(LENGTHS + row * runs + offs_r, mask=offs_r < runs, other=0)
    longest = tl.max(length, 0).to(tl.int32)
    total = tl.zeros([RUNS, WIDTH], tl.int32)
    for at in range(0, longest * WORDS_X, WIDTH):
        word = (at + offs_w)[None, :]
        within = word < length[:, None] * WORDS_X
        total += tl.load(X + start[:, None] * WORDS_X + word, mask=within, other=0)
    for at in range(0, longest * WORDS_Y, WIDTH):
        word = (at + offs_w)[None, :]
        within = word < length[:, None] * WORDS_Y
        total += tl.load(Y + start[:, None] * WORDS_Y + word, mask=within, other=0)
    tl.store(OUT + row, tl.sum(tl.sum(total, 1), 0))


def probe_call(rows: Rows, width: int, warps: int) -> Callable[[], Tensor]:
    """A call that reads K and V of these rows; gives the sum of the words of each, `[rows]`."""
    starts, lengths = (index.contiguous() for index in cut(*rows.starts_and_lengths()))
    out = torch.empty(len(starts), dtype=torch.int32, device=starts.device)
    X, Y = rows.K.view(torch.int32), rows.V.view(torch.int32)
    runs = starts.shape[1]

    def call() -> Tensor:
        probe[(len(starts),)](
            X, Y, starts, lengths, out, runs,
            WORDS_X=X.shape[-1], WORDS_Y=Y.shape[-1],
            RUNS=triton.next_power_of_2(runs), WIDTH=width, num_warps=warps,
        )  # fmt: skip
        return out

    return call


def cut(starts: Tensor, lengths: Tensor, pieces: int = 8) -> tuple[Tensor, Tensor]:
    """Runs of keys as `pieces` a row, so that a row that is one run is read at several places."""
    if starts.shape[1] > 1:
        return starts, lengths
    at = torch.arange(pieces + 1, device=starts.device)
    bounds = lengths * at // pieces
    return starts + bounds[:, :-1], bounds[:, 1:] - bounds[:, :-1]

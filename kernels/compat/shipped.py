"""The shapes that drive the launchers through every kernel and every shipped configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.selection import op
from kernels.selection.flags import Flags
from kernels.selection.tuning import read_table

from .launches import Launch, recorded
from .targets import Target

DOCUMENT_DIMS = (128, 128)
OTHER_DIMS = ((64, 64), (96, 96), (100, 100), (192, 128), (192, 192))
"""Some padded to a tile, one with rows that are 8-byte aligned only, and the paper's."""
LONG = 4096
"""Keys, where the tuning table sets no bound."""
ROWS = 1024
"""More than any bound of the tuning table."""
FEW_ROWS = 256
"""Enough that none is split."""
DOUBLE_BUFFER = replace(Flags(), double_buffer=True)


@dataclass(frozen=True)
class Shape:
    """One call of each launcher."""

    D: int
    Dv: int
    heads: int = 8
    length: int = 64
    """Keys a row has, or selects."""
    rows: int = ROWS
    dtype: torch.dtype = torch.float16
    group: bool = True
    lengths: bool = False
    flags: Flags = Flags()  # noqa: RUF009 - frozen
    kernel: str = "any"
    """`dense`, `varlen`, `ranges` or `any`, as in the tuning table."""


def launches(target: Target) -> list[Launch]:
    """All that the operator would launch on this target, with the Triton that is installed."""
    shapes = [*_table(target), *_document(), *_variants()]
    with recorded(target) as found:
        for shape in shapes:
            _call(shape)
    return found


def quick(target: Target) -> list[Launch]:
    """What the document's benchmark launches, every kernel included: for CI."""
    with recorded(target) as found:
        for shape in _document():
            _call(shape)
    return found


def _table(target: Target) -> Iterator[Shape]:
    """Each entry of the tuning table at its widest."""
    for entry in read_table():
        if entry.capability == target.capability:
            yield Shape(
                entry.D,
                entry.Dv,
                entry.H,
                entry.L or LONG,
                entry.N or ROWS,
                dtype=torch.float16 if entry.bits == 16 else torch.float32,
                kernel=entry.kernel,
            )


def _document() -> Iterator[Shape]:
    shape = Shape(*DOCUMENT_DIMS)
    yield shape
    yield replace(shape, length=1024)
    yield replace(shape, rows=FEW_ROWS)
    yield replace(shape, flags=DOUBLE_BUFFER, kernel="ranges")
    yield replace(shape, lengths=True, kernel="dense")
    yield replace(shape, group=False, kernel="dense")
    yield replace(shape, rows=4, heads=16, length=1024)  # decode: rows are split


def _variants() -> Iterator[Shape]:
    for D, Dv in OTHER_DIMS:
        yield Shape(D, Dv)
        yield Shape(D, Dv, rows=FEW_ROWS)
    shape = Shape(*DOCUMENT_DIMS)
    yield replace(shape, dtype=torch.bfloat16)
    yield replace(shape, group=False)
    yield replace(shape, flags=DOUBLE_BUFFER)
    yield replace(shape, dtype=torch.float32, flags=DOUBLE_BUFFER)
    yield replace(shape, rows=4, heads=16, length=1024, dtype=torch.float32)


def _call(shape: Shape) -> None:
    for kernel, call in (("dense", _dense), ("varlen", _varlen), ("ranges", _ranges)):
        if shape.kernel in (kernel, "any"):
            call(shape)


def _dense(shape: Shape) -> None:
    launcher = op.sel_attn_fwd_dense_group if shape.group else op.sel_attn_fwd_dense
    lengths = torch.full((shape.rows,), shape.length, device="cuda") if shape.lengths else None
    launcher(
        _tensor(shape, shape.rows, shape.heads, shape.D),
        _tensor(shape, shape.rows, shape.length, shape.D),
        _tensor(shape, shape.rows, shape.length, shape.Dv),
        lengths=lengths,
        flags=shape.flags,
    )


def _varlen(shape: Shape) -> None:
    launcher = op.sel_attn_fwd_varlen_group if shape.group else op.sel_attn_fwd_varlen
    for longest in (None, shape.length):  # ragged for all that is known, and equal
        launcher(
            _tensor(shape, shape.rows, shape.heads, shape.D),
            _tensor(shape, shape.rows * shape.length, shape.D),
            _tensor(shape, shape.rows * shape.length, shape.Dv),
            torch.arange(shape.rows + 1, dtype=torch.int32, device="cuda") * shape.length,
            max_len=longest,
            flags=shape.flags,
        )


def _ranges(shape: Shape) -> None:
    spans, cache = 8, 4 * shape.length
    op.sel_attn_fwd_ranges(
        _tensor(shape, shape.rows, 1, 1, shape.heads, shape.D),
        _tensor(shape, shape.rows, 1, cache, shape.D),
        _tensor(shape, shape.rows, 1, cache, shape.Dv),
        torch.zeros(shape.rows, 1, 1, spans, 2, dtype=torch.int32, device="cuda"),
        group=shape.group,
        max_len=shape.length,
        flags=shape.flags,
    )


def _tensor(shape: Shape, *sizes: int) -> Tensor:
    """Memory that nothing writes: large ones cost nothing."""
    return torch.empty(sizes, dtype=shape.dtype, device="cuda")

"""Selection attention by torch's flex_attention: the strongest that torch has without our kernels.

Nothing is gathered. Every row `(b, s, g)` reads, of the cache where it lies, the blocks of `BLOCK`
keys that its ranges touch, and masks what it did not select there. torch compiles that to one
kernel, and the lists of touched blocks to a few small ones, made from the ranges alone:
`create_block_mask` would evaluate the mask for every row, head and key.

**What is compiled, and how often.** To compile takes seconds, so it must not come with every call.
All shapes are compiled in (for any shape flex_attention was four times slower on an H200: torch
then takes a kernel with tiles of 128 queries, of which a row has `h`), but for the one that changes
with every token of a decode, the length of the cache:

- The first length of a shape is compiled in. At the second, the shape is compiled once more, for
  every length.
- The number of queries is padded to a power of two, by rows that select nothing.
- A process compiles `MAX_SHAPES` shapes. What comes after them, or failed to build, or would have
  to be built while a CUDA graph is captured, is refused, and dispatch takes the packed path.

**What is not in the ranges.** Keys that are not selected may hold anything. *Values* must be finite
in every block that a row touches: a masked value has the weight 0, and 0 * NaN is NaN. So it is
with every masked attention of torch; the packed path and the Triton kernels read no such value.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_lists import BLOCK, block_lists
from .errors import (
    KernelBuildError,
    Misaligned,
    Unsupported,
    UnsupportedDevice,
    UnsupportedDtype,
    UnsupportedGrad,
    UnsupportedShape,
)
from .packing import check_inputs, slot_capacity, wants_grad
from .tuning import MAX_SPLITS, SPLIT_KEYS, split_count

MAX_SHAPES = 64
"""That a process compiles, those that fail to build among them."""
MAX_ROWS = 32768
"""Rows of one call: CUDA has them on a grid axis that ends at 65535."""
MAX_RANGES = 64
"""Of a row: the mask compares each key of a touched block with each of them."""
MAX_HEADS = 127
"""Of a row, as its queries: from 128 on flex_attention takes another kernel."""
HEAD_DIMS = range(16, 257)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ALIGNMENT = 16
"""Bytes. A cache that begins elsewhere would be copied as a whole by compiled code."""

_ROW_TILE = 128
"""Queries of a row are one tile of the block lists, however few."""
_MMA_ROWS = 16
"""Heads of a row that fill one operand of a matrix instruction."""
_STAGES = (3, 2)
"""Blocks in flight: as many as fit in shared memory."""

_Shape = tuple[object, ...]

_first: dict[_Shape, int] = {}
"""The length that is compiled in, by shape."""
_built: set[tuple[_Shape, bool]] = set()
"""Shapes that are ready: for their first length, or (True) for any."""
_failed: dict[tuple[object, ...], str] = {}
"""Why a kind of kernel cannot be built; one attempt stands for all shapes that would share it."""


def selection_attention_flex(
    Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor, *, max_len: int | None = None
) -> Tensor:
    """Selection attention by `flex_attention`, compiled; forward only.

    Never waits for the device. A CUDA graph can hold a call whose shape was called before.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`, finite in the blocks that are touched.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty.
        max_len: a row that selects more keys gets NaN, as on the packed path.

    Returns:
        `[B, S, G, h, Dv]`, dtype of Q; zeros for a row that selects nothing.

    Raises:
        InvalidInput: the tensors contradict each other, or `max_len < 1`.
        Unsupported: it cannot serve this call; the message says why.
    """
    check_inputs(Q, K, V, ranges)
    slot_capacity(K.shape[2], max_len)
    _refuse(Q, K, V, ranges)
    B, S, G = Q.shape[:3]
    # what autocast and autograd change is compiled anew
    with torch.no_grad(), torch.autocast(Q.device.type, enabled=False):
        if S == 1:
            Q, ranges = Q[:, 0], ranges[:, 0]
            step = MAX_ROWS // G
            parts = [
                _attend(Q[at], K[at], V[at], ranges[at], max_len)
                for at in (slice(first, first + step) for first in range(0, B, step))
            ]
            return _joined(parts)[:, None].contiguous()
        K, V = _as_one(K), _as_one(V)
        Q, ranges = Q.transpose(0, 1).flatten(1, 2), ranges.transpose(0, 1).flatten(1, 2)
        step = 1 << (MAX_ROWS // (B * G)).bit_length() - 1
        parts = []
        for first in range(0, S, step):
            rows = min(S - first, step)
            short = _power_of_two(rows) - rows
            q, spans = (X[first : first + rows] for X in (Q, ranges))
            if short:  # of zeros: an empty range each
                q = F.pad(q, (0, 0) * 3 + (0, short))
                spans = F.pad(spans, (0, 0) * 3 + (0, short))
            parts.append(_attend(q, K, V, spans, max_len)[:rows])
        out = _joined(parts)
        return out.view(S, B, G, *out.shape[2:]).transpose(0, 1).contiguous()


def _refuse(Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor) -> None:
    """Raise `Unsupported` for what would not build, or would build but not be worth it."""
    B, S, G, h, Dk = Q.shape
    S_kv, Dv = V.shape[2:]
    n = ranges.shape[3]
    if torch.compiler.is_compiling():
        raise Unsupported("it cannot be built while a model around it is traced")
    if wants_grad(Q, K, V):
        raise UnsupportedGrad("inputs require grad, and it has no backward here")
    if Q.device.type not in ("cuda", "cpu"):
        raise UnsupportedDevice(f"it is not built for {Q.device.type} tensors")
    if Q.is_cuda and importlib.util.find_spec("triton") is None:
        raise UnsupportedDevice("torch needs Triton to build it, which is not installed")
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        raise UnsupportedDevice(f"torch {torch.__version__} does not have it")
    if Q.dtype not in DTYPES:
        raise UnsupportedDtype(f"it computes fp16, bf16 and fp32, got {Q.dtype}")
    if 0 in (B, S, G, h, n) or S_kv < 2:
        raise UnsupportedShape("there is next to nothing to compute")
    if Dk not in HEAD_DIMS or Dv not in HEAD_DIMS:
        raise UnsupportedShape(f"head dimensions must be 16 to 256, got {Dk} and {Dv}")
    if h > MAX_HEADS:
        raise UnsupportedShape(f"a row may have {MAX_HEADS} heads, got {h}")
    if n > MAX_RANGES:
        raise UnsupportedShape(f"a row may have {MAX_RANGES} ranges, got {n}")
    if (G if S == 1 else B * G) > MAX_ROWS:
        raise UnsupportedShape(f"a query may have {MAX_ROWS} rows, got {B} x {G}")
    for name, X in (("K", K), ("V", V)):
        if X.data_ptr() % ALIGNMENT:
            raise Misaligned(f"{name} does not begin on {ALIGNMENT} bytes")


def _as_one(X: Tensor) -> Tensor:
    """`[B, G, S_kv, D]` as `[1, B * G, S_kv, D]`, which all queries share, in place."""
    try:
        return X.view(1, X.shape[0] * X.shape[1], *X.shape[2:])
    except RuntimeError:
        raise UnsupportedShape(
            f"several queries and a batch, whose caches (strides {list(X.stride())}) "
            "cannot be seen as one without a copy"
        ) from None


def _power_of_two(number: int) -> int:
    """The smallest that is at least `number`."""
    return 1 << (number - 1).bit_length()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor, max_len: int | None) -> Tensor:
    """`Q[Z, H, h, Dk]`, `K[Z or 1, H, S_kv, Dk]`, `ranges[Z, H, n, 2]` to `[Z, H, h, Dv]`.

    Compiles where it must: see the text of this module.
    """
    shape: _Shape = (
        *(_layout(X) for X in (Q, K, V, ranges)),
        (Q.shape[2], ranges.shape[2]),
        max_len,
        torch.is_inference_mode_enabled(),
    )
    first = _first.get(shape, K.shape[2])
    any_length = K.shape[2] != first
    kind = (Q.device, Q.dtype, Q.shape[2:], V.shape[3], any_length)
    if kind in _failed:
        raise KernelBuildError(_failed[kind])
    building = (shape, any_length) not in _built
    if building:
        if _capturing(Q.device):
            raise Unsupported(
                "this shape has not been built, and cannot be while a CUDA graph is captured: "
                "call it once before"
            )
        if len(_built) + len(_failed) >= MAX_SHAPES:
            raise Unsupported(f"{MAX_SHAPES} shapes have been built, and a process builds no more")
    try:
        out = _run(Q, K, V, ranges, max_len, any_length=any_length, building=building)
    except Exception as error:
        if not _while_building(error):
            raise
        _failed[kind] = f"it did not build: {_one_line(error)}"
        raise KernelBuildError(_failed[kind]) from error
    if building:
        _first[shape] = first
        _built.add((shape, any_length))
    return out


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _layout(X: Tensor) -> _Shape:
    """What of a tensor is compiled in, but for its third dimension, the length of a cache."""
    Z, H, length, D = X.shape
    # stricter than is_contiguous, which does not look at the stride of a dimension of 1
    whole = X.stride() == (H * length * D, length * D, D, 1)
    return X.device, X.dtype, Z, H, D, "contiguous" if whole else X.stride()


def _run(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    max_len: int | None,
    *,
    any_length: bool,
    building: bool,
) -> Tensor:
    lists, attend = _functions()
    dynamo = importlib.import_module("torch._dynamo")
    K, V = K.detach(), V.detach()  # the marks belong to this call
    with _many_shapes(dynamo.config) if building else contextlib.nullcontext():
        if any_length:
            dynamo.maybe_mark_dynamic(K, 2)
            dynamo.maybe_mark_dynamic(V, 2)
        bounds, counts, blocks, lengths = lists(ranges, K)
        if any_length:
            dynamo.maybe_mark_dynamic(blocks, 3)
        # behind its C++ kernel torch lets nothing follow in the same graph
        in_graph = max_len if Q.is_cuda else None
        options = _kernel_options(Q.device, Q.element_size(), *Q.shape, V.shape[3])
        out: Tensor = attend(Q, K, V, bounds, counts, blocks, lengths, in_graph, options)
    return out if in_graph == max_len else _without(out, lengths > max_len)


@functools.cache
def _kernel_options(
    device: torch.device, itemsize: int, Z: int, H: int, h: int, Dk: int, Dv: int
) -> dict[str, Any] | None:
    """What flex_attention is to launch where torch's own choice is the slower one, or None.

    For so few queries torch takes its kernel for decoding, which splits each row and combines the
    parts. Where rows alone fill the device, the other kernel, in tiles of 16 queries, takes less:
    0.6 to 1.07 of that on an H200, 0.86 in the middle, N 256 and 1024, h 8, D 64 and 128
    (reports/h200-2026-11-24/fallback.md). Nothing else was measured, and there torch chooses.
    """
    if device.type != "cuda" or h > _MMA_ROWS:
        return None
    properties = torch.cuda.get_device_properties(device)
    if split_count(Z * H, MAX_SPLITS * SPLIT_KEYS, properties.multi_processor_count) > 1:
        return None
    # 48 KB is what every card has
    shared = getattr(properties, "shared_memory_per_block_optin", 48 * 1024)
    sides = [_power_of_two(D) for D in (Dk, Dv)]
    for stages in _STAGES:
        if (stages * BLOCK * sum(sides) + _MMA_ROWS * sides[0]) * itemsize <= shared:
            tiles = {"BLOCK_M": _MMA_ROWS, "BLOCK_N": BLOCK, "num_warps": 4, "num_stages": stages}
            return {"FORCE_USE_FLEX_ATTENTION": True, **tiles}
    return None


def _many_shapes(config: Any) -> contextlib.AbstractContextManager[object]:
    """Torch gives up after a few shapes of a function, unless it is told."""
    limit = "recompile_limit"
    if not hasattr(config, limit):
        limit = "cache_size_limit"  # its name before torch 2.6
    found: contextlib.AbstractContextManager[object] = config.patch({limit: 4 * MAX_SHAPES})
    return found


def _without(out: Tensor, too_long: Tensor) -> Tensor:
    """NaN in the rows `[Z, H]` of `[Z, H, h, Dv]`."""
    return torch.where(too_long[..., None, None], math.nan, out)


def _while_building(error: Exception) -> bool:
    """Whether torch's compiler or Triton's raised it; a device in trouble must not be hidden."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    modules = {kind.__module__ for kind in type(error).__mro__}
    makers = ("torch._dynamo", "torch._inductor", "triton")
    return "No valid triton configs" in str(error) or any(m.startswith(makers) for m in modules)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@functools.cache
def _functions() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`block_lists`, and what attends by them, compiled; to import either loads torch's compiler.

    They are two, because flex_attention wants what its mask reads to lie in memory.
    """
    attend = masked_attention()
    try:
        return (
            torch.compile(block_lists, dynamic=False, fullgraph=True),
            torch.compile(attend, dynamic=False, fullgraph=True),
        )
    except RuntimeError as error:  # a Python that torch's compiler does not know
        raise UnsupportedDevice(f"it cannot be built: {_one_line(error)}") from error


def masked_attention() -> Callable[..., Tensor]:
    """The function that attends by block lists, not yet compiled.

    Raises:
        UnsupportedDevice: flex_attention of this torch takes no such lists.
    """
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    known = inspect.signature(flex.BlockMask.from_kv_blocks).parameters
    if "seq_lengths" not in known:
        raise UnsupportedDevice(f"torch {torch.__version__} takes no block lists of any length")
    # the transposed lists are for a backward
    forward_only = {"compute_q_blocks": False} if "compute_q_blocks" in known else {}

    def attend(
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        bounds: Tensor,
        counts: Tensor,
        blocks: Tensor,
        lengths: Tensor,
        max_len: int | None,
        options: dict[str, Any] | None,
    ) -> Tensor:
        def selected(row: Tensor, group: Tensor, head: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
            found = (key >= bounds[row, group, 0, 0]) & (key < bounds[row, group, 0, 1])
            for i in range(1, bounds.shape[2]):
                start, end = bounds[row, group, i, 0], bounds[row, group, i, 1]
                found = found | ((key >= start) & (key < end))
            return found

        mask = flex.BlockMask.from_kv_blocks(
            counts,
            blocks,
            BLOCK_SIZE=(_ROW_TILE, BLOCK),
            mask_mod=selected,
            seq_lengths=(Q.shape[2], K.shape[2]),
            **forward_only,
        )
        out: Tensor = flex.flex_attention(Q, K, V, block_mask=mask, kernel_options=options)
        return out if max_len is None else _without(out, lengths > max_len)

    return attend

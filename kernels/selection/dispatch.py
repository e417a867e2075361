"""The one place that chooses a path for selection attention, and the only one that falls back.

Triton runs when it is opted in, long enough, allowed on the device and able to serve the call. The
production default, and the fallback, is flex_attention on a CUDA device where it can serve the
call, and packed SDPA everywhere else. Which path ran, and why, is always on record:
`last_dispatch()`.
"""

from __future__ import annotations

import importlib.util
import json
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import diagnostics
from .errors import Unsupported
from .flags import Flags
from .flex import selection_attention_flex
from .packing import check_inputs, slot_capacity, wants_grad
from .reference import grouped_selection_attention_packed

PACKED = "packed_sdpa"
FLEX = "flex_attention"

_FORCED_NAMES = {"auto": "ranges", "dense": "dense", "varlen": "varlen"}

POLICY = Path(__file__).parents[1] / "configs" / "selection_devices.json"
"""Compute capabilities on which Triton stays off without `NSA_TRITON_SEL_FORCE`, and why."""


@dataclass(frozen=True)
class DispatchRecord:
    """What one call of `selection_attention` did."""

    path: str
    """`flex_attention`, `packed_sdpa`, or `triton.<ranges|dense|varlen>.<group|head>`."""
    kernels: tuple[str, ...]
    """Our Triton kernels that really started, in order; empty for a fallback."""
    reason: str
    """Why this path: of `packed_sdpa`, why not Triton, then why not flex_attention."""
    capacity: int
    """The bound on the selected length that the threshold was compared with."""


_last: ContextVar[DispatchRecord | None] = ContextVar("last_dispatch", default=None)


def last_dispatch() -> DispatchRecord | None:
    """Record of the latest call in this thread and context.

    None before the first, and after one that raised.
    """
    return _last.get()


def selection_attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    *,
    max_len: int | None = None,
    flags: Flags | None = None,
) -> Tensor:
    """Softmax attention over the union of each row's selected keys.

    Args:
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`. On flex_attention a NaN or an infinity reaches the rows that select
            a key of the same block of 64, on the other paths only those that select it.
        ranges: `[B, S, G, n, 2]`, clamped to `[0, S_kv]`; `end <= start` is empty.
        max_len: an upper bound on the keys a row selects, e.g. blocks x block size. The threshold
            is compared with it, and packed paths pad to it. None takes `S_kv`: reading the true
            length from `ranges` would stall the device on every call. A row that selects more
            than `max_len` gets NaN on the paths that pad, and on flex_attention.
        flags: None reads the environment.

    Returns:
        `[B, S, G, h, Dv]`, dtype of Q; zeros for a row that selects nothing.

    Raises:
        FlagError: an `NSA_*` variable holds a value it cannot have.
        InvalidInput: the tensors contradict each other. No path can serve that.
    """
    _last.set(None)
    flags = flags or Flags.from_env()
    check_inputs(Q, K, V, ranges)
    capacity = slot_capacity(K.shape[2], max_len)
    # a debug run times the call alone: the comparison comes after it
    timer = diagnostics.start_timer(Q.device) if flags.debug_timing else None
    out, record = _choose_and_run(Q, K, V, ranges, max_len, capacity, flags)
    milliseconds = timer() if timer else None
    _last.set(record)
    if flags.debug:
        try:
            diagnostics.log_call(
                flags,
                Q,
                K,
                V,
                ranges,
                out,
                path=record.path,
                kernels=record.kernels,
                reason=record.reason,
                milliseconds=milliseconds,
                max_len=max_len,
            )
        except Exception as error:  # noqa: BLE001 - a log must not fail the call it describes
            diagnostics.warn_once(flags.diagnostics, error)
    return out


def _choose_and_run(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    max_len: int | None,
    capacity: int,
    flags: Flags,
) -> tuple[Tensor, DispatchRecord]:
    reason = _why_not_triton(Q, K, V, ranges, capacity, flags)
    if reason is None:
        from . import op  # here: the references must work without Triton

        try:
            with op.record_launches() as kernels:
                if wants_grad(Q, K, V):
                    out = _RecomputedBackward.apply(Q, K, V, ranges, max_len, flags)
                else:
                    out = op.selection_attention_triton(
                        Q, K, V, ranges, max_len=max_len, flags=flags
                    )
        except Unsupported as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            form = "group" if flags.group else "head"
            path = f"triton.{_FORCED_NAMES[flags.force_path]}.{form}"
            why = f"selected length up to {capacity} >= threshold {flags.min_l}"
            return out, DispatchRecord(path, tuple(kernels), why, capacity)
    why_packed = _why_not_flex(Q.device, flags)
    if why_packed is None:
        try:
            out = selection_attention_flex(Q, K, V, ranges, max_len=max_len)
        except Unsupported as error:
            why_packed = f"{type(error).__name__}: {error}"
        else:
            return out, DispatchRecord(FLEX, (), reason, capacity)
    out = grouped_selection_attention_packed(Q, K, V, ranges, max_len=max_len)
    return out, DispatchRecord(PACKED, (), f"{reason}; not {FLEX}: {why_packed}", capacity)


def _why_not_flex(device: torch.device, flags: Flags) -> str | None:
    """The reason not even to ask it."""
    if flags.fallback == "packed":
        return "NSA_SEL_FALLBACK is packed"
    if flags.fallback == "auto" and device.type != "cuda":
        return f"{device.type} tensors (NSA_SEL_FALLBACK=flex overrides)"
    return None


def _why_not_triton(
    Q: Tensor, K: Tensor, V: Tensor, ranges: Tensor, capacity: int, flags: Flags
) -> str | None:
    """The first reason to stay on the packed reference; None when Triton should be tried."""
    if not flags.use_triton:
        return "NSA_USE_TRITON_SEL is off"
    if 0 in (*Q.shape[:4], K.shape[2], V.shape[3], ranges.shape[3]):
        return "there is nothing to compute"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if capacity < flags.min_l:
        return f"selected length up to {capacity} < threshold {flags.min_l} (NSA_SEL_TRITON_MIN_L)"
    if wants_grad(Q, K, V) and not flags.allow_grad:
        return "inputs require grad and NSA_SEL_TRITON_ALLOW_GRAD is off"
    if not flags.force_device:
        why = _off_by_policy(Q.device)
        if why is not None:
            return f"off by policy: {why} (NSA_TRITON_SEL_FORCE=1 overrides)"
    return None


def _off_by_policy(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"{device.type} tensors run only in Triton's interpreter, a debugging aid"
    from . import op

    if op.INTERPRETED:
        return "TRITON_INTERPRET is set, and the interpreter is a debugging aid"
    major, minor = torch.cuda.get_device_capability(device)
    return off_by_policy().get(f"{major}.{minor}")


@cache
def off_by_policy(path: Path = POLICY) -> dict[str, str]:
    """Why Triton is off, by compute capability, e.g. `8.9`; others are on.

    Raises:
        ValueError: the file is no such table; the message names the record.
    """
    found = {}
    for record in json.loads(path.read_text(encoding="utf-8"))["devices"]:
        if (
            record.keys() != {"capabilities", "triton", "why", "source"}
            or record["triton"] != "off"
        ):
            raise ValueError(f"{path}: expected capabilities, triton: off, why, source in {record}")
        found |= dict.fromkeys(record["capabilities"], record["why"])
    return found


class _RecomputedBackward(torch.autograd.Function):
    """Triton forward; the backward differentiates a recomputation by the packed reference."""

    @staticmethod
    def forward(
        ctx: Any,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        ranges: Tensor,
        max_len: int | None,
        flags: Flags,
    ) -> Tensor:
        from .op import selection_attention_triton

        ctx.save_for_backward(Q, K, V, ranges)
        ctx.max_len = max_len
        return selection_attention_triton(Q, K, V, ranges, max_len=max_len, flags=flags)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        Q, K, V, ranges = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_(w) for t, w in zip((Q, K, V), wanted, strict=True)]
            out = grouped_selection_attention_packed(*inputs, ranges, max_len=ctx.max_len)
        found = iter(torch.autograd.grad(out, [t for t in inputs if t.requires_grad], grad))
        return (*(next(found) if w else None for w in wanted), None, None, None)

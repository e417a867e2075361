"""One JSON line per call, for the `NSA_DEBUG_*` flags. Only debug runs synchronise."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .checks import max_err, mean_err
from .flags import Flags
from .packing import normalise_ranges
from .reference import grouped_selection_attention_packed


def start_timer(device: torch.device) -> Callable[[], float]:
    """Start timing; calling the result gives milliseconds, with the device's work finished."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    settle()
    began = time.perf_counter()

    def elapsed() -> float:
        settle()
        return (time.perf_counter() - began) * 1e3

    return elapsed


def bucket_of(length: int) -> int:
    """The smallest power of two that is at least `length`; 0 for 0."""
    return 1 << (length - 1).bit_length() if length > 0 else 0


def append_line(path: Path, record: Mapping[str, object]) -> None:
    """Append one record as one line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


_warned: set[Path] = set()


def warn_once(path: Path, error: Exception) -> None:
    """Say, the first time only, that lines are missing from a diagnostics file."""
    if path not in _warned:
        _warned.add(path)
        warnings.warn(
            f"diagnostics in {path} are incomplete: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )


def log_call(
    flags: Flags,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ranges: Tensor,
    out: Tensor,
    *,
    path: str,
    kernels: tuple[str, ...],
    reason: str,
    milliseconds: float | None,
    max_len: int | None,
) -> None:
    """Append the line of one dispatched call to `flags.diagnostics`.

    Args:
        flags: which of timing, comparison and shapes to log.
        Q: `[B, S, G, h, Dk]`.
        K: `[B, G, S_kv, Dk]`.
        V: `[B, G, S_kv, Dv]`.
        ranges: `[B, S, G, n, 2]`.
        out: `[B, S, G, h, Dv]`, what the call returned.
        path: of the dispatch record.
        kernels: of the dispatch record.
        reason: of the dispatch record.
        milliseconds: duration of the call, if it was timed.
        max_len: as passed to the call.
    """
    spans = normalise_ranges(ranges, K.shape[2])
    lengths = (spans[..., 1] - spans[..., 0]).sum(dim=-1)
    longest = int(lengths.max()) if lengths.numel() else 0
    record: dict[str, object] = {
        "path": path,
        "kernels": list(kernels),
        "reason": reason,
        "L": longest,
        "bucket": bucket_of(longest),
    }
    if flags.debug_timing:
        record["ms"] = milliseconds
    if flags.debug_compare:
        with torch.no_grad():
            expected = grouped_selection_attention_packed(Q, K, V, ranges, max_len=max_len)
        record["mae"] = mean_err(out, expected)
        record["max_err"] = max_err(out, expected)
    if flags.debug_shapes:
        named = (("Q", Q), ("K", K), ("V", V), ("ranges", ranges))
        record["shapes"] = {name: list(t.shape) for name, t in named}
        record["strides"] = {name: list(t.stride()) for name, t in named}
        record["dtype"] = str(Q.dtype).removeprefix("torch.")
        record["device"] = str(Q.device)
    append_line(flags.diagnostics, record)

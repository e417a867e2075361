"""Selection attention of Native Sparse Attention: oracle, packed reference, Triton kernels.

`selection_attention` is the entry point for models: it chooses the path and falls back. The
launchers (`sel_attn_fwd_*`, `selection_attention_triton`) run Triton or raise; they are loaded on
first use, so that the references work where Triton is not installed.
"""

from __future__ import annotations

from typing import Any

from .dispatch import DispatchRecord, last_dispatch, selection_attention
from .flags import Flags
from .reference import grouped_selection_attention_packed, selection_attention_oracle

_LAUNCHERS = (
    "sel_attn_fwd_dense",
    "sel_attn_fwd_dense_group",
    "sel_attn_fwd_ranges",
    "sel_attn_fwd_varlen",
    "sel_attn_fwd_varlen_group",
    "selection_attention_triton",
)

__all__ = [
    "DispatchRecord",
    "Flags",
    "grouped_selection_attention_packed",
    "last_dispatch",
    "selection_attention",
    "selection_attention_oracle",
    *_LAUNCHERS,
]


def __getattr__(name: str) -> Any:
    if name not in _LAUNCHERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import op

    return getattr(op, name)

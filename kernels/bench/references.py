"""Every way of the installed torch to compute a cell, by name: the strongest is among them.

At kernel level a reference gets `PackedRows`, at operator level a `Selection`; it returns
`[N, H, Dv]`. None is trusted or required: what raises, or errs, or ignores a key is left out by
`cells`, which checks each against the oracle on the tensors that it will time.

The *shipped* ones are what `selection.dispatch` runs with Triton off.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.attention
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.workloads import PackedRows, Selection
from kernels.selection.dispatch import (
    FLEX,
    PACKED,
    DispatchRecord,
    last_dispatch,
    selection_attention,
)
from kernels.selection.flags import Flags
from kernels.selection.flex import selection_attention_flex
from kernels.selection.packing import fill_slots, gather_rows, pack_varlen
from kernels.selection.reference import dense_attention_packed

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`Q[N, H, D], K[N, L, D], V[N, L, Dv], mask[N, 1, 1, L]` to `[N, H, Dv]`."""


SHIPPED_NAMES = {FLEX: FLEX, PACKED: "grouped_selection_attention_packed"}
"""By the path that dispatch has on record."""


@dataclass(frozen=True)
class Reference:
    """A named implementation of one level."""

    name: str
    run: Callable[[Any], Tensor]
    """From a `PackedRows` (kernel level) or a `Selection` (operator level)."""


def shipped(level: str, workload: PackedRows | Selection, flags: Flags | None = None) -> Reference:
    """What production runs with Triton off, on the inputs of this level.

    At operator level that is for dispatch to say: it is asked for this workload, and a later call
    for which it takes another path raises.

    Args:
        level: of the reference.
        workload: that it is to run on.
        flags: choose among the fallbacks; None reads the environment.
    """
    if level == "kernel":
        return Reference("packed_sdpa", _shipped_packed)
    flags = replace(
        flags or Flags.from_env(),
        use_triton=False,
        debug_timing=False,
        debug_compare=False,
        debug_shapes=False,
    )
    path = _dispatched(flags, workload)[1].path
    return Reference(SHIPPED_NAMES[path], functools.partial(_shipped_operator, flags, path))


def candidates(level: str, device: torch.device) -> list[Reference]:
    """All that may turn out to be the strongest, the shipped one perhaps among them."""
    packed = [
        Reference(f"{layout}.{backend}", functools.partial(_packed, attend))
        for (layout, backend), attend in _ATTENDS.items()
    ]
    # elsewhere varlen_attn does not exist, and flex_attention needs a C++ compiler and minutes;
    # to import either loads torch's compiler
    on_cuda = device.type == "cuda"
    if level == "kernel":
        return [*packed, Reference("varlen_attn", _varlen)] if on_cuda else packed
    found = [
        Reference(f"{gather}+{layout}.{backend}", functools.partial(_gathered, gather, attend))
        for gather in _GATHERS
        for (layout, backend), attend in _ATTENDS.items()
    ]
    found += [
        Reference(f"mask+{layout}.{backend}", functools.partial(_masked, attend))
        for (layout, backend), attend in _ATTENDS.items()
    ]
    if on_cuda:
        found.append(Reference("pack+varlen_attn", _packed_varlen))
    return [*found, *compiled(level, device)]


def compiled(level: str, device: torch.device) -> list[Reference]:
    """Those of `candidates` that torch compiles for each shape, which takes seconds."""
    if level == "kernel" or device.type != "cuda":
        return []
    return [Reference(FLEX, _flex)]


def _shipped_packed(rows: PackedRows) -> Tensor:
    return dense_attention_packed(rows.Q, rows.K, rows.V, rows.lengths)


def _shipped_operator(flags: Flags, path: str, selection: Selection) -> Tensor:
    out, record = _dispatched(flags, selection)
    if record.path != path:
        raise RuntimeError(f"dispatch took {record.path}, not {path}: {record.reason}")
    return out


def _dispatched(flags: Flags, selection: Any) -> tuple[Tensor, DispatchRecord]:
    out = selection_attention(*selection.operands(), max_len=selection.L, flags=flags)
    record = last_dispatch()
    if record is None:
        raise RuntimeError("dispatch has left no record of the call")
    return out.view(*selection.Q.shape[:2], -1), record


def _one_head(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
    """The heads of a row as queries against its one KV head."""
    if mask is not None:
        mask = mask.expand(-1, 1, Q.shape[1], -1)
    return F.scaled_dot_product_attention(Q[:, None], K[:, None], V[:, None], attn_mask=mask)[:, 0]


def _expanded(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
    """One query a head, K and V repeated by stride 0."""
    K, V = (X[:, None].expand(-1, Q.shape[1], -1, -1) for X in (K, V))
    return F.scaled_dot_product_attention(Q[:, :, None], K, V, attn_mask=mask)[:, :, 0]


def _gqa(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
    """One query a head, and torch told that they share K and V."""
    K, V = K[:, None], V[:, None]
    out = F.scaled_dot_product_attention(Q[:, :, None], K, V, attn_mask=mask, enable_gqa=True)
    return out[:, :, 0]


def _through(backend: Any, attend: Attend) -> Attend:
    """`attend` with no SDPA backend but this one."""

    def run(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
        with torch.nn.attention.sdpa_kernel([backend]):
            return attend(Q, K, V, mask)

    return run


def _attends() -> dict[tuple[str, str], Attend]:
    """Each layout with the backend of torch's own choice, and with each backend that it knows."""
    layouts = {"one_head": _one_head, "expanded": _expanded, "gqa": _gqa}
    backends = {"flash": "FLASH", "efficient": "EFFICIENT", "cudnn": "CUDNN", "math": "MATH"}
    known = {
        name: getattr(torch.nn.attention.SDPBackend, member)
        for name, word in backends.items()
        for member in (f"{word}_ATTENTION", word)
        if hasattr(torch.nn.attention.SDPBackend, member)
    }
    found: dict[tuple[str, str], Attend] = {}
    for layout, attend in layouts.items():
        found[layout, "auto"] = attend
        for name, backend in known.items():
            found[layout, name] = _through(backend, attend)
    return found


_ATTENDS = _attends()


def _packed(attend: Attend, rows: PackedRows) -> Tensor:
    mask = None
    if rows.lengths is not None:
        mask = _leading(rows.lengths, rows.K.shape[1])
    return attend(rows.Q, rows.K, rows.V, mask)


def _leading(lengths: Tensor, L: int) -> Tensor:
    """`[N, 1, 1, L]`: the first keys of each row."""
    return (torch.arange(L, device=lengths.device) < lengths[:, None])[:, None, None]


def _index(X: Tensor, keys: Tensor) -> Tensor:
    """`X[R, S_kv, D]` at `keys[N, L]` to `[N, L, D]`; R is N, or 1 for a shared cache."""
    if X.shape[0] == 1:
        return X[0][keys]
    return gather_rows(X[:, None], keys[:, None, None])[:, 0, 0]


def _gather(X: Tensor, keys: Tensor) -> Tensor:
    at = keys[..., None].expand(-1, -1, X.shape[2])
    return X.expand(keys.shape[0], -1, -1).gather(1, at)


def _index_select(X: Tensor, keys: Tensor) -> Tensor:
    if X.shape[0] > 1:
        keys = keys + torch.arange(X.shape[0], device=X.device)[:, None] * X.shape[1]
    return X.flatten(0, 1).index_select(0, keys.flatten()).view(*keys.shape, -1)


_GATHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": _index,
    "gather": _gather,
    "index_select": _index_select,
}


def _gathered(gather: str, attend: Attend, selection: Selection) -> Tensor:
    """Each row's selected keys side by side, then packed SDPA.

    Where all rows are equally long there is no mask: the shipped reference cannot know that, but
    the strongest is somebody's who does.
    """
    slots = fill_slots(selection.ranges, selection.K.shape[1], selection.L)
    pick = _GATHERS[gather]
    mask = None if selection.equal else _leading(slots.lengths, slots.keys.shape[1])
    K, V = pick(selection.K, slots.keys), pick(selection.V, slots.keys)
    return attend(selection.Q, K, V, mask)


def _masked(attend: Attend, selection: Selection) -> Tensor:
    """Nothing gathered: the whole cache under a boolean mask."""
    N = selection.Q.shape[0]
    at = torch.arange(selection.K.shape[1], device=selection.K.device)
    starts, ends = selection.ranges[..., None].unbind(2)  # [N, n, 1]
    mask = ((at >= starts) & (at < ends)).any(dim=1)  # [N, S_kv]
    K, V = (X.expand(N, -1, -1) for X in (selection.K, selection.V))
    return attend(selection.Q, K, V, mask[:, None, None])


def _varlen(rows: PackedRows) -> Tensor:
    """Rows end to end for torch's own variable-length attention, which came with 2.10."""
    return _varlen_attn(rows.Q, rows.K_all, rows.V_all, rows.cu_seqlens, rows.K.shape[1])


def _packed_varlen(selection: Selection) -> Tensor:
    _, K, V, ranges = selection.operands()
    rows = pack_varlen(K, V, fill_slots(ranges, selection.K.shape[1], selection.L))
    cu_seqlens = rows.cu_seqlens.to(torch.int32)
    return _varlen_attn(selection.Q, rows.K_all, rows.V_all, cu_seqlens, selection.L)


def _varlen_attn(Q: Tensor, K_all: Tensor, V_all: Tensor, cu: Tensor, L: int) -> Tensor:
    N, H, D = Q.shape
    attend = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    cu_q = torch.arange(0, (N + 1) * H, H, device=Q.device, dtype=torch.int32)
    out: Tensor = attend(Q.reshape(N * H, 1, D), K_all[:, None], V_all[:, None], cu_q, cu, H, L)
    return out.view(N, H, -1)


def _flex(selection: Selection) -> Tensor:
    """The whole cache under a block mask, which skips the blocks that no range touches."""
    out = selection_attention_flex(*selection.operands(), max_len=selection.L)
    return out.view(*selection.Q.shape[:2], -1)

"""What the launchers start, recorded on a machine without a GPU.

Nothing is listed by hand: the operator's own launchers run on tensors that claim to be on a card,
up to the point where Triton would compile, so that a new kernel, flag or line of the tuning table
is in the matrix as soon as a shape of `shipped.py` reaches it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from triton.runtime.jit import JITFunction

from .targets import KIB, Target

CARD = torch.device("cuda", 0)
HOST = torch.device("cpu")
ALIGNMENT = 16
"""Bytes, and counts: what Triton compiles a variant of its own for."""


class Pointer:
    """Stands for a tensor: Triton asks its type and its alignment, and no more before a launch."""

    def __init__(self, dtype: torch.dtype, *, aligned: bool = True) -> None:
        self.dtype = dtype
        self.aligned = aligned

    def data_ptr(self) -> int:
        """An address of that alignment."""
        return 0 if self.aligned else ALIGNMENT // 2

    def ptr_range(self) -> int:
        """Bytes within reach: few, so 32-bit offsets do."""
        return 0


@dataclass(frozen=True)
class Launch:
    """One kernel with all that decides what Triton compiles."""

    function: Any
    """The `@triton.jit` function."""
    args: Mapping[str, Any]
    """By parameter: a `Pointer`, a number, None, or the value of a `tl.constexpr`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`num_warps`, `num_stages` and others of Triton's own."""

    def __str__(self) -> str:
        pointers = {v.dtype: None for v in self.args.values() if isinstance(v, Pointer)}
        dtype = str(next(iter(pointers), "")).removeprefix("torch.")
        exact = _constexprs(self.function)
        ones = [
            k
            for k, v in self.args.items()
            if v == 1 and k not in exact and not k.startswith("stride")
        ]
        constants = [f"{k}={self.args[k]}" for k in (*exact, *ones) if k in self.args]
        options = [f"{k}={v}" for k, v in self.options.items()]
        return " ".join([self.name, dtype, *constants, *options])

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.function.__name__)


@contextlib.contextmanager
def recorded(target: Target) -> Iterator[list[Launch]]:
    """Collect what is launched within, each variant once; nothing is compiled or run.

    Tensors are host tensors that say they are on a card of this target. What kernels would have
    written into them stays unwritten.
    """
    found: dict[object, Launch] = {}

    def record(function: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del grid, warmup
        names = [parameter.name for parameter in function.params]
        given = {p.name: p.default for p in function.params if p.has_default}
        given |= dict(zip(names, args, strict=False))
        given |= {name: kwargs.pop(name) for name in names if name in kwargs}
        exact = _constexprs(function)
        kept = {name: v if name in exact else _stand_in(v) for name, v in given.items()}
        launch = Launch(function, kept, kwargs)
        found.setdefault((str(launch), tuple(_kind(v) for v in kept.values())), launch)

    launches: list[Launch] = []
    with _card(target), mock.patch.object(JITFunction, "run", record), _PretendCuda():
        yield launches
    launches += found.values()


def _stand_in(value: Any) -> Any:
    """The same for all values for which Triton compiles the same."""
    if isinstance(value, torch.Tensor):
        return Pointer(value.dtype, aligned=value.data_ptr() % ALIGNMENT == 0)
    if isinstance(value, int) and not isinstance(value, bool) and value != 1:
        wide = 1 << 32 if value >= 1 << 31 else 0
        return wide + (ALIGNMENT if value % ALIGNMENT == 0 else ALIGNMENT + 1)
    return 0.5 if isinstance(value, float) else value


def _kind(value: Any) -> object:
    return (value.dtype, value.aligned) if isinstance(value, Pointer) else value


def _constexprs(function: Any) -> list[str]:
    return [parameter.name for parameter in function.params if parameter.is_constexpr]


class _PretendCuda(TorchFunctionMode):
    """Host tensors that answer as if they were on a card."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # ==: every access makes another wrapper of the same getter
        if func == torch.Tensor.device.__get__:
            return CARD
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        return func(*map(_on_host, args), **{k: _on_host(v) for k, v in (kwargs or {}).items()})


def _on_host(value: Any) -> Any:
    if value == "cuda" or (isinstance(value, torch.device) and value.type == "cuda"):
        return HOST
    return value


@contextlib.contextmanager
def _card(target: Target) -> Iterator[None]:
    """`torch.cuda` describes the target's card."""
    properties = SimpleNamespace(
        name=target.card,
        major=target.capability[0],
        minor=target.capability[1],
        multi_processor_count=target.sm_count,
        shared_memory_per_block_optin=target.shared_limit,
        shared_memory_per_multiprocessor=target.shared_limit + KIB,
        regs_per_multiprocessor=1 << 16,
        warp_size=32,
    )
    with mock.patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        current_device=lambda: 0,
        device=contextlib.nullcontext,
        device_of=contextlib.nullcontext,
        get_device_name=lambda *_: target.card,
        get_device_capability=lambda *_: target.capability,
        get_device_properties=lambda *_: properties,
    ):
        yield

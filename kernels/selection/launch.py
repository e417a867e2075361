"""From checked tensors to started kernels: grid, tiles, splits, and a record of what started.

Reads no tensor and never waits for the device: a launch can be captured into a CUDA graph.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from . import kernel
from .errors import KernelBuildError
from .flags import Flags
from .limits import ALIGNMENT_BYTES
from .tuning import (
    DOUBLE_BUFFER_STAGES,
    INTERPRETER,
    SPLIT,
    LaunchParams,
    Request,
    launch_params,
    split_count,
)

LOG2_E = math.log2(math.e)
MIN_TILE = 16
"""Smallest side of a tile that `tl.dot` takes."""
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
MIN_RANGES = 8 if TRITON >= (3, 3) else 16
"""Places for ranges in registers, at least, unless there is a single one. On fewer, Triton 3.6
cannot compile a scan, and on 8, Triton 3.1 spills registers."""
CHUNK_RANGES = 16
"""Ranges that are compared with all of a row's at a time."""
COMBINE_WARPS = 4
OVERLAP_FROM = (9, 0)
"""Compute capability of the first cards with programmatic dependent launch."""

_launched: ContextVar[list[str] | None] = ContextVar("launched", default=None)


@contextlib.contextmanager
def record_launches() -> Iterator[list[str]]:
    """Collect the names of the kernels that really start, e.g. `dense_rows_fwd.group`.

    A row that is cut along its keys starts `dense_rows_split.group`, then
    `dense_rows_combine.group`. Records may be nested: an outer one gets what its inner ones got.
    """
    names: list[str] = []
    outer = _launched.get()
    token = _launched.set(names)
    try:
        yield names
    finally:
        _launched.reset(token)
        if outer is not None:
            outer += names


@dataclass(frozen=True)
class Plan:
    """How the rows of one call are spread over programs."""

    params: LaunchParams
    heads: int
    """Heads that a program serves."""
    splits: int
    """Programs that share the keys of a row."""
    rows: int
    H: int
    overlap: bool
    """What joins the parts of split rows is started before they are there, and waits for them."""

    @property
    def blocks(self) -> int:
        """Programs that share the heads of a row."""
        return math.ceil(self.H / self.heads)

    @property
    def grid(self) -> tuple[int]:
        """Programs: splits are innermost, then blocks of heads, then rows."""
        return (self.rows * self.blocks * self.splits,)


def plan_launch(
    form: str,
    Q: Tensor,
    Dv: int,
    length: int,
    *,
    group: bool,
    flags: Flags,
    params: LaunchParams | None = None,
) -> Plan:
    """Choose tiles and splits from shapes, flags and the tuning table.

    Args:
        form: `dense`, `varlen` or `ranges`.
        Q: `[..., H, D]`, not empty.
        Dv: head dimension of the values.
        length: keys of a row, or a bound on them, or their mean: only speed depends on it.
        group: all heads of a row in one tile, as far as registers allow, or one a program.
        flags: `num_warps`, `num_stages`, `splits` and `double_buffer` override the table.
        params: override the table too, for measuring; flags still come first.
    """
    H, D = Q.shape[-2:]
    rows = Q.numel() // (H * D)
    capability = torch.cuda.get_device_capability(Q.device) if Q.is_cuda else INTERPRETER
    # the tiles that are best for few rows spill registers where a key cannot be read by 16 bytes
    whole = all(side * Q.element_size() % ALIGNMENT_BYTES == 0 for side in (D, Dv))
    request = Request(
        form,
        8 * Q.element_size(),
        tile(D),
        tile(Dv),
        H if group else 1,
        length,
        rows if whole else sys.maxsize,
        capability,
    )

    def heads_of(found: LaunchParams) -> int:
        return min(H, found.heads) if group else 1

    found = params or launch_params(request)
    splits = flags.splits
    if splits is None:
        programs = rows * math.ceil(H / heads_of(found))
        splits = split_count(programs, length, _processors(Q))
    if params is None and splits > 1:
        found = launch_params(replace(request, kernel=SPLIT, L=math.ceil(length / splits)))
    stages = DOUBLE_BUFFER_STAGES if flags.double_buffer else found.num_stages
    found = replace(
        found,
        num_warps=flags.num_warps or found.num_warps,
        num_stages=flags.num_stages or stages,
    )
    cuda = torch.version.hip is None  # on ROCm devices are called cuda too
    overlap = splits > 1 and cuda and TRITON >= (3, 6) and capability >= OVERLAP_FROM
    return Plan(found, heads_of(found), splits, rows, H, overlap)


def launch_rows(
    name: str,
    plan: Plan,
    Q: Tensor,
    V: Tensor,
    out: Tensor,
    *,
    group: bool,
    inputs: tuple[object, ...],
    sizes: tuple[int, ...],
    **constants: object,
) -> None:
    """Start `<name>_fwd`, and `combine_rows` after it where rows are split.

    Args:
        name: `dense_rows`, `varlen_rows` or `ranges`.
        plan: of this call.
        Q: `[..., H, D]`.
        V: `[..., Dv]`.
        out: `[..., H, Dv]`, contiguous.
        group: for the record.
        inputs: what the kernel takes before `OUT`.
        sizes: what it takes between `ACC` and `heads`.
        **constants: of this kernel alone.

    Raises:
        KernelBuildError: Triton cannot compile a kernel, or it does not fit on the device.
    """
    D, Dv = Q.shape[-1], V.shape[-1]
    form = "group" if group else "head"
    split = plan.splits > 1
    parts: tuple[Tensor | None, ...] = (None, None, None)
    if split:
        size = (plan.rows, plan.splits, plan.H)
        fp32 = {"dtype": torch.float32, "device": Q.device}
        parts = (
            torch.empty(size, **fp32),
            torch.empty(size, **fp32),
            torch.empty(*size, Dv, **fp32),
        )
    _start(
        getattr(kernel, f"{name}_fwd"),
        f"{name}_{'split' if split else 'fwd'}.{form}",
        plan.grid,
        Q,
        (
            *(*inputs, out, *parts, *sizes),
            *(plan.heads, plan.blocks, plan.splits, LOG2_E / math.sqrt(D)),
        ),
        SPLIT=split,
        OVERLAP=plan.overlap,
        D=D,
        DV=Dv,
        BLOCK_H=tile(plan.heads),
        BLOCK_L=plan.params.block_l,
        BLOCK_D=tile(D),
        BLOCK_DV=tile(Dv),
        num_warps=plan.params.num_warps,
        num_stages=plan.params.num_stages,
        **constants,
    )
    if split:
        _start(
            kernel.combine_rows,
            f"{name}_combine.{form}",
            (plan.rows * plan.H,),
            Q,
            (out, *parts, plan.H, plan.splits),
            OVERLAP=plan.overlap,
            DV=Dv,
            BLOCK_S=triton.next_power_of_2(plan.splits),
            BLOCK_DV=tile(Dv),
            num_warps=COMBINE_WARPS,
            # an option that older versions of Triton do not know
            **({"launch_pdl": True} if plan.overlap else {}),
        )


def tile(size: int) -> int:
    """Smallest tile side that holds `size`: a power of two from `MIN_TILE` on."""
    return max(MIN_TILE, triton.next_power_of_2(size))


def _start(
    function: Any,
    name: str,
    grid: tuple[int],
    Q: Tensor,
    args: tuple[object, ...],
    **constants: object,
) -> None:
    try:
        with torch.cuda.device_of(Q):
            function[grid](*args, **constants)
    except _BUILD_ERRORS as error:
        raise KernelBuildError(f"{name}: {error}") from error
    except RuntimeError as error:
        # a failed compiler pass has no type of its own
        if "PassManager" not in str(error):
            raise
        raise KernelBuildError(f"{name}: {error}") from error
    names = _launched.get()
    if names is not None:
        names.append(name)


def _processors(Q: Tensor) -> int:
    """Streaming multiprocessors; 1 in the interpreter, which runs one program after another."""
    if not Q.is_cuda:
        return 1
    return int(torch.cuda.get_device_properties(Q.device).multi_processor_count)


def _build_errors() -> tuple[type[Exception], ...]:
    """Triton's own errors of building a kernel; where they live moved between 2.3 and 3.x."""
    found = [triton.compiler.CompilationError]
    for module in ("triton.runtime.errors", "triton.runtime.autotuner", "triton.compiler.errors"):
        with contextlib.suppress(ImportError):
            names = vars(__import__(module, fromlist=["*"]))
            found += [names[n] for n in ("OutOfResources", "PTXASError") if n in names]
    return tuple(dict.fromkeys(found))


_BUILD_ERRORS = _build_errors()

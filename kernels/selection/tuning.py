"""Launch parameters, from a table: nothing is timed or tuned at run time.

An autotuner would time kernels inside the first measured call, pick differently from run to run,
and needs a driver, which Triton's interpreter does not have.

TODO: replace the entries by measured ones, per device, once each has been swept.
"""

from __future__ import annotations

from dataclasses import dataclass

DOUBLE_BUFFER_STAGES = 2
"""`num_stages` with `NSA_SEL_TRITON_DB=1`: one K/V tile is loaded while another is computed."""

INTERPRETER = (0, 0)
"""Stands for Triton's interpreter where a compute capability is expected."""


@dataclass(frozen=True)
class LaunchParams:
    """What a launch may vary without changing the result beyond rounding."""

    block_l: int
    """Keys per tile: a power of two, at least 16."""
    num_warps: int
    num_stages: int
    """Tiles in flight. 1 loads and computes in turn; 2 and more overlap them."""


@dataclass(frozen=True)
class _Entry:
    capability: tuple[int, int]
    """Smallest compute capability that the entry is for."""
    head_dim: int
    """Largest `max(D, Dv)`, padded to a power of two, that the entry is for."""
    block_l: int
    num_warps: int


# The first entry that fits decides: newest capability first, small heads first. Two stages of
# (block_l * 2 * head_dim) elements must fit in shared memory: 99 KiB on 8.6, 8.9 and 12.0, 227 on
# 9.0. fp32 heads of 512 do not fit in 99 KiB at all: Triton refuses them, and dispatch falls back.
_TABLE = (
    _Entry((12, 0), 128, block_l=64, num_warps=4),
    _Entry((12, 0), 256, block_l=32, num_warps=4),
    _Entry((12, 0), 512, block_l=16, num_warps=8),
    _Entry((9, 0), 128, block_l=64, num_warps=4),
    _Entry((9, 0), 256, block_l=64, num_warps=8),
    _Entry((9, 0), 512, block_l=32, num_warps=8),
    _Entry((8, 0), 128, block_l=64, num_warps=4),
    _Entry((8, 0), 256, block_l=32, num_warps=4),
    _Entry((8, 0), 512, block_l=16, num_warps=8),
    _Entry((0, 0), 512, block_l=16, num_warps=4),
)


def launch_params(
    head_dim: int, element_size: int, capability: tuple[int, int], *, double_buffer: bool
) -> LaunchParams:
    """Look up the parameters of a launch.

    Args:
        head_dim: `max(D, Dv)`.
        element_size: bytes; 4-byte elements get tiles of half the keys.
        capability: of the CUDA device, or `INTERPRETER`.
        double_buffer: the flag `NSA_SEL_TRITON_DB`.

    Raises:
        ValueError: no entry for this head dimension.
    """
    stages = DOUBLE_BUFFER_STAGES if double_buffer else 1
    if capability == INTERPRETER:
        return LaunchParams(block_l=64, num_warps=4, num_stages=stages)
    for entry in _TABLE:
        if capability >= entry.capability and head_dim <= entry.head_dim:
            block_l = entry.block_l if element_size <= 2 else max(16, entry.block_l // 2)
            return LaunchParams(block_l, entry.num_warps, stages)
    raise ValueError(f"no launch parameters for head dimension {head_dim}")

"""Fixed probes of the device itself, before and after the cells: has the machine changed?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.bench.clock import clock_for, l2_bytes, ready
from kernels.bench.intervals import median
from kernels.bench.machine import Machine
from kernels.bench.timing import now_ms

ROUNDS = 20
READS = 16
"""Of the same part of the L2, in one kernel."""


def canary(machine: Machine, when: str) -> list[dict[str, object]]:
    """Rows of `contract.CANARY_COLUMNS`.

    Args:
        machine: to probe.
        when: `before` or `after` the cells.
    """
    device = machine.device
    gpu = device.type == "cuda"
    big = (2**28 if gpu else 2**20) // 4
    source = torch.ones(big, device=device)
    target = torch.empty_like(source)
    # a quarter of it, read several times, or the launch would take longer than the reading
    cached = torch.ones(1, max(l2_bytes(device) // 4, 2**18) // 4, device=device)
    cached = cached.expand(READS, -1)
    side = 4096 if gpu else 128
    A = torch.ones(side, side, device=device, dtype=torch.float16 if gpu else torch.float32)
    one = torch.zeros(1, device=device)
    copied, read, flops = 8 * big, 4 * cached.numel(), 2 * side**3

    def row(
        probe: str, unit: str, work: Callable[[], Tensor], *, moved: int = 0, flops: int = 0
    ) -> dict[str, object]:
        began = now_ms()
        ms, clocks = _time(machine, work, flush=probe == "copy")
        value = {"GB/s": moved / ms / 1e6, "TFLOP/s": flops / ms / 1e9, "us": 1e3 * ms}[unit]
        return {
            "when": when,
            "probe": probe,
            "value": value,
            "unit": unit,
            "device": machine.name,
            "ms": ms,
            "bytes": moved,
            "flops": flops,
            "sm_mhz": clocks["sm_mhz"],
            "temperature_c": clocks["temperature_c"],
            "began_ms": began,
        }

    return [
        row("copy", "GB/s", lambda: target.copy_(source), moved=copied),
        row("l2_read", "GB/s", lambda: cached.sum(1), moved=read),
        row("gemm", "TFLOP/s", lambda: A @ A, flops=flops),
        row("launch", "us", one.zero_),
    ]


def _time(
    machine: Machine, work: Callable[[], Tensor], *, flush: bool
) -> tuple[float, dict[str, float | str]]:
    clock = clock_for(machine.device, 1, flush=flush)
    sampler = machine.sampler()
    warmed = ready(clock, [work])
    sampler.start()
    for _ in range(ROUNDS):
        clock.run(warmed)
    return median(clock.milliseconds()), sampler.result()

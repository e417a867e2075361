"""CUDA graph capture that Python's garbage collector does not spoil."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def captured(graph: torch.cuda.CUDAGraph, *, pool: Any = None) -> Iterator[None]:
    """`torch.cuda.graph`, within which no garbage is collected.

    A graph that is collected while another is captured invalidates the capture: the driver may not
    destroy one then (pytorch/pytorch#161037). Torch collected before each capture until 2.8; that
    takes a tenth of a second each time, more than most captures.

    Raises:
        RuntimeError: what is done within cannot be captured.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, pool=pool):
            yield
    finally:
        if collecting:
            gc.enable()

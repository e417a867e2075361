"""Capture beside Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch
from selection_cases import DEVICE

from kernels.capture import captured


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, held):
        self.held = held
        self.itself = self


@pytest.fixture
def pretended(monkeypatch):
    """A capture without a device; what it was given."""
    given = []

    @contextlib.contextmanager
    def graph(*args, **kwargs):
        given.append((args, kwargs))
        yield

    monkeypatch.setattr(torch.cuda, "graph", graph)
    return given


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_within_and_all_is_as_before_behind(pretended, collecting):
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="not permitted"), captured("a graph", pool="a pool"):
            assert not gc.isenabled()
            raise RuntimeError("operation not permitted")
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
    assert pretended == [(("a graph",), {"pool": "a pool"})]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_a_lost_graph_does_not_spoil_the_capture_of_the_next():
    lost, graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with captured(lost):
        torch.zeros(1, device=DEVICE)
    Cycle(lost)
    del lost
    with captured(graph):
        out = torch.ones(1, device=DEVICE)
        garbage = [Cycle(None) for _ in range(10 * gc.get_threshold()[0])]
        del garbage
        out = out + 1
    graph.replay()
    assert float(out) == 2

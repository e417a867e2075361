"""Settings of the kernel tests' processes, before torch or Triton is imported; fixtures."""

from __future__ import annotations

import os

# torch's threads wait by spinning: as many in each worker and each process that measures take the
# cores from one another, and no tensor here is large enough to be shared out
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from kernels.selection import flex
from kernels.selection.checks import UnwrittenIsNan

if not torch.cuda.is_available():  # the kernels run in Triton's interpreter
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20250802)


@pytest.fixture
def nan_empty():
    """Outputs start as NaN, so that an element the kernel does not write is seen."""
    with UnwrittenIsNan():
        yield


@pytest.fixture
def fresh_flex(monkeypatch):
    """No shape has been built yet, for the bookkeeping."""
    for name, value in (("_first", {}), ("_built", set()), ("_failed", {})):
        monkeypatch.setattr(flex, name, value)


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions as they are, and a list of the (queries, length, any length) they served."""
    if torch.cuda.is_available():
        pytest.skip("it would materialise all scores; the compiled ones are tested there")
    attend = flex.masked_attention()
    module = torch.nn.attention.flex_attention
    if not hasattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"):
        pytest.skip("this torch compiles it in any case")
    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    calls = []

    def counted(Q, K, *others):
        calls.append((len(Q), K.shape[2], hasattr(K, "_dynamo_weak_dynamic_indices")))
        return attend(Q, K, *others)

    monkeypatch.setattr(flex, "_functions", lambda: (flex.block_lists, counted))
    return calls


@pytest.fixture
def no_flags(monkeypatch):
    """The caller's own NSA_* variables would choose other kernels."""
    for name in [name for name in os.environ if name.startswith("NSA_")]:
        monkeypatch.delenv(name)

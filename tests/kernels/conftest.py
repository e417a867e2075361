"""Settings of the kernel tests' processes, before torch or Triton is imported."""

from __future__ import annotations

import os

# torch's threads wait by spinning: as many in each worker and each process that measures take the
# cores from one another, and no tensor here is large enough to be shared out
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

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

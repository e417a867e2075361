"""Without a CUDA device the kernels run in Triton's interpreter: set before Triton is imported."""

from __future__ import annotations

import os

import pytest
import torch

from kernels.selection.checks import UnwrittenIsNan

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20250802)


@pytest.fixture
def nan_empty():
    """Outputs start as NaN, so that an element the kernel does not write is seen."""
    with UnwrittenIsNan():
        yield

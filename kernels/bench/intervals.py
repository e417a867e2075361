"""Medians, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.bench.contract import MIN_ITERS

RESAMPLES = 1000
CONFIDENCE = 0.95


def median(samples: Sequence[float]) -> float:
    """The middle, or the mean of the two that are."""
    return quantile(samples, 0.5)


def quantile(samples: Sequence[float], at: float) -> float:
    """The `at` quantile, interpolated."""
    return float(torch.tensor(samples, dtype=torch.float64).quantile(at))


def variation(samples: Sequence[float]) -> float:
    """Coefficient of variation: standard deviation over mean; 0 for a single sample."""
    values = torch.tensor(samples, dtype=torch.float64)
    return float(values.std() / values.mean()) if len(samples) > 1 else 0.0


def ratio_interval(
    above: Sequence[float], below: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """Bounds of the 95 % bootstrap interval of `median(above) / median(below)`.

    Resamples pairs, because neighbours share whatever disturbed them. Fewer than `MIN_ITERS` give
    the point itself twice.

    Args:
        above: times of the numerator.
        below: times of the denominator; the i-th ran in the same round.
        seed: of the resampling.
    """
    pairs = torch.tensor([above, below], dtype=torch.float64)
    n = pairs.shape[1]
    if n < MIN_ITERS:
        point = median(above) / median(below)
        return point, point
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randint(n, (RESAMPLES, n), generator=rng)
    medians = pairs[:, chosen].quantile(0.5, dim=-1)  # [2, RESAMPLES]
    tails = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    low, high = (medians[0] / medians[1]).quantile(tails).tolist()
    return low, high

"""Is an implementation right on these tensors, and which of the right references are fast?"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.bench import references
from kernels.bench.clock import clock_for, ready
from kernels.bench.contract import MAX_MAE
from kernels.bench.intervals import median
from kernels.bench.workloads import PackedRows, Selection
from kernels.selection import op
from kernels.selection.checks import (
    UnwrittenIsNan,
    ignored_keys,
    max_err,
    max_err_limit,
    mean_err,
)

Run = Callable[[Any], Tensor]
Workload = PackedRows | Selection

FINALISTS = 2
"""References of a level, beside the shipped one, that enter the careful timing."""
TRIALS = 5
"""Iterations of the short trial that picks them."""


@dataclass
class Trial:
    """What one pass over a workload, and the mutation probe, have shown."""

    mae: float
    max_err: float
    launched: list[str] = field(default_factory=list)
    """Triton kernels that one pass launches, in order."""
    probe: str = ""
    """`ok`, or which keys it ignores; empty while it was not probed."""
    wrong: str | None = None
    """What is wrong, in words that follow a name."""


def check(
    run: Run, workload: Workload, oracle: Tensor, streams: int, *, reference: Trial | None = None
) -> Trial:
    """Compare with the oracle, and probe.

    Args:
        run: the implementation.
        workload: what it runs on, split over the streams as it will be timed.
        oracle: `[N, H, Dv]` fp64.
        streams: parts of the workload.
        reference: for the kernel, whose largest error is measured against the reference's; what
            it fails to write is NaN.
    """
    # the references allocate in C++, where this does not reach
    with UnwrittenIsNan() if reference is not None else contextlib.nullcontext():
        trial = compare_once(run, workload, oracle, streams)
    if trial.wrong is None and reference is not None:
        trial.wrong = too_far(trial.max_err, reference.max_err, oracle, workload.Q.dtype)
    ignored = ignored_by(run, workload)
    trial.probe = f"ignored: {ignored}" if ignored else "ok"
    if ignored:
        trial.wrong = f"does not attend to: {ignored}"
    return trial


def compare_once(run: Run, workload: Workload, oracle: Tensor, streams: int) -> Trial:
    """One pass over the parts of a workload."""
    with op.record_launches() as launched:
        out = [run(part) for part in workload.split(streams)]
    mae, largest, wrong = errors(out, oracle)
    return Trial(mae, largest, launched, wrong=wrong)


def errors(parts: Sequence[Tensor], oracle: Tensor) -> tuple[float, float, str | None]:
    """Mean and largest error of the joined parts, and what is wrong with them."""
    joined = torch.cat(list(parts))
    if joined.shape != oracle.shape:
        return math.nan, math.nan, f"gives {list(joined.shape)}, the oracle {list(oracle.shape)}"
    mean, largest = mean_err(joined, oracle), max_err(joined, oracle)
    if not mean <= MAX_MAE:  # NaN is not
        return mean, largest, f"has a mean error of {mean:.3g} > {MAX_MAE:g} against the oracle"
    return mean, largest, None


def too_far(largest: float, of_reference: float, oracle: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong with the largest error, given the reference's."""
    limit = max_err_limit(of_reference, oracle, dtype)
    if largest <= limit:
        return None
    return f"misses the oracle by up to {largest:.3g} > {limit:.3g}"


def ignored_by(run: Run, workload: Workload) -> str:
    """The keys and values that can change without changing the output; empty if there are none.

    On a CPU the first row, which is the longest, stands for all: the interpreter takes its time.
    """
    if workload.Q.device.type == "cpu":
        workload = workload.split(workload.Q.shape[0])[0]
    found = ignored_keys(
        lambda K, V: run(workload.with_keys(K, V)), workload.Q, *workload.keys, workload.places()
    )
    return "; ".join(found)


@dataclass(frozen=True)
class Finalist:
    """A reference that is right, and fast enough to be timed with care."""

    name: str
    run: Run
    trial: Trial


def finalists(
    level: str, workload: Workload, oracle: Tensor, streams: int, iters: int, shipped: Finalist
) -> tuple[list[Finalist], dict[str, list[str]]]:
    """The fastest references of a level that are right.

    Args:
        level: of the references.
        workload: what they run on.
        oracle: `[N, H, Dv]` fp64.
        streams: parts of the workload.
        iters: of the short trial, at most.
        shipped: the shipped reference, whose largest error is the measure. Among the candidates
            it is passed over: it is timed with care in any case, and once.

    Returns:
        Them, the fastest first, and the names of those left out, by reason.
    """
    left_out: dict[str, list[str]] = {}
    right: list[tuple[float, Finalist]] = []
    for candidate in references.candidates(level, oracle.device):
        if candidate.name == shipped.name:
            continue
        ms, trial = _tried(candidate.run, workload, oracle, streams, min(TRIALS, iters))
        if trial.wrong is None:
            trial.wrong = too_far(trial.max_err, shipped.trial.max_err, oracle, workload.Q.dtype)
        if trial.wrong:
            left_out.setdefault(trial.wrong, []).append(candidate.name)
        else:
            right.append((ms, Finalist(candidate.name, candidate.run, trial)))
    chosen: list[Finalist] = []
    for _, finalist in sorted(right, key=lambda pair: pair[0]):
        if len(chosen) == FINALISTS:
            break
        ignored = ignored_by(finalist.run, workload)
        if ignored:
            left_out.setdefault(f"does not attend to: {ignored}", []).append(finalist.name)
            continue
        finalist.trial.probe = "ok"
        chosen.append(finalist)
    return chosen, left_out


def _tried(
    run: Run, workload: Workload, oracle: Tensor, streams: int, iters: int
) -> tuple[float, Trial]:
    """Median milliseconds, where the outcome is right: of a graph, where one can be captured."""
    clock = clock_for(oracle.device, streams)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch explains why a backend cannot serve
            trial = compare_once(run, workload, oracle, streams)
            if trial.wrong:
                return math.inf, trial
            calls = ready(clock, [functools.partial(run, part) for part in workload.split(streams)])
            for _ in range(iters):
                clock.run(calls)
            return median(clock.milliseconds()), trial
    except Exception as error:  # noqa: BLE001 - whatever torch cannot do here
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        return math.inf, Trial(math.nan, math.nan, wrong=reason)

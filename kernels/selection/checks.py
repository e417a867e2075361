"""Checks on an attention function: its error, and whether it reads every key.

Shared by the tests and the benchmark, so that both refuse the same wrong references.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PROBE_CHANGE = 1e-3
"""Least change of an output that counts as one. The probe's own changes are far larger."""
ROUNDINGS = 4
"""Roundings of the largest output by which a kernel may miss more than the reference does."""


def mean_err(out: Tensor, expected: Tensor) -> float:
    """Mean absolute error, in fp64; NaN where either holds NaN; 0 for empty tensors."""
    if out.numel() == 0:
        return 0.0
    return float((out.detach().double() - expected.detach().double()).abs().mean())


def max_err(out: Tensor, expected: Tensor) -> float:
    """Largest absolute error, in fp64; NaN where either holds NaN; 0 for empty tensors."""
    if out.numel() == 0:
        return 0.0
    return float((out.detach().double() - expected.detach().double()).abs().max())


def max_err_limit(reference_err: float, expected: Tensor, dtype: torch.dtype) -> float:
    """Largest absolute error that a kernel of this dtype may have.

    Twice what the reference misses in the same dtype, and `ROUNDINGS` of the largest output on
    top: the reference may be exact where the kernel, rightly, rounds its weights to the dtype. A
    single key left out of a thousand is far outside, while the mean error hides it.

    Args:
        reference_err: largest absolute error of the reference.
        expected: the oracle's output.
        dtype: of the kernel's inputs.
    """
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return 2 * reference_err + ROUNDINGS * torch.finfo(dtype).eps * largest


class UnwrittenIsNan(TorchFunctionMode):
    """Memory allocated from Python starts as NaN, so that what a kernel fails to write is seen.

    For launchers. What torch's own operations allocate in C++ is not seen, and a compiled function
    does not run under a mode; `torch.use_deterministic_algorithms` would fill that too, but it
    imports the compiler, for seconds, even on a CPU.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _UNINITIALISED and made.is_floating_point():
            with torch.no_grad():
                made.fill_(torch.nan)
        return made


_UNINITIALISED = {
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    torch.empty_permuted,
    Tensor.new_empty,
    Tensor.new_empty_strided,
}


def ignored_keys(
    attend: Callable[[Tensor, Tensor], Tensor],
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    places: Mapping[str, Tensor],
) -> tuple[str, ...]:
    """Mutation probe: which keys can change without changing the output?

    A key is pointed at its row's first query head (so it wins the softmax), then, on fresh
    copies, its value is moved far away. Attention over that key must follow both.

    Args:
        attend: `attend(K, V)` gives `[N, H, Dv]`; Q is its own.
        Q: `[N, H, D]`.
        K: `[keys, D]`, flattened.
        V: `[keys, Dv]`, flattened.
        places: name (`first`, `middle`, `last`) to `[N]` int64: the row of `K` that is this key of
            each row, -1 for none. Two rows must not share a key. A row whose places are all the
            same key has only that one.

    Returns:
        One entry `"<name> key"` or `"<name> value"` per change that some row did not notice.
    """
    before = attend(K, V)
    # softmax over a single key is 1 whatever the key: only its value can be noticed
    stacked = torch.stack(list(places.values()))
    several = (stacked != stacked[0]).any(dim=0)
    ignored = []
    for name, place in places.items():
        rows = (place >= 0).nonzero()[:, 0]
        keys = place[rows]
        changed_k = K.clone()
        changed_k[keys] = 2 * Q[rows, 0]
        choosy = rows[several[rows]]
        if not _noticed(before[choosy], attend(changed_k, V)[choosy]):
            ignored.append(f"{name} key")
        changed_v = V.clone()
        # relative to the keys sharing the softmax: moves the mean by 16 at equal weights
        changed_v[keys] += min(16.0 * max(1, K.shape[0] // max(1, Q.shape[0])), 2.0**14)
        if not _noticed(before[rows], attend(K, changed_v)[rows]):
            ignored.append(f"{name} value")
    return tuple(ignored)


def _noticed(before: Tensor, after: Tensor) -> bool:
    change = (after.double() - before.double()).abs().flatten(1)
    return change.numel() == 0 or bool((change.amax(dim=1) > PROBE_CHANGE).all())

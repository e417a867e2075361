"""Real kernels that a compile matrix has to tell apart: one is right, the others each wrong."""

import time

import torch
import triton
import triton.language as tl

from kernels.compat.launches import Launch, Pointer


@triton.jit
def right(X, Y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, tl.load(X + at, mask=at < n) * 2, mask=at < n)


@triton.jit
def spills(X, Y, n, BLOCK: tl.constexpr):
    # 256 values a thread are alive at once, and one register too few to hold them
    at = tl.arange(0, BLOCK)
    x = tl.load(X + at)
    for _ in range(n):
        x = x * 2 + tl.sum(x, 0)
    tl.store(Y + at, x)


@triton.jit
def too_large(X, Y, n, BLOCK: tl.constexpr):
    # tiles of 128 * 128 * 2 bytes pass through shared memory, and five are in flight
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for i in range(n):
        x = tl.load(X + i * BLOCK * BLOCK + at)
        total = tl.dot(x, x, total)
    tl.store(Y + at, total.to(tl.float16))


@triton.jit
def wrong(X, Y, n, BLOCK: tl.constexpr):
    tl.store(Y + tl.arange(0, BLOCK), no_such_name)  # noqa: F821


@triton.jit
def aborts(X, Y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(X + at)
    y = tl.inline_asm_elementwise("mov.b32 $0, $7;", "=r,r", [x], tl.int32, True, 1)
    tl.store(Y + at, y)


class Endless:
    """A kernel whose compiler never comes back: asleep, for others compile meanwhile."""

    __name__ = "endless"
    params = right.params

    def warmup(self, **_):
        time.sleep(3600)


def _launch(function, block, *, dtype=torch.float32, num_warps=4, num_stages=1) -> Launch:
    args = {"X": Pointer(dtype), "Y": Pointer(dtype), "n": 7, "BLOCK": block}
    return Launch(function, args, {"num_warps": num_warps, "num_stages": num_stages})


def good(target):
    return [_launch(right, 128), _launch(right, 256)]


def bad(target):
    """Each failure once, good ones between them: the matrix has to go on after each."""
    return [
        _launch(spills, 8192, num_warps=1),
        _launch(aborts, 128, dtype=torch.int32),
        _launch(right, 128),
        _launch(Endless(), 128),
        _launch(too_large, 128, dtype=torch.float16, num_warps=8, num_stages=5),
        _launch(wrong, 16),
        _launch(right, 256),
    ]


def raising(target):
    raise RuntimeError("they are broken")


def nothing(target):
    return []

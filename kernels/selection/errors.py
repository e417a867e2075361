"""The exception tree of the selection kernels.

    SelectionError
    ├── FlagError            an NSA_* variable holds a value that it cannot have
    ├── InvalidInput         the tensors contradict each other: a bug of the caller
    └── Unsupported          valid input that a kernel cannot serve: the caller may fall back
        ├── UnsupportedShape
        ├── UnsupportedDtype
        ├── UnsupportedDevice
        ├── UnsupportedGrad
        ├── Misaligned
        └── KernelBuildError     Triton could not compile the kernel or fit it on the device

Launchers raise; only `dispatch` falls back, and only on `Unsupported`.
"""

from __future__ import annotations


class SelectionError(Exception):
    """Base of everything this package raises on purpose."""


class FlagError(SelectionError, ValueError):
    """An environment variable holds a value that it cannot have; the message names it."""


class InvalidInput(SelectionError, ValueError):
    """Shapes, dtypes or devices contradict each other. No path can serve the call."""


class Unsupported(SelectionError):
    """Valid input that this kernel cannot serve; another path can."""


class UnsupportedShape(Unsupported, ValueError):
    """A dimension is outside what the kernels tile."""


class UnsupportedDtype(Unsupported, TypeError):
    """A dtype that the kernels, or the interpreter, cannot compute in."""


class UnsupportedDevice(Unsupported, RuntimeError):
    """The tensors are on a device where Triton does not run."""


class UnsupportedGrad(Unsupported, RuntimeError):
    """An input requires grad, and the kernels have no backward of their own."""


class Misaligned(Unsupported, ValueError):
    """`NSA_SEL_TRITON_REQUIRE_ALIGN` is set and a row does not start on 16 bytes."""


class KernelBuildError(Unsupported, RuntimeError):
    """Triton could not compile the kernel, or it does not fit on the device."""

"""One Triton, one target, one process: compile every launch and report each as it is done.

Started by `matrix.py`, which outlives it: some compilers abort the process. Standard output is
lines of JSON, one a message; whatever Triton itself prints goes to standard error.

    {"is": "start", "triton": "3.1.0", "launches": ["dense_rows_fwd float16 ...", ...]}
    {"is": "target"}                                   this Triton compiles for this target at all
    {"is": "done", "registers": 90, "local_bytes": 0, "shared_bytes": 16384}     the next launch
    {"is": "done", "error": "CompilationError: ..."}

A target that this Triton does not know ends the process before `target`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl

from .launches import Launch, Pointer
from .targets import TARGETS, Target


@triton.jit
def copy_one(X, Y):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Compiles wherever the target is known at all."""
    tl.store(Y, tl.load(X))


def main() -> None:
    """Compile what `--launches` names."""
    parser = argparse.ArgumentParser(prog="python -m kernels.compat.worker")
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--launches", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--skip", type=int, default=0, help="launches that have been reported")
    options = parser.parse_args()
    report = _reporter()
    target = TARGETS[options.target]
    module, _, name = options.launches.partition(":")
    launches: list[Launch] = getattr(importlib.import_module(module), name)(target)
    report({"is": "start", "triton": triton.__version__, "launches": [str(x) for x in launches]})
    _pretend_driver(target)
    measure(Launch(copy_one, {"X": Pointer(torch.float32), "Y": Pointer(torch.float32)}))
    report({"is": "target"})
    for launch in launches[options.skip :]:
        try:
            result: dict[str, Any] = dict(measure(launch))
        except Exception as error:  # noqa: BLE001 - whatever a compiler throws is the result
            result = {"error": f"{type(error).__name__}: {error}"}
        report({"is": "done", **result})


def measure(launch: Launch) -> dict[str, int]:
    """Compile; registers a thread, bytes of local memory a thread, shared bytes a program."""
    compiled = launch.function.warmup(grid=(1,), **launch.args, **launch.options)
    registers, local_bytes = resources(compiled.asm["cubin"])
    metadata = compiled.metadata
    shared = metadata["shared"] if isinstance(metadata, dict) else metadata.shared
    return {"registers": registers, "local_bytes": local_bytes, "shared_bytes": int(shared)}


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, that a thread of this cubin takes.

    Spilled registers lie on the stack; a kernel that spills none has no stack.

    Raises:
        ValueError: cuobjdump said something else.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [_cuobjdump(), "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.findall(r"\bREG:(\d+) STACK:(\d+) .*?\bLOCAL:(\d+)", text)
    if len(found) != 1:
        raise ValueError(f"cuobjdump names {len(found)} kernels, expected one: {text!r}")
    registers, stack, local = map(int, found[0])
    return registers, stack + local


def _cuobjdump() -> Path:
    root = Path(triton.__file__).parent
    for folder in ("backends/nvidia/bin", "third_party/cuda/bin"):  # the latter in 2.3
        if (root / folder / "cuobjdump").exists():
            return root / folder / "cuobjdump"
    raise FileNotFoundError(f"Triton {triton.__version__} carries no cuobjdump under {root}")


def _pretend_driver(target: Target) -> None:
    """Triton asks its driver for the device; this one answers without having any."""
    driver = SimpleNamespace(
        binary_ext="cubin",
        get_current_device=lambda: 0,
        get_current_stream=lambda _device: 0,
        get_current_target=lambda: _gpu_target(target),
        utils=SimpleNamespace(
            get_device_properties=lambda _device: {"max_shared_mem": target.shared_limit}
        ),
    )
    active = triton.runtime.driver
    if hasattr(type(active), "set_active"):  # the instance would look for a driver
        active.set_active(driver)
    else:
        _pretend_2_3(active, driver)


def _gpu_target(target: Target) -> Any:
    try:
        from triton.backends.compiler import GPUTarget
    except ImportError:  # 2.3
        return ("cuda", target.number)
    return GPUTarget("cuda", target.number, 32)


def _pretend_2_3(proxy: Any, driver: Any) -> None:
    """2.3 builds and loads the C code of a launch right after compiling: nothing is launched."""
    from triton.compiler import compiler
    from triton.compiler.backends.cuda import CUDABackend

    def compiled(_launcher: None, metadata_path: str) -> Any:
        path = Path(metadata_path)
        return SimpleNamespace(
            metadata=json.loads(path.read_text()),
            asm={"cubin": path.with_suffix(".cubin").read_bytes()},
        )

    proxy._obj = driver
    CUDABackend.make_launcher_stub = lambda *_: None
    compiler.CompiledKernel = compiled


def _reporter() -> Callable[[object], None]:
    """Standard output is ours alone: file descriptor 1 becomes standard error for all others."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(message: object) -> None:
        print(json.dumps(message), file=channel, flush=True)

    return report


if __name__ == "__main__":
    main()

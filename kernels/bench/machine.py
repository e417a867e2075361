"""The device that a process measures, and what does not change from cell to cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from kernels.bench.clock import clock_for, l2_bytes, ready
from kernels.bench.clocks import Sampler
from kernels.bench.contract import CPU_INTERPRETER
from kernels.bench.intervals import median
from kernels.selection import op


class NoDevice(RuntimeError):
    """There is nothing to measure on; the message says what to do."""


@dataclass(frozen=True)
class Machine:
    """What the rows say of the device."""

    device: torch.device
    name: str
    """`device` of the contract."""
    launch_ms: float
    """Median time of a one-element kernel, timed as everything else."""
    gpu_id: str | None
    """By which `nvidia-smi` knows it; None where there is none."""

    @property
    def columns(self) -> dict[str, object]:
        """The columns that are equal in all rows."""
        return {
            "device": self.name,
            "l2_mib": l2_bytes(self.device) / 2**20,
            "launch_us": 1e3 * self.launch_ms,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def sampler(self) -> Sampler:
        """For the clocks of this device."""
        return Sampler(self.gpu_id)


def this_device() -> torch.device:
    """The current CUDA device, or the CPU under Triton's interpreter.

    Raises:
        NoDevice: there is neither.
    """
    if op.INTERPRETED:  # also beside a GPU: what the interpreter takes is not the GPU's time
        torch.set_num_threads(1)  # beside the interpreter's loops, more only wait for each other
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise NoDevice(
            "no CUDA device; set TRITON_INTERPRET=1 to check the kernels (not their speed) "
            "in Triton's interpreter"
        )
    return torch.device("cuda", torch.cuda.current_device())


def this_machine() -> Machine:
    """`this_device`, with its name and launch floor: nothing else may run there meanwhile.

    Raises:
        NoDevice: there is none.
    """
    device = this_device()
    if device.type == "cpu":
        return Machine(device, CPU_INTERPRETER, _launch_ms(device), None)
    return Machine(device, torch.cuda.get_device_name(device), _launch_ms(device), _gpu_id(device))


def _launch_ms(device: torch.device) -> float:
    clock = clock_for(device, 1)
    launch = ready(clock, [torch.zeros(1, device=device).zero_])
    for _ in range(20):
        clock.run(launch)
    return median(clock.milliseconds())


def _gpu_id(device: torch.device) -> str | None:
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is None:
        return None  # an older torch does not tell: better no clocks than those of another card
    return f"GPU-{str(uuid).removeprefix('GPU-')}"

"""Clocks and temperature of the GPU, from `nvidia-smi`. Standard library only."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping
from contextlib import suppress

FIELDS = {
    "sm_mhz": "clocks.sm",
    "sm_max_mhz": "clocks.max.sm",
    "mem_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
}
"""Column to the name by which `nvidia-smi` knows it."""

Reading = Mapping[str, float]


class Sampler:
    """Reads the clocks while something else runs. Empty where they cannot be read.

    `nvidia-smi` takes a while to answer, and a GPU that is waited for is soon idle: `start` reads
    beside the work, `result` waits for what was started.
    """

    def __init__(self, device_id: str | None) -> None:
        self._device_id = device_id
        self._running: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Begin a reading; does nothing without a device."""
        if self._device_id is None:
            return
        query = ",".join(FIELDS.values())
        with suppress(OSError):  # not installed
            self._running.append(
                subprocess.Popen(
                    [
                        "nvidia-smi",
                        f"--id={self._device_id}",
                        f"--query-gpu={query}",
                        "--format=csv,noheader,nounits",
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )

    def result(self) -> dict[str, float | str]:
        """Of all readings since the last result: the lowest clocks, the highest temperature."""
        readings = [parse(_output(process)) for process in self._running]
        self._running.clear()
        found: dict[str, float | str] = dict.fromkeys(FIELDS, "")
        for name in FIELDS:
            values = [reading[name] for reading in readings if name in reading]
            if values:
                found[name] = max(values) if name == "temperature_c" else min(values)
        return found


def _output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ""


def parse(text: str) -> Reading:
    """Parse one line of `--format=csv,noheader,nounits`; leaves out what is not a number."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        return {}
    fields = [field.strip() for field in lines[0].split(",")]
    if len(fields) != len(FIELDS):
        return {}
    found = {}
    for name, field in zip(FIELDS, fields, strict=True):
        with suppress(ValueError):  # "[N/A]"
            if math.isfinite(float(field)):
                found[name] = float(field)
    return found

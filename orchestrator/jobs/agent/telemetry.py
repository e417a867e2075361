"""What the GPUs were doing while a job ran: `nvidia-smi`, which may be missing, slow or stuck.

`telemetry.csv` has one line for each GPU and sample, under this header:

    timestamp_ms       when nvidia-smi looked, milliseconds since 1970
    index, name        of the GPU, as nvidia-smi says
    sm_mhz, max_sm_mhz, mem_mhz
    power_w, temperature_c
    throttle_reasons   bitmask of the clocks' active throttle (event) reasons, hexadecimal
    utilization_pct
    memory_used_mib, memory_total_mib
    foreign_processes  how many compute on it that are not the job's
    foreign_pids       which, separated by blanks; `?` for one that may be the job's, as it is in
                       another pid namespace, or where nvidia-smi does not list them at all: the
                       number is empty where there are no others

A value that nvidia-smi does not know is empty.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable

from .files import write_all
from .processes import signal_group

COLUMNS = (
    *("timestamp_ms", "index", "name", "sm_mhz", "max_sm_mhz", "mem_mhz", "power_w"),
    *("temperature_c", "throttle_reasons", "utilization_pct", "memory_used_mib"),
    *("memory_total_mib", "foreign_processes", "foreign_pids"),
)
PROGRAM = "nvidia-smi"
SAMPLE_MS, APPS_MS = 1000, 2000
APPS_FRESH_S = 5.0  # a process not listed for so long has left the GPU
LONGEST_LINE = 1 << 12
STEP_BYTES = 1 << 20  # with each of them written, half as many samples are kept
LIMIT_BYTES = 16 << 20

_FIELDS = (
    "timestamp,index,name,uuid,clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu,"
    "{throttle},utilization.gpu,memory.used,memory.total"
)
# The name of one field changed with driver 535, and an unknown name fails the whole query.
_THROTTLE = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")


class Telemetry:
    """Samples into a file for as long as a job runs. Never waits for nvidia-smi.

    Two of them run: one says what the GPUs do, the other who computes on them. The owner polls, and
    calls `read` when either has said something.
    """

    def __init__(
        self, path: Path, devices: str, is_ours: Callable[[int], bool], poller: select.poll
    ) -> None:
        named = all(part.isdigit() or part.startswith("GPU-") for part in devices.split(","))
        self._only = [f"--id={devices}"] if named else []  # those that the job sees
        self._path = path
        self._is_ours = is_ours
        self._poller = poller
        self._queries = [_FIELDS.format(throttle=name) for name in _THROTTLE]
        self._running: dict[int, subprocess.Popen[bytes]] = {}  # by descriptor
        self._pending: dict[int, bytes] = {}
        self._gpus_fd = self._apps_fd = -1
        self._file = -1
        self._written = 0
        self._samples: dict[str, int] = {}  # by GPU
        self._apps: dict[tuple[str, int], float] = {}  # GPU and pid: seen when

    def start(self) -> None:
        """Begin, where there is an nvidia-smi."""
        if any(os.access(Path(place) / PROGRAM, os.X_OK) for place in os.get_exec_path()):
            self._apps_fd = self._run("--query-compute-apps=gpu_uuid,pid", APPS_MS)
            self._gpus_fd = self._run(f"--query-gpu={self._queries.pop(0)}", SAMPLE_MS)

    def stop(self) -> None:
        """End it. A process that is stuck in the driver is left to its fate."""
        for fd in list(self._running):
            self._end(fd)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def owns(self, fd: int) -> bool:
        """Say whether `read` is the one to call for this descriptor."""
        return fd in self._running

    def read(self, fd: int) -> None:
        """Take what an nvidia-smi has said."""
        data = os.read(fd, LONGEST_LINE)
        *lines, rest = (self._pending[fd] + data).split(b"\n")
        self._pending[fd] = rest
        try:
            for line in lines:
                values = [value.strip() for value in line.decode("ascii", "replace").split(",")]
                (self._take_gpu if fd == self._gpus_fd else self._take_app)(values)
        except OSError:  # a full disk: what room there is belongs to the job
            self.stop()
            return
        if not data or len(rest) > LONGEST_LINE:
            self._end(fd)
            if fd == self._gpus_fd and not self._written and self._queries:
                self._gpus_fd = self._run(f"--query-gpu={self._queries.pop(0)}", SAMPLE_MS)

    def _run(self, query: str, every_ms: int) -> int:
        argv = [
            PROGRAM,
            *self._only,
            query,
            "--format=csv,noheader,nounits",
            f"--loop-ms={every_ms}",
        ]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return -1
        assert process.stdout is not None  # noqa: S101 - for the type checker
        fd = process.stdout.fileno()
        os.set_blocking(fd, False)
        self._running[fd], self._pending[fd] = process, b""
        self._poller.register(fd, select.POLLIN)
        return fd

    def _end(self, fd: int) -> None:
        self._poller.unregister(fd)
        process = self._running.pop(fd)
        del self._pending[fd]
        signal_group(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
        process.poll()  # reaped if it has gone by now, by init if not

    def _take_app(self, values: list[str]) -> None:
        with contextlib.suppress(ValueError):
            uuid, pid = values
            self._apps[uuid, int(pid)] = time.monotonic()

    def _take_gpu(self, values: list[str]) -> None:
        if len(values) != _FIELDS.count(",") + 1 or not values[1].isdigit():
            return  # a message, no sample
        stamp, index, name, uuid, *measured = values
        count = self._samples.get(index, 0)
        self._samples[index] = count + 1
        if self._written >= LIMIT_BYTES or count % (1 << self._written // STEP_BYTES):
            return
        known = [value if _is_known(value) else "" for value in measured]
        row = [str(_epoch_ms(stamp)), index, _printable(name), *known, *self._foreign(uuid)]
        self._write(",".join(row) + "\n")

    def _foreign(self, uuid: str) -> tuple[str, str]:
        """Return how many others compute on the GPU, and which."""
        if not self.owns(self._apps_fd):
            return "", "?"
        fresh = time.monotonic() - APPS_FRESH_S
        apps = [pid for (gpu, pid), seen in self._apps.items() if gpu == uuid and seen > fresh]
        others = {pid for pid in apps if not self._is_ours(pid)}
        here = {pid for pid in others if Path(f"/proc/{pid}").exists()}
        number = "" if others and not here else str(len(here))
        return number, " ".join([*map(str, sorted(here)), *["?"] * bool(others - here)])

    def _write(self, line: str) -> None:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # the job may have put a FIFO there
            self._file = os.open(self._path, flags, 0o600)
            line = ",".join(COLUMNS) + "\n" + line
        data = line.encode("ascii")
        write_all(self._file, data)
        self._written += len(data)


def _is_known(value: str) -> bool:
    """Numbers, the bitmask included; not `[N/A]`, `[Not Supported]`, `[Unknown Error]`."""
    try:
        if value.startswith("0x"):
            return int(value, 16) >= 0
        return 0 <= float(value) < float("inf")
    except ValueError:
        return False


def _printable(name: str) -> str:
    return "".join(letter for letter in name if letter.isprintable() and letter not in '",�')


def _epoch_ms(stamp: str) -> int:
    """When the sample was taken; its output may have waited in a pipe since.

    nvidia-smi writes local time, `2026/11/23 11:26:01.123`. Where that makes no sense, now.
    """
    now = int(1000 * time.time())
    day, _, clock = stamp.partition(" ")
    seconds, _, ms = clock.partition(".")
    try:
        numbers = [int(part) for part in (*day.split("/"), *seconds.split(":"))]
        then = int(1000 * time.mktime((*numbers, 0, 0, -1))) + int(ms or 0)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return now
    return then if abs(now - then) < 60_000 else now

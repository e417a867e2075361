"""The process that owns a job from its start to its result."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Mapping

from .device import Device, describe
from .directory import Job
from .exposure import search
from .files import CHUNK, write_whole
from .masking import Redactor
from .memory import OomKills, oom_kills
from .processes import belongs, group_alive, identity_of, signal_group, this_boot, wait_until
from .room import disk_use, free_bytes
from .spec import Spec, encode
from .telemetry import Telemetry

DISK_FULL_BYTES = 1 << 20  # less than this left, and a failure is put down to the disk
DEVICE_POLL_MS = 100
LOG_TAIL_BYTES = 1 << 16
CUDA_OOM = (  # torch, the driver, the runtime
    b"CUDA out of memory",
    b"OutOfMemoryError",
    b"CUDA_ERROR_OUT_OF_MEMORY",
    b"cudaErrorMemoryAllocation",
)
GRACE_S = 2.0  # for output still in the pipe once the command has exited


class Supervisor:
    """Owns the job from its start to its result; the only writer of log and result."""

    def __init__(self, job: Job, spec: Spec) -> None:
        self._job = job
        self._spec = spec
        self._secrets = {name: encode(value) for name, value in spec.secrets.items()}
        self._redactor = Redactor(list(self._secrets.values()))
        self._log_fd = -1
        self._log_bytes = 0
        self._log_hash = hashlib.sha256()
        self._write_error: OSError | None = None
        self._began_at: float | None = None
        self._began = self._deadline = float("inf")  # monotonic
        self._oom_kills = OomKills(0, 0)  # when the command began
        devices = {**os.environ, **spec.env}.get("CUDA_VISIBLE_DEVICES", "")
        self._device = Device(spec.lock, devices)
        self._process: dict[str, Any] = {}  # what process.json holds
        self._poller = select.poll()
        self._telemetry = Telemetry(job.telemetry, devices, self._is_ours, self._poller)
        self._wake_fd = -1
        self._asked_to_stop = False  # by SIGTERM
        self._stopped_by: str | None = None  # cancel, signal, disk or timeout
        self._kill_at: float | None = None
        self._exited_at: float | None = None

    def run(self, tell_ready: Callable[[], None]) -> None:
        """Start the command, see it through, record how it ended."""
        job = self._job
        self._catch_signals()
        self._register(boot_id=this_boot(), supervisor=identity_of(os.getpid()), command=None)
        if not self._wait_for_device(tell_ready):
            return
        try:
            write_whole(job.started, {"at": time.time()})
            if job.cancelled.exists():
                self.record("CANCELLED")
                return
            self._log_fd = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            self._write_error = error
            self.record(*self._outcome(None, None))
            return
        try:
            command = self._start()
        except OSError as error:
            culprit = os.fsdecode(error.filename or self._spec.argv[0])
            hint = f"cannot start: {culprit}: {error.strerror}"
            self._write(encode(f"{hint}\n"))
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            self.record("FAILED", "exit", hint, exit_code=127 if missing else 126)
            return
        try:
            try:
                self._register(command=identity_of(command.pid))
                self._device.sign(self._spec.job_id, command.pid)
            except OSError as error:  # it was quick to fill the disk
                self._write_error = error
            tell_ready()
            self._telemetry.start()
            self._see_through(command)
        finally:
            self._telemetry.stop()
            # Before reaping: the zombie keeps the number of the group from being used again.
            signal_group(command.pid, signal.SIGKILL)
        self._drain(command)
        _, status, usage = os.wait4(command.pid, 0)
        by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        exit_code = None if by_signal else os.WEXITSTATUS(status)
        command.returncode = status  # it has been reaped
        wait_until(lambda: not group_alive(command.pid), 1)
        self._device.leave()
        self._write(self._redactor.feed(b"", final=True))
        outcome = self._outcome(exit_code, by_signal)
        peak = usage.ru_maxrss * 1024
        self.record(
            *outcome,
            withheld=search(job.out, self._secrets),
            exit_code=exit_code,
            signal=by_signal,
            max_rss_bytes=peak,
        )

    def record(
        self,
        state: str,
        reason: str | None = None,
        hint: str | None = None,
        withheld: Mapping[str, Any] = MappingProxyType({}),
        **ended: int | None,
    ) -> None:
        """Write the result, over the reserved blocks, so that a full disk cannot prevent it."""
        ran = self._began_at is not None
        content = {
            "job_id": self._spec.job_id,
            "state": state,
            "reason": reason,
            "exit_code": None,
            "signal": None,
            "max_rss_bytes": None,
            **ended,
            "started_at": self._began_at,
            "ended_at": time.time(),
            "duration_s": time.monotonic() - self._began if ran else 0.0,
            "log_bytes": self._log_bytes,
            "log_sha256": self._log_hash.hexdigest(),
            "hint": hint,
            "withheld": dict(withheld),
        }
        job = self._job
        if job.result.is_dir():  # which the job has made; unlike a file it would not give way
            job.result.rename(job.dir / f"result.{os.getpid()}")
        try:
            write_whole(job.result, content, via=job.reserve)
        except OSError:
            # A copy-on-write disk needs new blocks even for this: free the reserved ones.
            with contextlib.suppress(FileNotFoundError):
                job.reserve.unlink()
            write_whole(job.result, content)

    def _register(self, **known: Any) -> None:
        self._process.update(known)
        write_whole(self._job.process, self._process, durably=False)

    def _wait_for_device(self, tell_ready: Callable[[], None]) -> bool:
        """Take the device; False when the job is not to start after all."""
        while True:
            try:
                holder = self._device.take()
            except OSError as error:
                why = f"the device cannot be locked: {error.filename}: {error.strerror}"
                self.record("FAILED", "busy", why)
                return False
            if holder is None:
                self._device.sign(self._spec.job_id, os.getpid())
                return True
            if self._job.cancelled.exists():
                self.record("CANCELLED")
                return False
            if self._asked_to_stop:
                return False
            if not self._spec.lock_wait:
                self.record("FAILED", "busy", f"the device is taken by {describe(holder)}")
                return False
            if holder != self._process.get("waiting_for"):
                self._register(waiting_for=holder)
            tell_ready()
            self._poll(DEVICE_POLL_MS)

    def _poll(self, timeout_ms: float) -> bool:
        """Wait for output of the command, a signal or the time; True if it was output."""
        output = False
        for fd, _ in self._poller.poll(timeout_ms):
            if fd == self._wake_fd:
                os.read(fd, CHUNK)
            elif self._telemetry.owns(fd):
                self._telemetry.read(fd)
            else:
                output = True
        return output

    def _is_ours(self, pid: int) -> bool:
        return belongs(pid, self._process["command"]["pid"], self._job.dir)

    def _catch_signals(self) -> None:
        """Make signals wake the loop; unlike SIG_IGN, handlers are not inherited."""

        def on_term(_number: int, _frame: object) -> None:
            self._asked_to_stop = True

        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, on_term)
        self._wake_fd, write_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self._poller.register(self._wake_fd, select.POLLIN)

    def _start(self) -> subprocess.Popen[bytes]:
        spec, job = self._spec, self._job
        cwd = Path(spec.cwd) if spec.cwd else job.dir
        if not cwd.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "no such working directory", str(cwd))
        ours = {"ORCH_JOB_DIR": str(job.dir), "ORCH_OUT": str(job.out)}
        env = {**spec.env, **spec.secrets, **ours}
        self._oom_kills = oom_kills()
        self._began_at, self._began = time.time(), time.monotonic()
        self._deadline = self._began + (spec.timeout_s or float("inf"))
        return subprocess.Popen(
            [encode(word) for word in spec.argv],
            cwd=encode(str(cwd)),
            env={**os.environb, **{encode(name): encode(env[name]) for name in env}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=self._device.locks,
            start_new_session=True,
        )

    def _see_through(self, command: subprocess.Popen[bytes]) -> None:
        """Copy output until the command is done, stopping it where that is called for."""
        assert command.stdout is not None  # noqa: S101 - for the type checker
        pipe_fd = command.stdout.fileno()
        os.set_blocking(pipe_fd, False)
        self._poller.register(pipe_fd, select.POLLIN)
        output_ended = False
        while True:
            now = time.monotonic()
            peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if self._exited_at is None and os.waitid(os.P_PID, command.pid, peek):
                self._exited_at = now
            self._enforce(command.pid, now)
            if self._is_over(command.pid, now, output_ended):
                return
            if self._poll(self._wait_ms(now)) and not self._copy(pipe_fd):
                output_ended = True
                self._poller.unregister(pipe_fd)

    def _enforce(self, pgid: int, now: float) -> None:
        if self._exited_at is None and self._stopped_by is None:
            if self._job.cancelled.exists():
                self._stopped_by = "cancel"
            elif self._asked_to_stop:
                self._stopped_by = "signal"
            elif self._write_error:
                self._stopped_by = "disk"
            elif now >= self._deadline:
                self._stopped_by = "timeout"
            if self._stopped_by:
                signal_group(pgid, signal.SIGTERM)
                self._kill_at = now + self._spec.kill_after_s
        if self._kill_at is not None and now >= self._kill_at:
            signal_group(pgid, signal.SIGKILL)

    def _is_over(self, pgid: int, now: float, output_ended: bool) -> bool:
        if self._exited_at is None:
            return False
        # Children of a stopped command clean up as long as it could have.
        if self._kill_at is not None and now < self._kill_at and group_alive(pgid):
            return False
        # A process that left the group may hold the pipe for ever.
        return output_ended or now >= self._exited_at + GRACE_S

    def _wait_ms(self, now: float) -> float:
        if self._exited_at is not None or self._stopped_by is not None:
            return 20
        return 1000 * max(0.0, min(1.0, self._deadline - now))

    def _copy(self, pipe_fd: int) -> bool:
        data = os.read(pipe_fd, CHUNK)
        self._write(self._redactor.feed(data))
        return bool(data)

    def _drain(self, command: subprocess.Popen[bytes]) -> None:
        """Take what is left in the pipe: at most what a pipe holds, as it may still be written."""
        assert command.stdout is not None  # noqa: S101 - for the type checker
        with command.stdout as pipe, contextlib.suppress(BlockingIOError):
            for _ in range(16):
                if not self._copy(pipe.fileno()):
                    return

    def _write(self, data: bytes) -> None:
        """Append to the log; after the first failure nothing more, so that it stays a prefix."""
        view = memoryview(data)
        while view and self._write_error is None:
            try:
                written = os.write(self._log_fd, view)
            except OSError as error:
                self._write_error = error
                return
            self._log_hash.update(view[:written])
            self._log_bytes += written
            view = view[written:]

    def _outcome(
        self, exit_code: int | None, by_signal: int | None
    ) -> tuple[str, str | None, str | None]:
        """Return state, reason and hint."""
        # A shell reports the signal of its child as 128 + number.
        killed = by_signal == signal.SIGKILL or exit_code == 128 + signal.SIGKILL
        now, before = oom_kills(), self._oom_kills
        if self._stopped_by == "cancel":
            return "CANCELLED", None, None
        if self._stopped_by == "timeout":
            return "FAILED", "timeout", f"stopped after {self._spec.timeout_s} s"
        if self._write_error:
            name = Path(os.fsdecode(self._write_error.filename or self._job.log)).name
            why = f"{name}: {self._write_error.strerror}"
            return "FAILED", "disk", f"{why}; {disk_use(self._job)}"
        if self._stopped_by == "signal":
            return "FAILED", "signal", "the supervisor got SIGTERM; is the pod shutting down?"
        if exit_code == 0:
            return "SUCCEEDED", None, None
        if now.cgroup > before.cgroup:
            return "FAILED", "oom", "out of host memory: the limit of the pod's cgroup was reached"
        if killed and now.host > before.host:
            return "FAILED", "oom", "out of host memory: the kernel killed a process"
        if free_bytes(self._job.dir) < DISK_FULL_BYTES:
            return "FAILED", "disk", disk_use(self._job)
        if by_signal:
            hint = "SIGKILL came from outside the job's supervisor" if killed else None
            return "FAILED", "signal", hint
        return "FAILED", "exit", self._hint_from_log()

    def _hint_from_log(self) -> str | None:
        """A guess for people; what the job's state is, no text in a log has a say in."""
        with contextlib.suppress(OSError), self._job.log.open("rb") as log:
            log.seek(max(0, self._log_bytes - LOG_TAIL_BYTES))
            tail = log.read(LOG_TAIL_BYTES)
            if any(words in tail for words in CUDA_OOM):
                return "CUDA out of memory, says the log: use a larger GPU, or smaller shapes"
        return None

"""Runs one job on a pod and leaves the truth about it in the job directory.

Copied to the pod as this single file; needs Linux and Python 3.8, nothing else.

    python3 agent.py submit JOBDIR < spec.json      start it, once and only once
    python3 agent.py status JOBDIR                  what is true now
    python3 agent.py follow JOBDIR OFFSET           the log's bytes from OFFSET, as they come
    python3 agent.py cancel JOBDIR                  TERM, then KILL
    python3 agent.py manifest JOBDIR [MAX_BYTES]    what lies in out/, with checksums
    python3 agent.py version

Each prints one line of JSON (`follow`: raw bytes). A refusal is `{"error": ...}` with exit code 2
(the call or the spec is wrong) or 3 (the pod's state forbids it); `follow` says so on stderr.

The job directory, in the order in which its files appear:

    job.json      the spec, with the names of the secrets only; there before anything starts
    reserve       disk blocks kept for the result, should the disk fill up; becomes result.json
    out/          what the job leaves for collection
    lock          held (flock) from the start of the supervisor to its end
    agent.log     what went wrong in the supervisor itself; normally empty
    process.json  pids with start times and boot, so that a reused pid is never mistaken for ours;
                  while the job waits for the device, who has it
    started       once this is there the job is never started again
    log           stdout and stderr of the command, secrets masked
    cancelled     somebody asked to stop
    result.json   how it ended; wins over everything else

A spec with a `lock` runs alone on its devices: the supervisor takes `<lock>.<index>` (flock) for
each GPU in CUDA_VISIBLE_DEVICES, for every GPU where that names none by number, and shares it with
the command, so that the device stays taken for as long as either lives. The files are common to all
users of the pod and are never removed. A job that waits is SUBMITTED, its timeout does not run, and
should its supervisor die, nothing was started: submit it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, NoReturn

VERSION = 1
CHUNK = 1 << 16
RESERVE_BYTES = 1 << 16
DISK_FULL_BYTES = 1 << 20  # less than this left, and a failure is put down to the disk
POLL_S = 0.05
DEVICE_POLL_MS = 100
LOG_TAIL_BYTES = 1 << 16
GRACE_S = 2.0  # for output still in the pipe once the command has exited
MASK = b"***"
NOTE_BYTES = 2048  # what the holder of a device writes into the lock file, padded
# What makes two submissions the same one; values of secrets are never stored, so only their names.
IDENTITY = ("job_id", "argv", "cwd", "env", "timeout_s", "secret_names")


class Refused(Exception):
    """Why nothing was done; the caller gets it as JSON."""

    def __init__(self, message: str, exit_code: int = 3) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Spec(NamedTuple):
    """What to run, as given on stdin."""

    job_id: str
    argv: list[str]
    cwd: str | None = None  # None: the job directory
    env: Mapping[str, str] = {}
    timeout_s: float | None = None
    kill_after_s: float = 10.0
    secrets: Mapping[str, str] = {}
    min_free_bytes: int = 0
    lock: str | None = None  # None: others may run on the device meanwhile
    lock_wait: bool = True  # False: FAILED, reason "busy", where it is taken

    @classmethod
    def parse(cls, raw: bytes) -> Spec:
        """Read and check the JSON; what is refused is named, but never a secret's value."""
        try:
            spec = cls(**json.loads(raw))
        except (ValueError, TypeError) as error:
            names = ", ".join(cls._fields)
            raise Refused(f"bad spec: {type(error).__name__}; fields are {names}", 2) from None
        checks = {
            "job_id": _is_text(spec.job_id) and bool(spec.job_id),
            "argv": isinstance(spec.argv, list) and spec.argv and all(map(_is_text, spec.argv)),
            "cwd": spec.cwd is None or _is_path(spec.cwd),
            "env": _is_env(spec.env),
            "secrets": _is_env(spec.secrets) and all(spec.secrets.values()),
            "timeout_s": spec.timeout_s is None or (_is_number(spec.timeout_s) and spec.timeout_s),
            "kill_after_s": _is_number(spec.kill_after_s),
            "min_free_bytes": _is_number(spec.min_free_bytes),
            "lock": spec.lock is None or _is_path(spec.lock),
            "lock_wait": isinstance(spec.lock_wait, bool),
        }
        bad = [name for name, good in checks.items() if not good]
        if bad:
            raise Refused(f"bad spec: wrong type or value of {', '.join(bad)}", 2)
        public = [spec.job_id, *spec.argv, spec.cwd or "", *spec.env, *spec.env.values()]
        for name, value in spec.secrets.items():
            if name in spec.env or any(value in text for text in public):
                raise Refused(f"bad spec: secret {name} occurs outside of secrets", 2)
        return spec

    def record(self) -> dict[str, Any]:
        """Return what job.json holds: everything but the values of the secrets."""
        fields = {name: value for name, value in self._asdict().items() if name != "secrets"}
        return {**fields, "secret_names": sorted(self.secrets), "agent_version": VERSION}


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in _encode(value)
    except UnicodeEncodeError:
        return False


def _is_path(value: Any) -> bool:
    return _is_text(value) and bool(value.startswith("/"))


def _is_env(value: object) -> bool:
    return isinstance(value, dict) and all(
        name and "=" not in name and _is_text(name) and _is_text(text)
        for name, text in value.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _encode(text: str) -> bytes:
    # UTF-8 whatever the login shell's locale says
    return text.encode("utf-8", "surrogateescape")


class Job:
    """One job directory: its paths, and what can be read from them."""

    def __init__(self, directory: str) -> None:
        self.dir = Path(directory).absolute()
        self.spec = self.dir / "job.json"
        self.reserve = self.dir / "reserve"
        self.out = self.dir / "out"
        self.lock = self.dir / "lock"
        self.agent_log = self.dir / "agent.log"
        self.process = self.dir / "process.json"
        self.started = self.dir / "started"
        self.log = self.dir / "log"
        self.cancelled = self.dir / "cancelled"
        self.result = self.dir / "result.json"

    def create(self, spec: Spec) -> None:
        """Bring the directory into being with its job.json, or leave the one that is there."""
        self.dir.parent.mkdir(parents=True, exist_ok=True)
        draft = Job(str(self.dir.with_name(f".{self.dir.name}.{os.getpid()}.{time.time_ns()}")))
        try:
            draft.dir.mkdir(mode=0o700)
            draft.out.mkdir(mode=0o700)
            # Random, because a compressing filesystem would keep no blocks for zeros.
            draft.reserve.touch(mode=0o600)
            draft.reserve.write_bytes(os.urandom(RESERVE_BYTES))
            record = {**spec.record(), "created_at": time.time()}
            _write_durably(draft.spec, record)
            draft.dir.rename(self.dir)
            _fsync_directory(self.dir.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                for path in draft.dir.iterdir():
                    path.rmdir() if path.is_dir() else path.unlink()
                draft.dir.rmdir()
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # somebody else was first
                raise

    def try_lock(self) -> int | None:
        """Return a descriptor that holds the lock until every copy of it is closed, or None."""
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        if _flock(fd):
            return fd
        os.close(fd)
        return None

    def status(self) -> dict[str, Any]:
        """Return what is true now, by files and live processes."""
        # In the reverse of the order of writing, so that no step between two looks misleads:
        # `started` implies a process.json, and a supervisor that is gone has left its result.
        started = self.started.exists()
        process = _read_json(self.process) or {}
        supervisor, command = process.get("supervisor"), process.get("command")
        supervised = _alive(supervisor, process.get("boot_id"))
        result = _read_json(self.result)
        if result is not None:
            state = str(result["state"])
        elif not self.spec.exists():
            state = "ABSENT"
        elif not started:
            state = "SUBMITTED"
        else:
            state = "RUNNING" if supervised else "LOST"
        waits = state == "SUBMITTED" and supervised
        return {
            "job_id": (_read_json(self.spec) or {}).get("job_id"),
            "state": state,
            "pid": command and command["pid"],
            "supervisor_pid": supervisor and supervisor["pid"],
            "command_alive": _alive(command, process.get("boot_id")),
            "cancel_requested": self.cancelled.exists(),
            "waiting_for": process.get("waiting_for") if waits else None,
            "log_bytes": self.log.stat().st_size if self.log.exists() else 0,
            "result": result,
        }


# -- files ------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_durably(path: Path, content: dict[str, Any], via: Path | None = None) -> None:
    """Write `via`, keeping the blocks it has, and rename it to `path`."""
    via = via or path.with_name(f"{path.name}.tmp")
    data = json.dumps(content).encode() + b"\n"
    fd = os.open(via, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        _write_all(fd, data)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    via.replace(path)
    _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _free_bytes(path: Path) -> int:
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _tree_bytes(top: Path) -> int:
    """Bytes on the disk of the files below `top`; some may go away meanwhile."""
    total = 0
    for path in _walk(top)[0]:
        with contextlib.suppress(OSError):
            total += 512 * path.lstat().st_blocks
    return total


# -- the device -------------------------------------------------------------------------------


class Device:
    """The devices a job has to itself, each stood for by a file that is locked."""

    def __init__(self, lock: str | None, env: Mapping[str, str]) -> None:
        named = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if all(name.strip().isdigit() for name in named):
            numbers = set(map(int, named))
        else:  # not set, or set to something else than numbers: any may be meant
            numbers = set(range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or 1))
        self._paths = [f"{lock}.{number}" for number in sorted(numbers)] if lock else []
        self.locks: list[int] = []

    def take(self) -> dict[str, Any] | None:
        """Take every lock and return None; or take none and return who has one."""
        for path in self._paths:
            fd = _open_shared(path)
            self.locks.append(fd)
            if not _flock(fd) or not _is_at(fd, path):
                holder = _holder(fd)
                self.leave()
                return holder
        return None

    def leave(self) -> None:
        """Unlock, also for processes that left the command's group with the descriptors."""
        for fd in self.locks:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
        self.locks = []

    def sign(self, job_id: str, pid: int) -> None:
        """Say in the files who has it, each in one write that nobody sees half of."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        note = {"job_id": job_id, "pid": pid, "user": user, "since": time.time()}
        for fd in self.locks:
            with contextlib.suppress(OSError):  # a full disk; the lock is what counts
                os.pwrite(fd, json.dumps(note).encode().ljust(NOTE_BYTES), 0)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_shared(path: str) -> int:
    """Open a file that every user may lock, in a directory where anybody may have put something."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            # Without O_CREAT, which fs.protected_regular refuses on a file of somebody else.
            fd = os.open(path, flags)
        except FileNotFoundError:
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            os.fchmod(fd, 0o666)  # whatever the umask
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:  # 0: removed just now
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file with one name", path)


def _is_at(fd: int, path: str) -> bool:
    """Say whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> dict[str, Any]:
    """Read who says to hold the lock; anybody can write there, so only what makes sense counts."""
    try:
        note = json.loads(os.pread(fd, NOTE_BYTES, 0))
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        note = {}
    kinds: dict[str, Any] = {"job_id": str, "pid": int, "user": str, "since": (int, float)}
    return {key: note.get(key) if isinstance(note.get(key), kinds[key]) else None for key in kinds}


def _describe(holder: dict[str, Any]) -> str:
    if holder["job_id"] is None:
        return "another process"
    return f"job {holder['job_id']} of {holder['user']} (process {holder['pid']})"


# -- processes --------------------------------------------------------------------------------


class ProcStat(NamedTuple):
    """The part of /proc/PID/stat that tells processes apart."""

    state: str
    pgid: int
    start_ticks: int


def _proc_stat(pid: int) -> ProcStat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # the name before it may hold anything
    return ProcStat(fields[0].decode(), int(fields[2]), int(fields[19]))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _identity(pid: int) -> dict[str, int]:
    found = _proc_stat(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return {"pid": pid, "pgid": found.pgid, "start_ticks": found.start_ticks}


def _alive(identity: dict[str, int] | None, boot_id: str | None) -> bool:
    """Say whether this very process runs; a zombie does not, and a reused pid is another one."""
    if identity is None or boot_id != _boot_id():
        return False
    found = _proc_stat(identity["pid"])
    return (
        found is not None
        and found.state not in "ZX"
        and found.start_ticks == identity["start_ticks"]
    )


def _group_alive(pgid: int) -> bool:
    members = (_proc_stat(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return any(found and found.pgid == pgid and found.state not in "ZX" for found in members)


def _signal_group(pgid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, number)
        if number == signal.SIGTERM:
            os.killpg(pgid, signal.SIGCONT)  # a stopped process gets its TERM only then


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _counter(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None


def _cgroup_oom_kills() -> int:
    """Read how often the OOM killer struck in our cgroup, v2 or v1."""
    mount = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = mount, "memory.events"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.oom_control"
        else:
            continue
        for directory in (root / path.lstrip("/"), root):  # in a container the path may not be ours
            kills = _counter(directory / name, "oom_kill")
            if kills is not None:
                return kills
    return 0


def _host_oom_kills() -> int:
    return _counter(Path("/proc/vmstat"), "oom_kill") or 0


# -- the supervisor ---------------------------------------------------------------------------


class Redactor:
    """Masks secrets in a stream, also one that arrives in pieces; holds back only what it must."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = secrets
        self._tail = b""
        self._masked = 0  # leading bytes of the tail whose mask is already out

    def feed(self, data: bytes, final: bool = False) -> bytes:
        """Return what can be written by now."""
        if not self._secrets:
            return data
        data = self._tail + data
        cut = len(data) if final else len(data) - self._open_suffix(data)
        out, position = [], 0
        for start, end in self._spans(data):
            if start >= cut:
                break
            out.append(data[position:start])
            if start or not self._masked:
                out.append(MASK)
            position = end
        out.append(data[position:cut])
        self._tail, self._masked = data[cut:], max(0, position - cut)
        return b"".join(out)

    def _open_suffix(self, data: bytes) -> int:
        """Length of the longest end of `data` that may turn out to be the start of a secret."""
        longest = max(map(len, self._secrets)) - 1
        for length in range(min(longest, len(data)), 0, -1):
            if any(secret.startswith(data[-length:]) for secret in self._secrets):
                return length
        return 0

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """Say where secrets lie, overlapping ones joined, so that no part of either shows."""
        found = [(0, self._masked)] if self._masked else []
        for secret in self._secrets:
            start = data.find(secret)
            while start >= 0:
                found.append((start, start + len(secret)))
                start = data.find(secret, start + 1)
        joined: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if joined and start < joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return joined


class Supervisor:
    """Owns the job from its start to its result; the only writer of log and result."""

    def __init__(self, job: Job, spec: Spec) -> None:
        self._job = job
        self._spec = spec
        self._redactor = Redactor([_encode(value) for value in spec.secrets.values()])
        self._log_fd = -1
        self._log_bytes = 0
        self._log_hash = hashlib.sha256()
        self._log_error: OSError | None = None
        self._began_at: float | None = None
        self._began = self._deadline = float("inf")  # monotonic
        self._oom_kills = (0, 0)  # when the command began
        self._device = Device(spec.lock, {**os.environ, **spec.env})
        self._process: dict[str, Any] = {}  # what process.json holds
        self._poller = select.poll()
        self._wake_fd = -1
        self._asked_to_stop = False  # by SIGTERM
        self._stopped_by: str | None = None  # cancel, signal, disk or timeout
        self._kill_at: float | None = None
        self._exited_at: float | None = None

    def run(self, tell_ready: Callable[[], None]) -> None:
        """Start the command, see it through, record how it ended."""
        job = self._job
        self._catch_signals()
        self._register(boot_id=_boot_id(), supervisor=_identity(os.getpid()), command=None)
        if not self._wait_for_device(tell_ready):
            return
        _write_durably(job.started, {"at": time.time()})
        if job.cancelled.exists():
            self.record("CANCELLED")
            return
        try:
            self._log_fd = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            self._log_error = error
            self.record(*self._outcome(None, None))
            return
        try:
            command = self._start()
        except OSError as error:
            culprit = os.fsdecode(error.filename or self._spec.argv[0])
            hint = f"cannot start: {culprit}: {error.strerror}"
            self._write(_encode(f"{hint}\n"))
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            self.record("FAILED", "exit", hint, exit_code=127 if missing else 126)
            return
        try:
            self._register(command=_identity(command.pid))
            self._device.sign(self._spec.job_id, command.pid)
            tell_ready()
            self._see_through(command)
        finally:
            # Before reaping: the zombie keeps the number of the group from being used again.
            _signal_group(command.pid, signal.SIGKILL)
        self._drain(command)
        _, status, usage = os.wait4(command.pid, 0)
        by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        exit_code = None if by_signal else os.WEXITSTATUS(status)
        command.returncode = status  # it has been reaped
        _wait_until(lambda: not _group_alive(command.pid), 1)
        self._device.leave()
        self._write(self._redactor.feed(b"", final=True))
        outcome = self._outcome(exit_code, by_signal)
        peak = usage.ru_maxrss * 1024
        self.record(*outcome, exit_code=exit_code, signal=by_signal, max_rss_bytes=peak)

    def record(
        self,
        state: str,
        reason: str | None = None,
        hint: str | None = None,
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
        }
        job = self._job
        try:
            _write_durably(job.result, content, via=job.reserve)
        except OSError:
            # A copy-on-write disk needs new blocks even for this: free the reserved ones.
            with contextlib.suppress(FileNotFoundError):
                job.reserve.unlink()
            _write_durably(job.result, content)

    def _register(self, **known: Any) -> None:
        self._process.update(known)
        _write_durably(self._job.process, self._process)

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
                self.record("FAILED", "busy", f"the device is taken by {_describe(holder)}")
                return False
            if holder != self._process.get("waiting_for"):
                self._register(waiting_for=holder)
            tell_ready()
            self._poll(DEVICE_POLL_MS)

    def _poll(self, timeout_ms: float) -> bool:
        """Wait for output of the command, a signal or the time; True if it was output."""
        ready = [fd for fd, _ in self._poller.poll(timeout_ms)]
        if self._wake_fd in ready:
            os.read(self._wake_fd, CHUNK)
            ready.remove(self._wake_fd)
        return bool(ready)

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
        self._oom_kills = (_cgroup_oom_kills(), _host_oom_kills())
        self._began_at, self._began = time.time(), time.monotonic()
        self._deadline = self._began + (spec.timeout_s or float("inf"))
        return subprocess.Popen(
            [_encode(word) for word in spec.argv],
            cwd=_encode(str(cwd)),
            env={**os.environb, **{_encode(name): _encode(env[name]) for name in env}},
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
            elif self._log_error:
                self._stopped_by = "disk"
            elif now >= self._deadline:
                self._stopped_by = "timeout"
            if self._stopped_by:
                _signal_group(pgid, signal.SIGTERM)
                self._kill_at = now + self._spec.kill_after_s
        if self._kill_at is not None and now >= self._kill_at:
            _signal_group(pgid, signal.SIGKILL)

    def _is_over(self, pgid: int, now: float, output_ended: bool) -> bool:
        if self._exited_at is None:
            return False
        # Children of a stopped command clean up as long as it could have.
        if self._kill_at is not None and now < self._kill_at and _group_alive(pgid):
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
        while view and self._log_error is None:
            try:
                written = os.write(self._log_fd, view)
            except OSError as error:
                self._log_error = error
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
        cgroup_before, host_before = self._oom_kills
        if self._stopped_by == "cancel":
            return "CANCELLED", None, None
        if self._stopped_by == "timeout":
            return "FAILED", "timeout", f"stopped after {self._spec.timeout_s} s"
        if self._log_error:
            return "FAILED", "disk", f"log: {self._log_error.strerror}; {self._disk_use()}"
        if self._stopped_by == "signal":
            return "FAILED", "signal", "the supervisor got SIGTERM; is the pod shutting down?"
        if exit_code == 0:
            return "SUCCEEDED", None, None
        if _cgroup_oom_kills() > cgroup_before:
            return "FAILED", "oom", "out of host memory: the limit of the pod's cgroup was reached"
        if killed and _host_oom_kills() > host_before:
            return "FAILED", "oom", "out of host memory: the kernel killed a process"
        if _free_bytes(self._job.dir) < DISK_FULL_BYTES:
            return "FAILED", "disk", self._disk_use()
        if by_signal:
            hint = "SIGKILL came from outside the job's supervisor" if killed else None
            return "FAILED", "signal", hint
        return "FAILED", "exit", self._hint_from_log()

    def _hint_from_log(self) -> str | None:
        """A guess for people; what the job's state is, no text in a log has a say in."""
        with contextlib.suppress(OSError), self._job.log.open("rb") as log:
            log.seek(max(0, self._log_bytes - LOG_TAIL_BYTES))
            tail = log.read(LOG_TAIL_BYTES)
            if b"CUDA out of memory" in tail or b"torch.OutOfMemoryError" in tail:
                return "CUDA out of memory, says the log: use a larger GPU, or smaller shapes"
        return None

    def _disk_use(self) -> str:
        return (
            f"{_mib(_free_bytes(self._job.dir))} free at {self._job.dir}; "
            f"log has {_mib(self._log_bytes)}, out/ {_mib(_tree_bytes(self._job.out))}"
        )


# -- verbs ------------------------------------------------------------------------------------


def submit(job: Job) -> dict[str, Any]:
    """Start the job of the spec on stdin, unless it has been started before."""
    spec = Spec.parse(sys.stdin.buffer.read())
    before = job.status()
    if before["state"] in ("ABSENT", "SUBMITTED") and before["waiting_for"] is None:
        _require_space(job, spec.min_free_bytes)
    if not job.spec.exists():
        job.create(spec)
    recorded, record = _read_json(job.spec), spec.record()
    if recorded is None:
        raise Refused(f"{job.dir} exists and is not a job directory")
    differing = [name for name in IDENTITY if recorded.get(name) != record[name]]
    if differing:
        raise Refused(f"{job.dir} holds another job: {', '.join(differing)} differ")
    lock: int | None = None

    def settled() -> bool:
        nonlocal lock
        lock = job.try_lock()
        return lock is not None or _is_under_way(job.status())

    if not _wait_until(settled, 30):
        raise Refused("another submission holds the lock and does not start the job")
    created = lock is not None and job.status()["state"] == "SUBMITTED"
    if created and lock is not None:
        _launch(job, spec, lock)
    status = job.status()
    if not _is_under_way(status):
        raise Refused(f"the supervisor did not start; see {job.agent_log}")
    return {"created": created, **status}


def _is_under_way(status: dict[str, Any]) -> bool:
    return status["state"] != "SUBMITTED" or status["waiting_for"] is not None


def _require_space(job: Job, wanted: int) -> None:
    place = next(path for path in (job.dir, *job.dir.parents) if path.exists())
    free = _free_bytes(place)
    if free >= wanted:
        return
    why = f"{_mib(free)} free at {place}, {_mib(wanted)} wanted: nothing was started"
    jobs = job.dir.parent.iterdir() if job.dir.parent.is_dir() else ()
    sizes = sorted((_tree_bytes(path), path.name) for path in jobs if (path / "job.json").exists())
    if sizes:
        total = _mib(sum(size for size, _ in sizes))
        size, name = sizes[-1]
        why += f"; {len(sizes)} jobs in {job.dir.parent} hold {total}, {name} {_mib(size)} of it"
    raise Refused(why)


def _launch(job: Job, spec: Spec, lock: int) -> None:
    """Fork the supervisor away from this session; return when the command runs, waits or failed."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _become_supervisor(job, spec, lock, tell)
    os.close(tell)
    os.waitpid(child, 0)
    os.read(ready, 1)  # nothing is written: it ends when the supervisor closes it, or dies
    os.close(ready)


def _become_supervisor(job: Job, spec: Spec, lock: int, tell: int) -> NoReturn:
    exit_code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(job.agent_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, source in enumerate((null, null, errors)):
            os.dup2(source, fd)
        for path in Path("/proc/self/fd").iterdir():  # a session waits for all that it passed on
            if int(path.name) > 2 and int(path.name) not in (lock, tell):
                with contextlib.suppress(OSError):
                    os.close(int(path.name))
        Supervisor(job, spec).run(tell_ready=os.fdopen(tell, "w").close)  # twice does no harm
        exit_code = 0
    except BaseException:  # noqa: BLE001 - last frame of a daemon: agent.log is all there is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(exit_code)


def follow(job: Job, offset: str) -> None:
    """Copy the log to stdout from `offset` on, until it cannot grow any more."""
    position, parent = _number(offset), os.getppid()
    _require_job(job)
    stdout = sys.stdout.fileno()
    reader = select.poll()
    reader.register(stdout, 0)  # errors and hang-ups only
    log: int | None = None
    over, pause_s = False, POLL_S
    while True:
        if log is None and job.log.exists():
            log = os.open(job.log, os.O_RDONLY)
        data = os.pread(log, CHUNK, position) if log is not None else b""
        if data:
            try:
                _write_all(stdout, data)
            except BrokenPipeError:
                return
            position, pause_s = position + len(data), POLL_S
        elif over:
            return
        else:
            over = _is_over(job)  # then read once more, for what came before the end
            if not over and (reader.poll(1000 * pause_s) or os.getppid() != parent):
                return  # nobody reads
            pause_s = min(4 * POLL_S, 1.5 * pause_s)


def _is_over(job: Job) -> bool:
    state = job.status()["state"]
    if state == "SUBMITTED":  # worth waiting only if somebody is about to start it
        lock = job.try_lock()
        if lock is not None:
            os.close(lock)
        return lock is not None
    return bool(state != "RUNNING")


def cancel(job: Job) -> dict[str, Any]:
    """Stop the job, or keep it from starting; return when it is over."""
    found = job.status()
    if found["state"] == "ABSENT" or found["result"]:
        return found
    os.close(os.open(job.cancelled, os.O_WRONLY | os.O_CREAT, 0o600))
    _fsync_directory(job.dir)
    spec = _read_json(job.spec) or {}
    patience_s = float(spec["kill_after_s"])
    told: set[int] = set()

    def is_over() -> bool:
        lock = job.try_lock()
        process = _read_json(job.process) or {}
        if lock is None:  # the supervisor lives, or is about to
            supervisor = process.get("supervisor")
            if supervisor and supervisor["pid"] not in told:
                told.add(supervisor["pid"])
                if _alive(supervisor, process["boot_id"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(supervisor["pid"], signal.SIGTERM)
                        os.kill(supervisor["pid"], signal.SIGCONT)
            return job.result.exists()
        state = job.status()["state"]
        if state == "SUBMITTED":
            Supervisor(job, Spec(spec["job_id"], [])).record("CANCELLED")
        elif state == "LOST":
            _stop_orphans(process, patience_s)
        os.close(lock)
        return True

    _wait_until(is_over, patience_s + 5)
    return job.status()


def _stop_orphans(process: dict[str, Any], patience_s: float) -> None:
    """Stop the command of a supervisor that is gone."""
    command = process.get("command")
    if command and _alive(command, process["boot_id"]):
        _signal_group(command["pid"], signal.SIGTERM)
        _wait_until(lambda: not _group_alive(command["pid"]), patience_s)
        _signal_group(command["pid"], signal.SIGKILL)


def manifest(job: Job, max_bytes: str = "") -> dict[str, Any]:
    """List what lies in out/: regular files with checksums; what is not to be fetched, with why."""
    limit = _number(max_bytes) if max_bytes else None
    _require_job(job)
    paths, refused = _walk(job.out)
    files = []
    for path in paths:
        name = _relative(path, job.out)
        try:
            size, digest = _checksum(path, limit)
            files.append({"path": name, "size": size, "sha256": digest})
        except (OSError, Refused) as error:
            refused.append({"path": name, "reason": getattr(error, "strerror", None) or str(error)})
    return {
        "files": sorted(files, key=lambda entry: str(entry["path"])),
        "refused": sorted(refused, key=lambda entry: entry["path"]),
        "free_bytes": _free_bytes(job.dir),
    }


def _walk(top: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """Return the regular files below `top` and the entries refused; follows no link."""
    files: list[Path] = []
    refused: list[dict[str, str]] = []
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                pending.extend(path.iterdir())
            elif stat.S_ISREG(mode):
                files.append(path)
            else:
                kinds = {"l": "symbolic link", "p": "fifo", "s": "socket"}
                reason = kinds.get(stat.filemode(mode)[0], "device")
                refused.append({"path": _relative(path, top), "reason": reason})
        except OSError as error:
            refused.append({"path": _relative(path, top), "reason": str(error.strerror)})
    return files, refused


def _relative(path: Path, top: Path) -> str:
    # UTF-8 whatever the login shell's locale says
    return os.fsencode(path.relative_to(top)).decode("utf-8", "surrogateescape")


def _checksum(path: Path, limit: int | None) -> tuple[int, str]:
    """Hash what is read, so that size and checksum agree even if the file still grows."""
    digest, size = hashlib.sha256(), 0
    # O_NONBLOCK: it may have become a FIFO since it was listed.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("not a regular file any more")
        if limit is not None and found.st_size > limit:
            raise Refused(f"{found.st_size} bytes, more than {limit}")
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def version() -> dict[str, Any]:
    """Return the version of this file's interface and of the interpreter."""
    return {"version": VERSION, "python": sys.version.split()[0]}


def _number(text: str) -> int:
    if not text.isdigit():
        raise Refused(f"not a number of bytes: {text}", 2)
    return int(text)


def _require_job(job: Job) -> None:
    if not job.spec.exists():
        raise Refused(f"no job at {job.dir}")


VERBS: dict[str, tuple[Callable[..., dict[str, Any] | None], int, int]] = {
    "submit": (submit, 1, 1),  # least and most arguments
    "status": (Job.status, 1, 1),
    "follow": (follow, 2, 2),
    "cancel": (cancel, 1, 1),
    "manifest": (manifest, 1, 2),
    "version": (version, 0, 0),
}


def main(arguments: list[str]) -> int:
    """Run one verb; return the exit code."""
    name, operands = "".join(arguments[:1]), arguments[1:]
    answers_to = sys.stderr if name == "follow" else sys.stdout
    exit_code = 0
    try:
        if name not in VERBS or not VERBS[name][1] <= len(operands) <= VERBS[name][2]:
            raise Refused(f"usage: agent.py {'|'.join(VERBS)} [JOBDIR ...]", 2)
        answer = VERBS[name][0](*map(Job, operands[:1]), *operands[1:])
    except Refused as error:
        answer, exit_code = {"error": str(error)}, error.exit_code
    except OSError as error:
        answer, exit_code = {"error": str(error)}, 3
    if answer is not None:
        answers_to.write(json.dumps(answer) + "\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

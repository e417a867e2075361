"""What a person sees: events and log lines as they come, colour only on a terminal."""

from __future__ import annotations

import codecs
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from rich.console import Console as Terminal
from rich.status import Status
from rich.text import Text

from orchestrator.models.verdict import Verdict
from orchestrator.store.events import Event

STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.INVALID: "bold red",
    Verdict.INFRA: "bold magenta",
    Verdict.NOT_VERIFIED: "yellow",
}
# ECMA-48 sequences (CSI, OSC, other two-byte escapes), then whatever control characters are left
_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONGEST = 2000
LINES_A_SECOND = 200
"""Most lines of a job's output that are printed; a flood would keep the log itself waiting."""
_TAIL_BYTES, _TAIL_LINES = 4096, 10
QUIET_S = 1.0
"""So long nothing, and the end of a flood is printed."""


def plain(text: str) -> str:
    """Text without anything that would steer a terminal; tabs and newlines stay."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


class Lines:
    """Cuts a stream of bytes into printable lines; a carriage return keeps what follows it."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> None:
        """Take some bytes, hand over the lines that are complete."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._emit(line)
        self._rest = self._rest[-_LONGEST:]

    def flush(self) -> None:
        """Hand over an unfinished last line."""
        rest, self._rest = self._rest, ""
        self._emit(rest)

    def _emit(self, line: str) -> None:
        text = plain(line.rstrip("\r").rpartition("\r")[2]).rstrip()
        if text:
            self._line(text[:_LONGEST])


class BoundedLines:
    """As many lines a second as somebody may follow; of a flood, how many more and the last ones.

    What is left out costs no more than counting it: it is neither decoded nor searched.
    """

    def __init__(
        self, line: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._line = line
        self._lines = Lines(line)
        self._clock = clock
        self._since = clock()
        self._left = LINES_A_SECOND
        self._omitting = False
        self._omitted = 0
        self._tail = b""
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._fed = 0

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        with self._lock:
            self._fed += 1
            self._take(data)
            if self._omitting and self._timer is None:
                self._watch()

    def _watch(self) -> None:
        """See to it that what a flood ends with is shown, though nothing may come for hours."""
        self._timer = threading.Timer(QUIET_S, self._look, (self._fed,))
        self._timer.daemon = True
        self._timer.start()

    def _look(self, fed: int) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return  # flushed meanwhile
            self._timer = None
            if self._omitting and self._fed == fed:
                self._lines.feed(self._catch_up(_TAIL_LINES))
            elif self._omitting:
                self._watch()

    def _take(self, data: bytes) -> None:
        now = self._clock()
        if now - self._since >= 1:
            self._since, self._left = now, LINES_A_SECOND
            data = self._catch_up(0) + data
        if self._left and not self._omitting:
            *lines, rest = data.split(b"\n", self._left)
            self._left -= len(lines)
            if self._left:
                self._lines.feed(data)
                return
            self._lines.feed(b"\n".join([*lines, b""]))
            data = rest
        self._omitting = True
        self._omitted += data.count(b"\n")
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def flush(self) -> None:
        """Hand over the last lines of what was left out, and an unfinished one."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._lines.feed(self._catch_up(_TAIL_LINES))
            self._lines.flush()

    def _catch_up(self, lines: int) -> bytes:
        """Say how much was left out; the last lines of it, and the beginning of the next."""
        last = self._tail.split(b"\n")[-lines - 1 :]
        missing = self._omitted - (len(last) - 1)
        if missing > 0:
            self._line(f"[{missing} lines more than can be read here; the log has them all]")
        self._omitting, self._omitted, self._tail = False, 0, b""
        return b"\n".join(last)


class _Terminal(Terminal):
    """A reader that has seen enough (`| head`) ends the printing, not the experiment."""

    def on_broken_pipe(self) -> None:
        """Go on, silently."""
        self.quiet = True
        with suppress(OSError, ValueError):
            self.file = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


class Console:
    """Prints a run. With `--json`, to standard error, for standard output is the script's."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        self.terminal = _Terminal(
            file=sys.stderr if to_stderr else sys.stdout, highlight=False, soft_wrap=True
        )
        self._lines = BoundedLines(self._log_line)
        self._status: Status | None = None

    def __enter__(self) -> Console:
        if self.terminal.is_terminal:
            self._status = self.terminal.status("starting")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def say(self, text: str, style: str = "", indent: int = 0) -> None:
        """Print one line."""
        self.terminal.print(Text(" " * indent + plain(text), style=style))

    def log(self, data: bytes) -> None:
        """Take output of a job."""
        self._lines.feed(data)

    def _log_line(self, text: str) -> None:
        self.say(f"| {text}", "dim", indent=4)

    def _working(self, text: str) -> None:
        if self._status is not None:
            self._status.update(Text(plain(text)))

    def event(self, event: Event) -> None:
        """Print an event, where it says something to a person."""
        self._lines.flush()
        show = _SHOWN.get(event.name)
        if show is not None:
            show(self, event.data)

    def verdict(self, verdict: str, text: str, indent: int) -> None:
        """Print a line that begins with a verdict."""
        line = Text(" " * indent)
        line.append(f"{verdict:<12} ", style=STYLES[Verdict(verdict)])
        line.append(plain(text))
        self.terminal.print(line)


def _created(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"run {data['run']} on {data['pod']}, in {data['directory']}", "bold")


def _inherits(console: Console, data: Mapping[str, object]) -> None:
    phases = data["phases"] if isinstance(data["phases"], list) else []
    taken = f"phases {', '.join(map(str, phases))} from run {data['run_id']}"
    differences = data["differences"] if isinstance(data["differences"], list) else []
    if not differences:
        console.say(f"inherits {taken}: the newest with equal playbook, pod and source")
        return
    files = data["changed_files"] if isinstance(data["changed_files"], list) else []
    console.say(f"inherits {taken}, but these differ: {', '.join(map(str, differences))}", "yellow")
    for file in files[:10]:
        console.say(f"changed since: {file}", indent=2)


def _connecting(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"pod      {data['address']}")
    console._working(f"connecting to {data['address']}")


def _facts(console: Console, data: Mapping[str, object]) -> None:
    gpus = data["gpus"]
    names = ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "no NVIDIA GPU"
    console.say(f"machine  {data['os']}, {data['cpus']} CPUs, {names}")


def _phase(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"phase {data['phase']}  {data['title']}", "bold cyan")


def _skipped(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"phase {data['phase']}  {data['name']}: skipped, {data['why']}", "cyan")


def _step(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"{data['step']}: {data['title']}", indent=2)
    console._working(f"phase {data['phase']}, {data['step']}")


def _applying(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"applying {data['id']} ({data['title']})", indent=4)
    console._working(f"applying {data['id']}")


def _resource(console: Console, data: Mapping[str, object]) -> None:
    optional = " (optional)" if data["optional"] and data["action"] == "failed" else ""
    took = f"{data['duration_s']:.1f} s"
    console.say(
        f"{data['action']:<10} {data['id']}{optional}: {data['detail']}  [{took}]", indent=4
    )


def _sync(console: Console, data: Mapping[str, object]) -> None:
    console.say(
        f"{data['changed']} of {data['files']} files sent, {data['deleted']} deleted "
        f"({data['method']}, {data['sent_bytes']} bytes)",
        indent=4,
    )


def _job(console: Console, data: Mapping[str, object]) -> None:
    if "outcome" in data:
        console.say(f"job {data['job']}: {data['outcome']}", indent=4)


def _waiting(console: Console, data: Mapping[str, object]) -> None:
    holder = data["holder"] if isinstance(data["holder"], dict) else {}
    job, user, pid = (holder.get(name) or "unknown" for name in ("job_id", "user", "pid"))
    console.say(f"waiting for the device: job {job} of {user} (process {pid}) has it", indent=4)
    console._working("waiting for the device")


def _gate(console: Console, data: Mapping[str, object]) -> None:
    console.verdict(str(data["verdict"]), f"{data['gate']}: {data['message']}", indent=4)


def _judged(console: Console, data: Mapping[str, object]) -> None:
    console.verdict(str(data["verdict"]), f"phase {data['phase']} ({data['name']})", indent=2)


def _error(console: Console, data: Mapping[str, object]) -> None:
    console.say(f"error: {data['message']}", "bold red", indent=2)


def _kept(console: Console, data: Mapping[str, object]) -> None:
    console.say(str(data["message"]), "yellow", indent=2)


_SHOWN: dict[str, Callable[[Console, Mapping[str, object]], None]] = {
    "run.created": _created,
    "run.inherits": _inherits,
    "connecting": _connecting,
    "facts": _facts,
    "phase.started": _phase,
    "phase.skipped": _skipped,
    "phase.judged": _judged,
    "step.started": _step,
    "step.error": _error,
    "resource.applying": _applying,
    "resource.done": _resource,
    "sync.done": _sync,
    "job.waiting": _waiting,
    "job.state": _job,
    "gate": _gate,
    "run.error": _error,
    "fetch.skipped": _kept,
}

"""What the card did while a job ran: samples of its clocks, temperature, throttling and company."""

from __future__ import annotations

import csv
import io
import math
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property

from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import NUMBER, refuse_wide, text_of

MAX_BYTES = 64 * 2**20

# The agent's columns, and nvidia-smi's own spellings of the same (`--query-gpu ... --format=csv`).
_ALIASES = {
    "when_ms": ("timestamp_ms", "when_ms", "time_ms", "epoch_ms"),
    "when_s": ("when", "time_s", "epoch_s", "unix", "time"),
    "timestamp": ("timestamp",),
    "gpu": ("index", "gpu", "uuid"),
    "name": ("name", "gpu_name", "product_name"),
    "sm_mhz": ("sm_mhz", "clocks_sm", "clocks_current_sm", "sm_clock_mhz"),
    "sm_max_mhz": ("max_sm_mhz", "sm_max_mhz", "clocks_max_sm"),
    "temperature_c": ("temperature_c", "temperature_gpu", "temp_c"),
    "utilisation": ("utilization_pct", "utilisation_pct", "utilization_gpu", "utilization"),
    "throttle": ("throttle_reasons", "clocks_throttle_reasons_active",
                 "clocks_event_reasons_active"),
    "foreign": ("foreign_processes",),
}  # fmt: skip

THROTTLE_BITS = {
    0x01: "idle", 0x02: "application clocks", 0x04: "power cap", 0x08: "hardware slowdown",
    0x10: "sync boost", 0x20: "thermal slowdown (software)", 0x40: "thermal slowdown (hardware)",
    0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""NVML's clocks-throttle (event) reasons."""
HARMFUL = 0x08 | 0x20 | 0x40 | 0x80
"""Reasons that mean trouble; a power cap is judged by the clock that it leaves."""
IDLE = 0x01

_ABSENT = ("", "-", "n/a", "[n/a]", "[not supported]", "not supported", "[unknown error]")


@dataclass(frozen=True)
class Sample:
    """The card at one moment; None is what could not be read."""

    when_ms: float
    """Since the epoch."""
    sm_mhz: float | None
    sm_max_mhz: float | None
    temperature_c: float | None
    utilisation: float | None
    throttle: int | None
    """Bits of `THROTTLE_BITS`."""
    foreign: float | None
    """Processes on the card that are not the job's; None also where they cannot be told apart."""
    gpu: str = ""
    """Its index, where several were sampled."""
    name: str = ""
    """As nvidia-smi names it."""

    @property
    def idle(self) -> bool:
        """Between two cells a card clocks down, which is no throttling."""
        if self.utilisation is None:
            return bool(self.resting)
        return self.utilisation == 0

    @property
    def resting(self) -> bool | None:
        """Whether the card had nothing to do, by its use or by its driver; None where unknown."""
        if self.utilisation is None and self.throttle is None:
            return None
        return self.utilisation == 0 or bool((self.throttle or 0) & IDLE)


@dataclass(frozen=True)
class Telemetry:
    """Samples in order of time, and the fields that the file has."""

    file: str
    samples: tuple[Sample, ...]
    fields: frozenset[str]

    @cached_property
    def _times(self) -> list[float]:
        return [sample.when_ms for sample in self.samples]

    def between(self, began_ms: float, ended_ms: float, slack_ms: float) -> tuple[Sample, ...]:
        """Samples while a cell ran; where there are none, the nearest within `slack_ms`."""
        first, end, _ = self.window(began_ms, ended_ms, slack_ms)
        return self.samples[first:end]

    def window(self, began_ms: float, ended_ms: float, slack_ms: float) -> tuple[int, int, bool]:
        """Where among `samples` those of a cell begin and end, and whether they lie within it."""
        times = self._times
        first = end = bisect_left(times, began_ms)
        if end < len(times) and times[end] <= ended_ms:
            return first, bisect_right(times, ended_ms, end), True
        if first > 0 and times[first - 1] >= began_ms - slack_ms:
            first -= 1
        if end < len(times) and times[end] <= ended_ms + slack_ms:
            end += 1
        return first, end, False


def parse_telemetry(data: bytes, name: str = "telemetry.csv") -> Telemetry:
    """Read `telemetry.csv`; a torn last line (the agent was killed) is left out.

    Raises:
        EvidenceError: not a CSV, no column of time, or a field that is not what its column says.
    """
    text = text_of(data, name, MAX_BYTES)
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    reader = csv.reader(io.StringIO(text, newline=""))
    columns: dict[str, int] | None = None
    samples: list[Sample] = []
    try:
        for fields in reader:
            if not fields or fields[0].startswith("#"):
                continue
            if columns is None:
                refuse_wide(fields, name, reader.line_num)
                columns = _columns(fields, name, reader.line_num)
                width = len(fields)
            elif len(fields) != width:
                raise EvidenceError(
                    f"{len(fields)} fields, the header names {width}",
                    file=name,
                    line=reader.line_num,
                )
            else:
                samples.append(_sample(fields, columns, name, reader.line_num))
    except csv.Error as error:
        raise EvidenceError(f"not a CSV: {error}", file=name, line=reader.line_num) from None
    if columns is None:
        raise EvidenceError("empty", file=name)
    samples.sort(key=lambda sample: sample.when_ms)
    return Telemetry(name, tuple(samples), frozenset(columns))


def is_telemetry(header: str) -> bool:
    """Whether a CSV's first line has a time and at least one of the card's clocks or states."""
    known = set(_known(header.split(",")))
    return bool(known & {"when_ms", "when_s", "timestamp"}) and bool(
        known & {"sm_mhz", "throttle", "temperature_c"}
    )


def throttle_names(bits: int) -> str:
    """`thermal slowdown (software), power brake`."""
    return ", ".join(name for bit, name in THROTTLE_BITS.items() if bits & bit) or hex(bits)


def _known(fields: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, field in enumerate(fields):
        # nvidia-smi writes `clocks.current.sm [MHz]`
        column = re.sub(r"\s*\[.*?\]\s*$", "", field.strip().lower())
        column = re.sub(r"[^a-z0-9]+", "_", column).strip("_")
        for name, aliases in _ALIASES.items():
            if column in aliases:
                found.setdefault(name, index)
    return found


def _columns(fields: list[str], file: str, line: int) -> dict[str, int]:
    found = _known(fields)
    if not {"when_ms", "when_s", "timestamp"} & set(found):
        raise EvidenceError("no column says when (timestamp_ms)", file=file, line=line)
    return found


def _sample(fields: list[str], columns: dict[str, int], file: str, line: int) -> Sample:
    def bad(column: str, value: str, what: str) -> EvidenceError:
        return EvidenceError(f"{value[:40]!r} is not {what}", file=file, line=line, column=column)

    def number(column: str) -> float | None:
        if column not in columns:
            return None
        value = fields[columns[column]].strip()
        if value.lower() in _ABSENT:
            return None
        bare = re.sub(r"\s*(MHz|%|C|W)$", "", value)
        parsed = float(bare) if NUMBER.fullmatch(bare) else math.nan
        if not math.isfinite(parsed) or (parsed < 0 and column != "temperature_c"):
            raise bad(column, value, "a number that it can be")
        return parsed

    def when() -> float:
        if (at := number("when_ms")) is not None:
            return at
        if (at := number("when_s")) is not None:
            return at * 1e3
        value = fields[columns["timestamp"]].strip() if "timestamp" in columns else ""
        try:  # nvidia-smi: 2025/01/02 03:04:05.678, in the pod's time zone, taken as UTC
            told = datetime.fromisoformat(value.replace("/", "-"))
            return told.replace(tzinfo=told.tzinfo or timezone.utc).timestamp() * 1e3
        except (ValueError, OverflowError):
            raise bad("timestamp", value, "a time") from None

    def throttle() -> int | None:
        if "throttle" not in columns:
            return None
        value = fields[columns["throttle"]].strip().lower()
        if value in _ABSENT:
            return None
        if re.fullmatch(r"0x[0-9a-f]{1,16}", value):
            return int(value, 16)
        if re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
            return int(value)
        raise bad("throttle", value, "a bit mask")

    return Sample(
        when_ms=when(),
        sm_mhz=number("sm_mhz"),
        sm_max_mhz=number("sm_max_mhz"),
        temperature_c=number("temperature_c"),
        utilisation=number("utilisation"),
        throttle=throttle(),
        foreign=number("foreign"),
        gpu=fields[columns["gpu"]].strip() if "gpu" in columns else "",
        name=fields[columns["name"]].strip() if "name" in columns else "",
    )

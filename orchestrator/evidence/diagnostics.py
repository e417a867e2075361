"""`diagnostics.jsonl`, which the kernels write under `NSA_DEBUG_*`: one JSON object a call."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, NoReturn

from orchestrator.evidence.bench import TRITON_PREFIX
from orchestrator.evidence.errors import EvidenceError

MAX_BYTES = 16 * 2**20
MAX_LINES = 100_000
MAX_TEXT = 300
"""Characters kept of a path, a kernel's name or a reason."""
MAX_KERNELS = 32

_BENCH_PREFIX = "bench."
_HEAD, _GROUP = ".head", ".group"
_LONGEST = 2**53
_LARGEST = 1e100
"""Of a time or an error; sums of a few larger ones would be infinite."""


@dataclass(frozen=True)
class Call:
    """One call of the operator, or one cell of the benchmark.

    What is None was not recorded: each debug flag adds its own fields.
    """

    line: int
    path: str
    """`flex_attention`, `packed_sdpa`, `triton.<ranges|dense|varlen>.<group|head>`, or
    `bench.<level>`."""
    kernels: tuple[str, ...]
    """Triton kernels that started; none for a fallback."""
    reason: str
    """Why this path."""
    L: int
    """Longest selected length of the call."""
    bucket: int
    """The power of two that `L` is counted under."""
    ms: float | None = None
    ref_ms: float | None = None
    """The reference's time for the same call."""
    mae: float | None = None
    """Mean absolute error; None, too, when it was no finite number."""
    max_err: float | None = None
    infinite: bool = False
    """An error was recorded as NaN or infinity."""
    shapes: str | None = None
    """Shapes, data type and device as they were recorded, to tell equal calls from others."""

    @property
    def triton(self) -> bool:
        """Whether a Triton kernel ran, and not a fallback."""
        return self.path.startswith(TRITON_PREFIX) or (
            self.path.startswith(_BENCH_PREFIX) and bool(self.kernels)
        )

    @property
    def name(self) -> str:
        """The path; for a benchmark, whose path says only its level, with the kernels too."""
        if self.kernels and self.path.startswith(_BENCH_PREFIX):
            return f"{self.path} {'+'.join(self.kernels)}"
        return self.path

    @property
    def per_head(self) -> bool:
        """Whether the kernels took each query head for itself."""
        return self.triton and any(name.endswith(_HEAD) for name in (self.path, *self.kernels))

    @property
    def in_group(self) -> bool:
        """Whether the kernels took all heads of a group together."""
        return self.triton and any(name.endswith(_GROUP) for name in (self.path, *self.kernels))


@dataclass(frozen=True)
class Diagnostics:
    """All calls of one file."""

    file: str
    calls: tuple[Call, ...]
    torn: bool
    """The last line was cut off: the process died while it wrote."""


@dataclass(frozen=True)
class Bucket:
    """Calls of one path whose lengths fall under one power of two."""

    bucket: int
    path: str
    calls: int
    ms: float | None
    """Median."""
    max_mae: float | None
    infinite: bool
    """Some error was NaN or infinite."""


def parse_diagnostics(data: bytes, name: str = "diagnostics") -> Diagnostics:
    """Read a diagnostics file. A crash is what it is for, so its last line may be cut off.

    Raises:
        EvidenceError: too large, or a line that is no record of a call; it names the line.
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(
            f"{len(data)} bytes, more than the {MAX_BYTES} that are read", file=name
        )
    lines = data.split(b"\n")
    if len(lines) > MAX_LINES:
        raise EvidenceError(f"more than {MAX_LINES} lines", file=name)
    calls: list[Call] = []
    torn = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            calls.append(_Line(name, number).read(line))
        except EvidenceError:
            # No part of an object is itself JSON: a line that was cut off cannot pass for one.
            torn = number == len(lines) and line.startswith(b"{") and not _is_json(line)
            if not torn:
                raise
    return Diagnostics(name, tuple(calls), torn)


def by_bucket(calls: Iterable[Call]) -> tuple[Bucket, ...]:
    """Calls summed up per power of two and path, shortest first."""
    groups: dict[tuple[int, str], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.bucket, call.name), []).append(call)
    return tuple(
        Bucket(
            bucket=bucket,
            path=path,
            calls=len(group),
            ms=median(times) if (times := [c.ms for c in group if c.ms is not None]) else None,
            max_mae=max((c.mae for c in group if c.mae is not None), default=None),
            infinite=any(c.infinite for c in group),
        )
        for (bucket, path), group in sorted(groups.items())
    )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class _Line:
    """Reads the fields of one line."""

    def __init__(self, file: str, line: int) -> None:
        self._file = file
        self._line = line

    def read(self, line: bytes) -> Call:
        try:
            record = json.loads(line.decode("utf-8"), object_pairs_hook=self._once)
        except UnicodeDecodeError:
            self._bad("not UTF-8 text")
        except EvidenceError:
            raise
        except (ValueError, RecursionError):
            self._bad("not JSON")
        if not isinstance(record, dict):
            self._bad("not a JSON object")
        bucket = self._length(record, "bucket")
        mae, max_err = self._number(record, "mae"), self._number(record, "max_err")
        return Call(
            line=self._line,
            path=self._text(record.get("path"), "path"),
            kernels=self._kernels(record.get("kernels", [])),
            reason=self._text(record.get("reason", ""), "reason", empty=True),
            L=self._length(record, "L") if "L" in record else bucket,
            bucket=bucket,
            ms=self._finite(record, "ms"),
            ref_ms=self._finite(record, "ref_ms"),
            mae=_kept(mae),
            max_err=_kept(max_err),
            infinite=any(not math.isfinite(value) for value in (mae, max_err) if value is not None),
            shapes=self._shapes(record),
        )

    def _bad(self, problem: str, column: str | None = None) -> NoReturn:
        raise EvidenceError(problem, file=self._file, line=self._line, column=column)

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            # The last of two values could be the smaller error of the two.
            self._bad("a field is told twice")
        return record

    def _text(self, value: Any, column: str, *, empty: bool = False) -> str:
        if not isinstance(value, str) or not (value or empty):
            self._bad("missing, or not text", column)
        # JSON can escape half a character, which cannot be written as UTF-8 again.
        return value[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")

    def _kernels(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > MAX_KERNELS:
            self._bad(f"not a list of at most {MAX_KERNELS} names", "kernels")
        names = (self._text(name, "kernels", empty=True) for name in value)
        return tuple(name for name in names if name)

    def _length(self, record: dict[str, Any], column: str) -> int:
        value = record.get(column)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LONGEST:
            self._bad("missing, or not a number of keys", column)
        return value

    def _number(self, record: dict[str, Any], column: str) -> float | None:
        """A number that is not negative; NaN and infinity, as Python writes them, are allowed."""
        value = record.get(column)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self._bad("not a number from 0 on", column)
        if _LARGEST < value < math.inf:
            self._bad("too large a number", column)
        return float(value)

    def _finite(self, record: dict[str, Any], column: str) -> float | None:
        value = self._number(record, column)
        if value is not None and not math.isfinite(value):
            self._bad("not a finite number", column)
        return value

    def _shapes(self, record: dict[str, Any]) -> str | None:
        kept = {key: record[key] for key in ("shapes", "dtype", "device") if key in record}
        return json.dumps(kept, sort_keys=True)[:MAX_TEXT] if kept else None


def _kept(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

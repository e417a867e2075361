"""The canary: fixed work (copy, L2 read, GEMM, empty launch) before and after the cells."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from kernels.bench.contract import END_MARK
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import NUMBER, text_of

MAX_BYTES = 2**20
NEEDED = ("when", "probe", "value", "unit")
BEFORE, AFTER = "before", "after"
PER_TERA = {"tb/s": 1.0, "gb/s": 1e-3}
WORK = {"tb/s": ("bytes", 1e-9), "gb/s": ("bytes", 1e-6), "tflop/s": ("flops", 1e-9)}
"""By unit: the column of what was done, and what one of it in a millisecond is in that unit."""


@dataclass(frozen=True)
class Probe:
    """One measurement of one probe."""

    when: str
    """before | after"""
    probe: str
    value: float
    unit: str
    device: str | None = None
    began_ms: float | None = None
    """Since the epoch."""
    derived: float | None = None
    """What `value` has to be by the other columns, in its unit; None where they do not say."""


@dataclass(frozen=True)
class Canary:
    """All probes of a file."""

    file: str
    probes: tuple[Probe, ...]
    complete: bool = True
    """There is an end mark: the benchmark ran to its end."""

    @property
    def l2_tb_per_s(self) -> float | None:
        """Best L2 read bandwidth that was measured; None where it was not."""
        found = [
            probe.value * PER_TERA[probe.unit.lower()]
            for probe in self.probes
            if "l2" in probe.probe.lower() and probe.unit.lower() in PER_TERA
        ]
        return max(found, default=None)

    @property
    def launches_us(self) -> list[float]:
        """All launches that were measured."""
        return [p.value for p in self.probes if p.probe == "launch" and p.unit.lower() == "us"]

    @property
    def launch_us(self) -> float | None:
        """Shortest launch that was measured; None where it was not."""
        return min(self.launches_us, default=None)


def parse_canary(data: bytes, name: str = "canary.csv") -> Canary:
    """Read `<stem>.canary.csv`.

    Raises:
        EvidenceError: not that CSV; a value that is not a positive number; neither before nor
            after; an end mark that counts other rows, or is not the end.
    """
    reader = csv.reader(io.StringIO(text_of(data, name, MAX_BYTES), newline=""))
    header: list[str] | None = None
    probes: list[Probe] = []
    end: str | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if end is not None:
                raise EvidenceError("goes on after the end mark", file=name, line=reader.line_num)
            if fields[0] == END_MARK:
                end = fields[1] if len(fields) > 1 else ""
            elif fields[0].startswith("#"):
                continue
            elif header is None:
                header = [field.strip().lower() for field in fields]
                for column in NEEDED:
                    if column not in header:
                        raise EvidenceError("missing from the header", file=name, column=column)
            elif len(fields) != len(header):
                raise EvidenceError(
                    f"{len(fields)} fields, the header names {len(header)}",
                    file=name,
                    line=reader.line_num,
                )
            else:
                row = dict(zip(header, (field.strip() for field in fields), strict=True))
                probes.append(_probe(row, name, reader.line_num))
    except csv.Error as error:
        raise EvidenceError(f"not a CSV: {error}", file=name, line=reader.line_num) from None
    if header is None:
        raise EvidenceError("empty", file=name)
    if end is not None and end != str(len(probes)):
        raise EvidenceError(
            f"the end mark counts {end[:20]} rows, the file holds {len(probes)}", file=name
        )
    return Canary(name, tuple(probes), end is not None)


def is_canary(header: str) -> bool:
    """Whether a CSV's first line is a canary's."""
    return set(NEEDED) <= {field.strip().lower() for field in header.split(",")}


def _probe(row: dict[str, str], file: str, line: int) -> Probe:
    if row["when"] not in (BEFORE, AFTER):
        raise EvidenceError(
            f"{row['when'][:40]!r} is neither before nor after", file=file, line=line, column="when"
        )
    value = _number(row["value"])
    if not value > 0:
        raise EvidenceError(
            f"{row['value'][:40]!r} is not a positive number", file=file, line=line, column="value"
        )
    began = row.get("began_ms", "")
    if began and math.isnan(_number(began)):
        raise EvidenceError(
            f"{began[:40]!r} is not a number", file=file, line=line, column="began_ms"
        )
    return Probe(
        row["when"],
        row["probe"],
        value,
        row["unit"],
        row.get("device") or None,
        _number(began) if began else None,
        _derived(row),
    )


def _derived(row: dict[str, str]) -> float | None:
    """The value, from the work that was done and the milliseconds that it took."""
    ms, unit = _number(row.get("ms", "")), row["unit"].lower()
    if unit == "us":
        return 1e3 * ms if ms > 0 else None
    column, per_ms = WORK.get(unit, ("", 0.0))
    done = _number(row.get(column, ""))
    return done / ms * per_ms if done > 0 and ms > 0 else None


def _number(text: str) -> float:
    """NaN for what is no finite number."""
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan

"""The canary: fixed work (copy, L2 read, GEMM, empty launch) before and after the cells."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass

from orchestrator.evidence.errors import EvidenceError

MAX_BYTES = 2**20
NEEDED = ("when", "probe", "value", "unit")
BEFORE, AFTER = "before", "after"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
PER_TERA = {"tb/s": 1.0, "gb/s": 1e-3}


@dataclass(frozen=True)
class Probe:
    """One measurement of one probe."""

    when: str
    """before | after"""
    probe: str
    value: float
    unit: str
    device: str | None = None


@dataclass(frozen=True)
class Canary:
    """All probes of a file."""

    file: str
    probes: tuple[Probe, ...]

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
    def launch_us(self) -> float | None:
        """Shortest launch that was measured; None where it was not."""
        found = [p.value for p in self.probes if p.probe == "launch" and p.unit.lower() == "us"]
        return min(found, default=None)


def parse_canary(data: bytes, name: str = "canary.csv") -> Canary:
    """Read `<stem>.canary.csv`.

    Raises:
        EvidenceError: not that CSV; a value that is not a positive number; neither before nor
            after.
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(f"{len(data)} bytes are more than {MAX_BYTES}", file=name)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    except UnicodeDecodeError:
        raise EvidenceError("not UTF-8 text", file=name) from None
    header: list[str] | None = None
    probes = []
    try:
        for fields in reader:
            if not fields or fields[0].startswith("#"):
                continue
            if header is None:
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
    return Canary(name, tuple(probes))


def is_canary(header: str) -> bool:
    """Whether a CSV's first line is a canary's."""
    return set(NEEDED) <= {field.strip().lower() for field in header.split(",")}


def _probe(row: dict[str, str], file: str, line: int) -> Probe:
    if row["when"] not in (BEFORE, AFTER):
        raise EvidenceError(
            f"{row['when'][:40]!r} is neither before nor after", file=file, line=line, column="when"
        )
    value = float(row["value"]) if _NUMBER.fullmatch(row["value"]) else math.nan
    if not (math.isfinite(value) and value > 0):
        raise EvidenceError(
            f"{row['value'][:40]!r} is not a positive number", file=file, line=line, column="value"
        )
    return Probe(row["when"], row["probe"], value, row["unit"], row.get("device") or None)

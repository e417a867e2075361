"""Reading what `orchestrate judge` is given: which kind each file is, and what lies beside it."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.canary import Canary, is_canary, parse_canary
from orchestrator.evidence.headers import is_known
from orchestrator.evidence.telemetry import Telemetry, is_telemetry, parse_telemetry
from orchestrator.evidence.text import refuse_other_kinds, with_commas
from orchestrator.gates.findings import malformed
from orchestrator.models.verdict import GateResult

LARGEST = 64 * 2**20
_HEAD = 8192
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAY_BE_NAMED = (
    "Name CSVs with L and times, JUnit files, telemetry and canary files beside them, or run "
    "directories."
)


class Kind(str, Enum):
    """What a file is evidence of."""

    BENCH = "bench"
    """Cells, written by this project's benchmark."""
    FOREIGN = "foreign"
    """Cells, written by anybody."""
    JUNIT = "junit"
    TELEMETRY = "telemetry"
    CANARY = "canary"


@dataclass(frozen=True)
class Source:
    """A file that is judged."""

    name: str
    """What messages call it: its name, or its path where two have one name."""
    kind: Kind
    path: Path
    data: bytes = field(repr=False)


@dataclass
class Given:
    """All files, and what was read of those that speak for others."""

    sources: list[Source] = field(default_factory=list)
    broken: list[GateResult] = field(default_factory=list)
    """What is wrong with canaries and telemetry that cannot be read."""
    _canaries: dict[Path, Canary] = field(default_factory=dict)
    _telemetry: dict[Path, Telemetry] = field(default_factory=dict)

    def of(self, *kinds: Kind) -> Iterator[Source]:
        """Files of these kinds, in the order in which they were named."""
        return (source for source in self.sources if source.kind in kinds)

    def canary_of(self, bench: Source) -> Canary | None:
        """That beside it, or the only one of that name."""
        beside = bench.path.with_suffix(".canary.csv")
        named = [canary for path, canary in self._canaries.items() if path.name == beside.name]
        return self._canaries.get(beside, named[0] if len(named) == 1 else None)

    def telemetry_of(self, bench: Source) -> Telemetry | None:
        """That of its own folder, or the only one there is."""
        own = [t for path, t in self._telemetry.items() if path.parent == bench.path.parent]
        candidates = own or list(self._telemetry.values())
        return candidates[0] if len(candidates) == 1 else None

    def add(self, source: Source) -> None:
        """Take in one file, and read it if it is a canary or telemetry."""
        self.sources.append(source)
        try:
            if source.kind is Kind.CANARY:
                self._canaries[source.path] = parse_canary(source.data, source.name)
            elif source.kind is Kind.TELEMETRY:
                self._telemetry[source.path] = parse_telemetry(source.data, source.name)
        except EvidenceError as error:
            self.broken.append(malformed(f"machine {source.name}", error))


def read_given(paths: Sequence[Path]) -> Given:
    """Read all files. `<stem>.canary.csv` and `telemetry.csv` beside a CSV count as given.

    Raises:
        UsageError: one that cannot be read, or that is no evidence of any kind.
    """
    given = Given()
    # one file by two names is one file
    every = list({path.resolve(): path for path in [*_beside(paths), *reversed(paths)]}.values())
    every.reverse()
    for path in every:
        same = [other for other in every if other.name == path.name]
        name = path.name if len(same) < 2 else str(path)
        data = with_commas(_bytes(path))
        given.add(Source(name, _kind(path, data), path, data))
    return given


def _beside(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        for other in (path.with_suffix(".canary.csv"), path.with_name("telemetry.csv")):
            if path.suffix == ".csv" and other.is_file():
                yield other


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        refuse_other_kinds(data, str(path))
    except EvidenceError as error:
        raise UsageError(
            f"{path} is {error.problem}, which is not judged",
            remedy=f"{error.remedy} {MAY_BE_NAMED}",
        ) from None
    if len(data) > LARGEST:
        raise UsageError(f"{path} is larger than the {LARGEST >> 20} MiB that are read")
    return data


def _kind(path: Path, data: bytes) -> Kind:
    head = data[:_HEAD].decode("utf-16" if data[:2] in _UTF_16 else "utf-8-sig", "replace").lstrip()
    if head.startswith("<"):
        return Kind.JUNIT
    lines = [_fields(line) for line in head.split("\n") if line.strip()]
    fields = next((line for line in lines if not line[0].startswith("#")), [])
    if is_canary(",".join(fields)):
        return Kind.CANARY
    if is_telemetry(",".join(fields)):
        return Kind.TELEMETRY
    if "contract" in fields and fields is lines[0]:
        return Kind.BENCH
    if lines and not any(map(is_known, fields)):
        raise UsageError(
            f"{path} is no evidence of any kind: its first line, {','.join(fields)[:60]!r}, names "
            "no column of a measurement",
            remedy=MAY_BE_NAMED,
        )
    return Kind.FOREIGN


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line.strip()]))]
    except csv.Error:
        return line.split(",")

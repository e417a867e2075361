"""Launch parameters, from a table that ships with the package: nothing is tuned in use.

An autotuner would time kernels inside the first measured call, pick differently from run to run,
and needs a driver, which Triton's interpreter does not have. `python -m kernels.tune` measures on
the card at hand and writes its findings into the table.

The table, `configs/selection_tuning.json`, says of every entry where it comes from. `D`, `Dv`, `H`,
`L` and `N` are upper bounds; the first entry that fits a launch decides, measured ones come first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "configs" / "selection_tuning.json"

KERNELS = ("dense", "varlen", "ranges")
"""Names of the forms, as the table has them."""
SPLIT = "split"
"""Stands for every form, where rows are split; `any` for every form, split or not."""

DOUBLE_BUFFER_STAGES = 2
"""`num_stages` with `NSA_SEL_TRITON_DB=1`: one K/V tile is loaded while another is computed."""

MAX_HEAD_DIM = 256
MAX_GROUP_HEADS = 64
MAX_SPLITS = 64
SPLIT_KEYS = 64
"""Fewest keys of a row that are worth a program of their own."""

INTERPRETER = (0, 0)
"""Stands for Triton's interpreter where a compute capability is expected."""


@dataclass(frozen=True)
class LaunchParams:
    """What a launch may vary without changing the result beyond rounding."""

    heads: int
    """Most heads that a program serves."""
    block_l: int
    """Keys per tile: a power of two, at least 16."""
    num_warps: int
    num_stages: int
    """Tiles in flight. 1 loads and computes in turn; 2 and more overlap them."""


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    arch: str
    """Compute capability, e.g. `8.9`."""
    kernel: str
    """`dense`, `varlen`, `ranges`, `split` or `any`."""
    bits: int
    """Of an element: 16 or 32."""
    D: int
    Dv: int
    H: int
    """Largest number of heads of a row."""
    L: int | None
    """Largest number of keys that a program reads; None for no bound."""
    N: int | None
    """Largest number of rows; None for no bound. Few of them leave each processor few programs, and
    then these have to have more bytes in flight."""
    params: LaunchParams
    source: str
    """`measured: ...` with card, versions, date and times; or `derived: ...` and from what."""

    @property
    def capability(self) -> tuple[int, int]:
        """`arch` as numbers."""
        major, minor = self.arch.split(".")
        return int(major), int(minor)

    def to_json(self) -> dict[str, Any]:
        """The fields in the table's order; the reverse of `from_json`."""
        named = {k: v for k, v in vars(self).items() if k not in ("params", "source")}
        return named | vars(self.params) | {"source": self.source}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Entry:
        """Read one record of the table.

        Raises:
            ValueError: a field is missing, unknown, or holds what a launch cannot have.
        """
        rest = dict(record)
        try:
            params = LaunchParams(*(rest.pop(name) for name in LaunchParams.__annotations__))
            entry = cls(params=params, **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"tuning table, {record}: {error}") from None
        powers = (params.heads, params.block_l, params.num_warps)
        if (
            any(value < 1 or value & (value - 1) for value in powers)
            or params.block_l < 16
            or not 1 <= params.num_stages <= 8
            or entry.kernel not in (*KERNELS, SPLIT, "any")
            or entry.bits not in (16, 32)
            or not entry.source.startswith(("measured: ", "derived: "))
        ):
            raise ValueError(f"tuning table: no launch can have {record}")
        return entry


@dataclass(frozen=True)
class Request:
    """What a launch is for: the key of the table."""

    kernel: str
    bits: int
    D: int
    Dv: int
    H: int
    L: int
    """Keys that a program reads, or a bound on them: shapes alone must tell."""
    N: int
    """Rows."""
    capability: tuple[int, int] = field(default=INTERPRETER)


def launch_params(request: Request, table: tuple[Entry, ...] | None = None) -> LaunchParams:
    """Look up the parameters of a launch.

    Raises:
        ValueError: no entry is wide enough for these head dimensions.
    """
    if request.capability == INTERPRETER:
        # large tiles: what it takes goes by the number of operations, not by their size
        heads = MAX_GROUP_HEADS if request.bits == 16 else 16
        return LaunchParams(heads, block_l=64, num_warps=4, num_stages=1)
    entries = _shipped(request.capability) if table is None else of_card(table, request.capability)
    for entry in entries:
        if (
            entry.kernel in (request.kernel, "any")
            and entry.bits == request.bits
            and entry.D >= request.D
            and entry.Dv >= request.Dv
            and entry.H >= request.H
            and (entry.L is None or entry.L >= request.L)
            and (entry.N is None or entry.N >= request.N)
        ):
            return entry.params
    raise ValueError(f"no launch parameters for {request}")


def of_card(table: tuple[Entry, ...], capability: tuple[int, int]) -> tuple[Entry, ...]:
    """The entries for a card: its own, or those of the newest before it, or of the oldest."""
    known = {entry.capability for entry in table}
    nearest = max((c for c in known if c <= capability), default=min(known))
    return tuple(entry for entry in table if entry.capability == nearest)


@cache
def _shipped(capability: tuple[int, int]) -> tuple[Entry, ...]:
    """Kept, because every launch asks."""
    return of_card(read_table(), capability)


def split_count(programs: int, length: int, processors: int) -> int:
    """In how many programs to cut each row along its keys: a power of two, 1 for none.

    From shapes alone: reading the true lengths would stall the device, and a CUDA graph could not
    hold it. Splitting costs a second launch, so only what leaves half the device idle is split.

    Args:
        programs: how many there are without splitting.
        length: keys of the longest row, or a bound on them.
        processors: streaming multiprocessors of the device.
    """
    if programs == 0 or 2 * programs > processors:
        return 1
    wanted = min(2 * processors // programs, length // SPLIT_KEYS, MAX_SPLITS)
    return 1 << (wanted.bit_length() - 1) if wanted > 1 else 1


@cache
def read_table(path: Path = TABLE) -> tuple[Entry, ...]:
    """The table that ships, in order.

    Raises:
        ValueError: it holds what no launch can have; the message names the record.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Entry.from_json(record) for record in records["entries"])


def write_table(entries: tuple[Entry, ...], path: Path = TABLE) -> None:
    """Write a table of one line an entry, so that a change shows as the lines it changes."""
    lines = ",\n".join("  " + json.dumps(entry.to_json()) for entry in entries)
    path.write_text(f'{{"entries": [\n{lines}\n]}}\n', encoding="utf-8")
    read_table.cache_clear()
    _shipped.cache_clear()

"""The command line of the benchmark, and the cells it asks for. Standard library only."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.bench.contract import CONTRACT_VERSION

MANY_SPANS = 8
MAX_JOBS = 8
"""By default: each holds a CUDA context, half a gigabyte, until its family is done."""
MATRIX_KEYS = ("N", "H", "D", "Dv", "L_list", "streams")


class UsageError(ValueError):
    """An option, or an entry of a matrix file, that means nothing."""


@dataclass(frozen=True)
class Family:
    """Cells that differ in L only. One process measures them."""

    N: int
    """Rows: query positions x groups."""
    H: int
    D: int
    Dv: int
    lengths: tuple[int, ...]
    """Keys of the longest row of each cell."""
    streams: int
    dist: str
    ragged: bool
    form: str
    dtype: str
    level: str
    basis: str
    iters: int
    warmup: int
    seed: int

    @property
    def mode(self) -> str:
        """Which CSV its rows belong in."""
        return mode_of(self.dist, ragged=self.ragged)

    @property
    def nspans(self) -> int:
        """Most spans that a row has."""
        return 1 if self.dist == "few" else MANY_SPANS

    def identity(self, length: int) -> dict[str, object]:
        """The columns that say which cell it is."""
        return {
            "mode": self.mode,
            "N": self.N,
            "H": self.H,
            "D": self.D,
            "Dv": self.Dv,
            "L": length,
            **({"nspans": self.nspans} if self.mode == "varlen" else {}),
            "streams": self.streams,
            "contract": CONTRACT_VERSION,
            "dist": self.dist,
            "dtype": self.dtype,
            "level": self.level,
            "basis": self.basis,
            "ragged": "uniform" if self.ragged else "equal",
            "form": self.form,
            "seed": self.seed,
            "warmup": self.warmup,
        }

    def as_json(self) -> dict[str, Any]:
        """For the process that measures it; `from_json` is the way back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Family:
        """What `as_json` gave."""
        return cls(**{**fields, "lengths": tuple(fields["lengths"])})


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    families: tuple[Family, ...]
    csv: Path
    resume: bool
    budget_s: float | None
    jobs: int
    """Families that are compiled at once."""


def mode_of(dist: str, *, ragged: bool) -> str:
    """`dense` where every row has one span of L keys, else `varlen`."""
    return "dense" if dist == "few" and not ragged else "varlen"


def parse(argv: Sequence[str] | None) -> Options:
    """Read the command line; exits with status 2 and a message if it means nothing."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        families = tuple(_families(args))
    except (UsageError, OSError) as error:
        parser.error(str(error))
    return Options(families, args.csv, args.resume, args.budget, args.jobs)


def _families(args: argparse.Namespace) -> list[Family]:
    entries: list[Mapping[str, Any]] = [{}]
    if args.matrix:
        entries = _matrix(args.matrix)
    found: list[Family] = []
    for entry in entries:
        chosen = {name: entry.get(name, getattr(args, name)) for name in MATRIX_KEYS}
        lengths = tuple(chosen.pop("L_list"))
        lists = [value if isinstance(value, list) else [value] for value in chosen.values()]
        for values in itertools.product(*lists):
            shape = dict(zip(chosen, values, strict=True))
            family = Family(
                **shape,
                lengths=lengths,
                dist=args.dist,
                ragged=args.ragged,
                form="decode" if args.decode else "rows",
                dtype=args.dtype,
                level=args.level,
                basis=args.basis,
                iters=args.iters,
                warmup=args.warmup,
                seed=args.seed,
            )
            if family.streams > family.N:
                raise UsageError(
                    f"--streams {family.streams} is more than the {family.N} rows there are"
                )
            if min(lengths) < family.nspans:
                raise UsageError(
                    f"L={min(lengths)} is less than the {family.nspans} spans of a row with "
                    f"--dist {family.dist}"
                )
            found.append(family)
    cells = [tuple(family.identity(L).values()) for family in found for L in family.lengths]
    if len(set(cells)) != len(cells):
        raise UsageError(f"{args.matrix} names a cell twice")
    return found


def _matrix(path: Path) -> list[Mapping[str, Any]]:
    """Entries of a matrix file: a JSON list of objects, whose lists are crossed.

    Raises:
        UsageError: the file is no such thing; the message names the entry.
        OSError: it cannot be read.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: expected a list of objects, e.g. [{{'N': [256, 1024]}}]")
    for i, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, entry {i}: expected an object")
        for name, value in entry.items():
            if name not in MATRIX_KEYS:
                known = ", ".join(MATRIX_KEYS)
                raise UsageError(f"{path}, entry {i}: {name!r} is none of {known}")
            values = value if isinstance(value, list) else [value]
            if not values or any(type(v) is not int or v < 1 for v in values):
                raise UsageError(f"{path}, entry {i}: {name} must be positive whole numbers")
            if name == "L_list" and not isinstance(value, list):
                raise UsageError(f"{path}, entry {i}: L_list must be a list")
    return entries


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_sel_triton", description="Triton selection kernels against packed SDPA."
    )
    add = parser.add_argument
    add("--N", type=_positive, default=1024, help="rows: query positions x groups")
    add("--H", type=_positive, default=8, help="query heads of a row")
    add("--D", type=_positive, default=128, help="head dimension of queries and keys")
    add("--Dv", type=_positive, default=128, help="head dimension of values")
    add(
        "--L_list", type=_lengths, default=[64, 128, 256, 512, 1024], help="keys a row, e.g. 64,128"
    )
    add("--dist", choices=("few", "many", "mixed"), default="few", help="spans a row: 1, 8, either")
    add("--ragged", action="store_true", help="rows have different lengths, L being the longest")
    add("--iters", type=_positive, default=50, help="timed iterations of each side, at least")
    add("--warmup", type=_count, default=5, help="untimed iterations of each side, at least")
    add("--streams", type=_positive, default=1, help="streams the rows are split over, both sides")
    add("--csv", type=Path, required=True, help="file to write; must not exist")
    add(
        "--decode",
        action="store_true",
        help="operator level: one query a sequence over one shared cache of 64 * L keys, in place "
        "of rows with caches of 4 * L keys each",
    )
    add("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16")
    add(
        "--matrix",
        type=Path,
        help=f"JSON list of objects with {', '.join(MATRIX_KEYS)}; lists are crossed",
    )
    add("--budget", type=_seconds, help="seconds for all cells; the rest is named, not measured")
    add(
        "--jobs",
        type=_positive,
        default=_default_jobs(),
        help="families of a matrix that are compiled at once; they are timed one by one",
    )
    add("--resume", action="store_true", help="go on with a CSV that has no end mark yet")
    add("--level", choices=("kernel", "operator"), default="operator", help="of tri_ms and ref_ms")
    add("--basis", choices=("shipped", "strongest"), default="strongest", help="of ref_ms")
    add("--seed", type=_seed, default=0, help="of the inputs and of the bootstrap")
    return parser


def _default_jobs() -> int:
    """In Triton's interpreter nothing is compiled."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return 1
    return max(1, min(MAX_JOBS, (os.cpu_count() or 1) // 2))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _seed(text: str) -> int:
    value = _count(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not less than 2**63")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _lengths(text: str) -> list[int]:
    try:
        lengths = [_positive(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected lengths like 64,128") from None
    if len(set(lengths)) != len(lengths):
        raise argparse.ArgumentTypeError(f"{text!r} names a length twice")
    return lengths

"""What the columns of a foreign bench CSV mean: the contract's names, or usual variants of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernels.bench import contract
from orchestrator.evidence.errors import EvidenceError
from orchestrator.evidence.text import refuse_wide

_KNOWN = (*contract.VARLEN_COLUMNS, *contract.EXTRA_COLUMNS)
# By the contract's name: how others call it, in lower case, signs as underscores.
_ALIASES: dict[str, tuple[str, ...]] = {
    "mode": ("kind", "path", "variant"),
    "N": ("rows", "n_rows", "num_rows"),
    "H": ("heads", "n_heads", "num_heads"),
    "D": ("dk", "head_dim", "d_k", "dim"),
    "Dv": ("d_v", "dim_v", "v_dim"),
    "L": ("len", "length", "seq_len", "seqlen", "l_sel", "selected"),
    "nspans": ("n_spans", "spans", "num_spans"),
    "streams": ("n_streams", "num_streams"),
    "tri_ms": ("triton_ms", "tri", "triton", "triton_time_ms", "tri_time_ms", "kernel_ms",
               "time_triton_ms"),
    "ref_ms": ("sdpa_ms", "ref", "sdpa", "reference_ms", "packed_ms", "packed_sdpa_ms", "torch_ms",
               "baseline_ms", "sdpa_time_ms", "ref_time_ms", "time_ref_ms"),
    "speedup": ("speed_up", "speedup_x", "ratio"),
    "mae": ("mean_abs_err", "mean_abs_error", "mean_absolute_error", "max_mae"),
    "max_err": ("max_abs_err", "max_abs_error", "max_error"),
    "device": ("gpu", "gpu_name", "device_name", "card"),
    "dtype": ("precision", "type"),
    "dist": ("distribution",),
    "status": ("state", "result", "outcome"),
}  # fmt: skip
_CONTRACT = {name.lower(): name for name in _KNOWN}
_NAMES = {
    **_CONTRACT,
    **{alias: name for name, aliases in _ALIASES.items() for alias in aliases},
}
TIMES = ("tri_ms", "ref_ms")
_A_TIME = re.compile(r"_(ms|us|usec)$")
_VERSION = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)+\S*", re.ASCII)
"""What a column called `triton` holds beside the times."""
_IN_US = re.compile(r"_(us|usec)$")
MICRO = str.maketrans("\u00b5\u03bc", "uu")
"""Both signs that are written for a millionth."""


@dataclass(frozen=True)
class Header:
    """A header line, and the contract's name of each column that it has one for."""

    fields: tuple[str, ...]
    names: tuple[str, ...]
    micro: frozenset[str]
    """Times that are in microseconds, not ms."""

    @property
    def renamed(self) -> Mapping[str, str]:
        """Columns that are called otherwise in the contract, with its names."""
        pairs = zip(self.fields, self.names, strict=True)
        return {field: name for field, name in pairs if name != field and name in _KNOWN}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Columns that the contract has not."""
        return tuple(name for name in self.names if name not in _KNOWN)

    def repeated_by(self, fields: Sequence[str]) -> bool:
        """Whether another line of the file is this header again."""
        return [*map(str.lower, fields)] == [*map(str.lower, self.fields)]

    def with_versions(self, rows: Sequence[Sequence[str]]) -> Header:
        """The same; but `triton` without a unit is no time where versions stand in it."""
        names = list(self.names)
        for index, (name, header) in enumerate(zip(self.names, self.fields, strict=True)):
            contracts = _CONTRACT.get(header.lower(), name)
            if name not in TIMES or contracts == name:
                continue
            told = [fields[index] for fields in rows]
            if told and all(_VERSION.fullmatch(field) for field in told):
                names[index] = contracts
        return Header(self.fields, tuple(names), self.micro)


def read_header(fields: Sequence[str], file: str, line: int) -> Header:
    """What each column means.

    Raises:
        EvidenceError: it names no L or no time, or two columns have one meaning.
    """
    refuse_wide(fields, file, line)
    names, plains = [], []
    for field in fields:
        plain = _plain(field)
        in_ms = _IN_US.sub("_ms", plain)
        name = _NAMES.get(plain)
        if name is None and in_ms != plain and _NAMES.get(in_ms) in TIMES:
            name = _NAMES[in_ms]
        plains.append(plain)
        names.append(name or field)
    for name, times in Counter(names).items():
        if times > 1:
            claims = [index for index, claimed in enumerate(names) if claimed == name]
            chosen = _chosen(name, claims, plains)
            if chosen is None:
                both = " and ".join(repr(fields[index]) for index in claims)
                raise EvidenceError(f"{both} both mean {name}", file=file, line=line, column=name)
            for index in set(claims) - {chosen}:
                names[index] = _CONTRACT.get(plains[index], fields[index])
    there = {"L": "L" in names, "time": not set(TIMES).isdisjoint(names)}
    if not all(there.values()):
        raise EvidenceError(
            f"the header names {' and '.join(f'no {name}' for name in there if not there[name])}: "
            "expected "
            f"{','.join(contract.DENSE_COLUMNS)}, or variants such as triton_ms and sdpa_ms",
            file=file,
            line=line,
        )
    micro = {
        n for n, plain in zip(names, plains, strict=True) if n in TIMES and _IN_US.search(plain)
    }
    return Header(tuple(fields), tuple(names), frozenset(micro))


def is_known(field: str) -> bool:
    """Whether a column is the contract's, or a variant of one."""
    plain = _plain(field)
    return plain in _NAMES or _IN_US.sub("_ms", plain) in _NAMES


def _plain(field: str) -> str:
    """In lower case, with underscores for signs."""
    return re.sub(r"[^a-z0-9]+", "_", field.lower().translate(MICRO)).strip("_")


def _chosen(name: str, claims: Sequence[int], plains: Sequence[str]) -> int | None:
    """Which of the columns that may mean `name` does; None where nothing tells."""
    exact = [index for index in claims if plains[index] == name.lower()]
    sure = [i for i in claims if _A_TIME.search(plains[i])] if name in TIMES else exact
    chosen = sure or [i for i in claims if plains[i] not in _CONTRACT]
    return chosen[0] if len(chosen) == 1 else None

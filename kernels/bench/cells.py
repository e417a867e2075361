"""One cell: checked, timed, checked again.

Both sides are compared with the fp64 oracle on the tensors that are timed, split over the streams
as they are timed, and a mutation probe makes sure that each reads every key. Of the references
that are right, a short trial picks the fastest few for the careful timing. A cell whose kernel or
whose shipped reference is wrong is not timed. Afterwards the last timed output of every contender
on every copy of the inputs is compared with the oracle too, and the Triton side must have launched
the kernels that were checked, the references none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.bench import references
from kernels.bench.clock import clock_for
from kernels.bench.contract import TRITON_PREFIX
from kernels.bench.intervals import median, quantile, ratio_interval, variation
from kernels.bench.machine import Machine
from kernels.bench.options import Family
from kernels.bench.timing import Call, Timed, now_ms, time_all
from kernels.bench.trial import Finalist, Run, Trial, check, errors, finalists, too_far
from kernels.bench.workloads import Inputs, PackedRows, Selection, Shape, build
from kernels.selection import op
from kernels.selection.flags import Flags

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LEVELS = ("kernel", "operator")
COPIES = 3
"""Copies of the inputs that iterations rotate among; odd, so that taking turns meets all."""
CONTROL = "control of "

Say = Callable[[str], None]


class Wrong(Exception):
    """The cell is not worth timing, or its times are worth nothing; the message says why."""


@dataclass
class Contender:
    """One side of a comparison, as it is timed."""

    name: str
    run: Run
    trial: Trial
    launched: list[str] = field(default_factory=list)
    """Triton kernels that its timed calls launched."""

    def calls(self, copies: Sequence[Inputs], level: str, streams: int) -> list[list[Call]]:
        """One call per copy and stream."""
        return [[self._call(part) for part in copy.at(level).split(streams)] for copy in copies]

    def _call(self, part: object) -> Call:
        def call() -> Tensor:
            with op.record_launches() as kernels:
                out = self.run(part)
            self.launched += kernels
            return out

        return call


@dataclass
class Level:
    """The contenders of one level."""

    name: str
    triton: Contender
    shipped: Contender
    others: list[Contender]
    """References that may be stronger than the shipped one, the fastest of the trial first."""

    @property
    def references(self) -> list[Contender]:
        """All but Triton."""
        return [self.shipped, *self.others]

    def key(self, contender: Contender) -> str:
        """Name in the timing."""
        return f"{self.name} level: {contender.name}"


def measure(
    family: Family, length: int, machine: Machine, flags: Flags, say: Say
) -> dict[str, object]:
    """Build, check and time one cell.

    Args:
        family: of the cell.
        length: its L.
        machine: to measure on.
        flags: choose the kernel.
        say: gets a line for each group of references that were left out.

    Returns:
        The measured columns, with `status` for what went wrong.
    """
    row: dict[str, object] = {"began_ms": now_ms(), **machine.columns}
    wrong = None
    try:
        _measure(family, length, machine, flags, say, row)
    except Wrong as error:
        wrong = str(error)
    except Exception as error:  # noqa: BLE001 - whatever one cell dies of, the others go on
        wrong = one_line(error)
    return row | {"status": f"error: {wrong}" if wrong else "ok", "ended_ms": now_ms()}


def one_line(error: BaseException) -> str:
    """Kind and message of an error, for a column."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def shape_of(family: Family, length: int, device: torch.device) -> Shape:
    """What to build for a cell."""
    return Shape(
        N=family.N,
        H=family.H,
        D=family.D,
        Dv=family.Dv,
        L=length,
        nspans=family.nspans,
        mixed=family.dist == "mixed",
        ragged=family.ragged,
        form=family.form,
        dtype=DTYPES[family.dtype],
        device=device,
        seed=family.seed,
    )


def triton_side(level: str, flags: Flags) -> Run:
    """The Triton side of a level."""

    def packed(rows: PackedRows) -> Tensor:
        if rows.dense:
            dense = op.sel_attn_fwd_dense_group if flags.group else op.sel_attn_fwd_dense
            return dense(rows.Q, rows.K, rows.V, flags=flags)
        varlen = op.sel_attn_fwd_varlen_group if flags.group else op.sel_attn_fwd_varlen
        return varlen(
            rows.Q, rows.K_all, rows.V_all, rows.cu_seqlens, max_len=rows.K.shape[1], flags=flags
        )

    def operator(selection: Selection) -> Tensor:
        out = op.selection_attention_triton(*selection.operands(), max_len=selection.L, flags=flags)
        return out.view(*selection.Q.shape[:2], -1)

    return packed if level == "kernel" else operator


def _measure(
    family: Family,
    length: int,
    machine: Machine,
    flags: Flags,
    say: Say,
    row: dict[str, object],
) -> None:
    """Fill `row`; raise `Wrong` if the cell is."""
    shape = shape_of(family, length, machine.device)
    copies = [build(shape, copy) for copy in range(min(COPIES, family.iters))]
    oracles = [inputs.oracle() for inputs in copies]
    row |= {"bytes": copies[0].bytes, "flops": copies[0].flops}
    levels = {}
    for name in LEVELS:
        levels[name] = _checked(name, family, copies[0], oracles[0], flags, row)
    for level in levels.values():
        workload = copies[0].at(level.name)
        found, left_out = finalists(
            level.name,
            workload,
            oracles[0],
            family.streams,
            family.iters,
            Finalist(level.shipped.name, level.shipped.run, level.shipped.trial),
        )
        level.others = [Contender(one.name, one.run, one.trial) for one in found]
        for reason, names in left_out.items():
            say(f"left out at {level.name} level: {', '.join(names)} ({reason})")
    timed = _time(family, machine, copies, levels, row)
    contenders = [
        (level, contender)
        for level in levels.values()
        for contender in (*level.references, level.triton)
    ]
    for level, contender in contenders:
        _check_timed(level, contender, timed, oracles)
    # what was remembered, by whatever mark of the tensors, is not true of them any more
    copies[0].refill(build(shape, len(copies)))
    changed = copies[0].oracle()
    for level, contender in contenders:
        _check_changed(level, contender, timed, changed)
    _report(family, levels, timed, row)


def _checked(
    name: str,
    family: Family,
    inputs: Inputs,
    oracle: Tensor,
    flags: Flags,
    row: dict[str, object],
) -> Level:
    """Check Triton and the shipped reference of a level, and fill the columns of the checks."""
    workload = inputs.at(name)
    reference = references.shipped(name, workload, flags)
    run = triton_side(name, flags)
    of_reference = check(reference.run, workload, oracle, family.streams)
    of_triton = check(run, workload, oracle, family.streams, reference=of_reference)
    kernel = _named(of_triton.launched)
    wrong = None
    if of_reference.wrong:
        wrong = f"the reference {reference.name} {of_reference.wrong}"
    elif of_triton.wrong:
        wrong = f"the kernel {of_triton.wrong}"
    elif not of_triton.launched:
        wrong = "no Triton kernel was launched"
    row |= {f"{name}_launched": kernel, f"{name}_shipped": reference.name}
    if wrong or name == family.level:  # a fault at the other level is shown in the same columns
        row |= {
            "kernel": kernel,
            "mae": of_triton.mae,
            "max_err": of_triton.max_err,
            "tri_probe": of_triton.probe,
            "reference": reference.name,
            "ref_mae": of_reference.mae,
            "ref_max_err": of_reference.max_err,
            "ref_probe": of_reference.probe,
        }
    if wrong:
        raise Wrong(f"at {name} level {wrong}")
    return Level(
        name,
        Contender("triton", run, of_triton),
        Contender(reference.name, reference.run, of_reference),
        [],
    )


def _time(
    family: Family,
    machine: Machine,
    copies: Sequence[Inputs],
    levels: Mapping[str, Level],
    row: dict[str, object],
) -> Timed:
    """Time all contenders of both levels together."""
    calls = {}
    ratios = []
    for level in levels.values():
        triton = level.key(level.triton)
        calls[triton] = level.triton.calls(copies, level.name, family.streams)
        for reference in level.references:
            calls[level.key(reference)] = reference.calls(copies, level.name, family.streams)
            ratios.append((level.key(reference), triton))
    # A/A: each that may become the reference once more, as a side of its own
    level = levels[family.level]
    for twin in level.references if family.basis == "strongest" else [level.shipped]:
        control = CONTROL + level.key(twin)
        calls[control] = twin.calls(copies, level.name, family.streams)
        ratios.append((level.key(twin), control))
    clock = clock_for(machine.device, family.streams)
    sampler = machine.sampler()
    timed = time_all(
        calls,
        ratios,
        clock=clock,
        iters=family.iters,
        warmup=family.warmup,
        on_batch=sampler.start,
    )
    row |= {
        "iters": timed.rounds,
        "timer": timed.timer,
        "settled": timed.settled,
        "flush_mib": clock.flush_bytes / 2**20,
        **sampler.result(),
    }
    return timed


def _check_changed(level: Level, contender: Contender, timed: Timed, oracle: Tensor) -> None:
    """Raise `Wrong` unless the timed calls see that the first copy of the inputs has changed."""
    key = level.key(contender)
    for parts in timed.again(key, 0):
        wrong = errors(parts, oracle)[2]
        if wrong:
            raise Wrong(f"run once more on inputs that changed in place, {key} {wrong}")


def _check_timed(level: Level, contender: Contender, timed: Timed, oracles: list[Tensor]) -> None:
    """Raise `Wrong` unless the timed calls did what the checked ones did."""
    key = level.key(contender)
    for copy, passes in timed.outputs[key].items():
        for parts in passes:
            _, largest, wrong = errors(parts, oracles[copy])
            if wrong is None and contender is level.triton:
                shipped = timed.outputs[level.key(level.shipped)][copy][0]
                of_shipped = errors(shipped, oracles[copy])[1]
                wrong = too_far(largest, of_shipped, oracles[copy], parts[0].dtype)
            if wrong:
                raise Wrong(f"in its last timed iteration on inputs {copy}, {key} {wrong}")
    expected = Counter(contender.trial.launched * timed.started[key])
    if contender is not level.triton:
        expected = Counter()
    if Counter(contender.launched) != expected:
        raise Wrong(
            f"the timed calls of {key} launched {dict(Counter(contender.launched))}, "
            f"not {dict(expected)}"
        )


def _report(
    family: Family, levels: Mapping[str, Level], timed: Timed, row: dict[str, object]
) -> None:
    """Fill the columns of the times."""
    for level in levels.values():
        triton = timed.samples[level.key(level.triton)]
        by_speed = sorted(level.references, key=lambda r: median(timed.samples[level.key(r)]))
        row |= {
            f"{level.name}_tri_ms": median(triton),
            f"{level.name}_strongest": by_speed[0].name,
        }
        for basis, reference in (("shipped", level.shipped), ("strongest", by_speed[0])):
            times = timed.samples[level.key(reference)]
            low, high = ratio_interval(times, triton, family.seed)
            row |= {
                f"{level.name}_{basis}_ms": median(times),
                f"{level.name}_{basis}_lo": low,
                f"{level.name}_{basis}_hi": high,
            }
            if (level.name, basis) == (family.level, family.basis):
                _report_basis(level, reference, (low, high), timed, row)
                twin = timed.samples[CONTROL + level.key(reference)]
                aa_lo, aa_hi = ratio_interval(times, twin, family.seed)
                row |= {"aa_lo": aa_lo, "aa_hi": aa_hi}


def _report_basis(
    level: Level,
    reference: Contender,
    interval: tuple[float, float],
    timed: Timed,
    row: dict[str, object],
) -> None:
    """Fill the document's columns, from the level and the reference that decide."""
    tri, ref = level.key(level.triton), level.key(reference)
    tri_times, ref_times = timed.samples[tri], timed.samples[ref]
    row |= {
        "kernel": _named(level.triton.launched),
        "reference": reference.name,
        "tri_ms": median(tri_times),
        "ref_ms": median(ref_times),
        "speedup": median(ref_times) / median(tri_times),
        "speedup_lo": interval[0],
        "speedup_hi": interval[1],
        "ref_mae": reference.trial.mae,
        "ref_max_err": reference.trial.max_err,
        "ref_probe": reference.trial.probe,
        "tri_p10": quantile(tri_times, 0.1),
        "tri_p90": quantile(tri_times, 0.9),
        "ref_p10": quantile(ref_times, 0.1),
        "ref_p90": quantile(ref_times, 0.9),
        "tri_cv": variation(tri_times),
        "ref_cv": variation(ref_times),
        "tri_streams": timed.streams[tri],
        "ref_streams": timed.streams[ref],
    }


def _named(kernels: Sequence[str]) -> str:
    """Distinct kernels in the order of their first launch, as the column `kernel` has them."""
    return TRITON_PREFIX + "+".join(dict.fromkeys(kernels)) if kernels else ""

"""Every reference that the installed torch can run gives the oracle's answer, or is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from selection_cases import DEVICE

from kernels.bench import references, trial
from kernels.bench.references import Reference
from kernels.bench.workloads import Shape, build
from kernels.selection import dispatch
from kernels.selection.errors import UnsupportedShape
from kernels.selection.flags import Flags
from kernels.selection.reference import (
    grouped_selection_attention_packed,
    selection_attention_oracle,
)

SHAPES = {
    "equal": {},
    "spans": {"nspans": 8},
    "ragged": {"nspans": 8, "mixed": True, "ragged": True},
    "decode": {"nspans": 8, "form": "decode"},
    "ragged decode": {"nspans": 8, "ragged": True, "form": "decode"},
}
# what every torch since 2.5 can do on every device
PACKED = {
    f"{layout}.{backend}"
    for layout in ("one_head", "expanded", "gqa")
    for backend in ("auto", "math")
}
GATHERED = {
    f"{way}+{name}" for way in ("index", "gather", "index_select", "mask") for name in PACKED
}


def inputs(**changes):
    shape = {
        "N": 5, "H": 4, "D": 16, "Dv": 24, "L": 21, "nspans": 1, "mixed": False, "ragged": False,
        "form": "rows", "dtype": torch.float16, "device": DEVICE, "seed": 3,
    }  # fmt: skip
    return build(Shape(**(shape | changes)))


def checked_shipped(level, made):
    shipped = references.shipped(level, made.at(level))
    checked = trial.check(shipped.run, made.at(level), made.oracle(), 1)
    return trial.Finalist(shipped.name, shipped.run, checked)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("streams", [1, 2])
def test_right_or_left_out(shape, streams, monkeypatch):
    monkeypatch.setattr(trial, "FINALISTS", 1000)
    made = inputs(**SHAPES[shape])
    for level, expected in (("kernel", PACKED), ("operator", GATHERED)):
        shipped = checked_shipped(level, made)
        assert (shipped.trial.wrong, shipped.trial.probe) == (None, "ok")
        found, left_out = trial.finalists(level, made.at(level), made.oracle(), streams, 1, shipped)
        assert {one.name for one in found} >= expected, left_out
        assert {one.trial.probe for one in found} == {"ok"}
        # right or unsupported, never wrong
        assert not [why for why in left_out if why.startswith(("has", "misses", "does", "gives"))]


def test_names_tell_them_apart():
    for level in ("kernel", "operator"):
        names = [one.name for one in references.candidates(level, torch.device("cuda"))]
        assert len(set(names)) == len(names) > 10
        assert "grouped_selection_attention_packed" not in names
        assert "packed_sdpa" not in names
    assert names.count("flex_attention") == 1


@pytest.mark.parametrize("path", ["flex_attention", "packed_sdpa"])
def test_shipped_is_what_dispatch_runs_under_its_own_name(path, monkeypatch):
    """Flex_attention is stood in for: to compile it on a CPU takes long."""
    served, made = [], inputs()

    def flex(Q, K, V, ranges, *, max_len):
        if path == "packed_sdpa" or served:
            raise UnsupportedShape("not this one")
        served.append(max_len)
        return selection_attention_oracle(Q, K, V, ranges).to(Q.dtype)

    monkeypatch.setattr(dispatch, "selection_attention_flex", flex)
    flags = Flags(use_triton=True, min_l=0, force_device=True, fallback="flex")
    shipped = references.shipped("operator", made.operator, flags)
    assert shipped.name == references.SHIPPED_NAMES[path]
    if path == "packed_sdpa":
        assert torch.equal(
            shipped.run(made.operator),
            grouped_selection_attention_packed(*made.operator.operands(), max_len=21)[:, 0, 0],
        )
        return
    assert served == [21]
    with pytest.raises(RuntimeError, match=r"took packed_sdpa, not flex_attention: .*not this one"):
        shipped.run(made.operator)
    served.clear()
    assert trial.errors([shipped.run(made.operator)], made.oracle())[2] is None


def test_the_shipped_one_is_not_timed_as_another_too(monkeypatch):
    made = inputs()
    several = [
        Reference(name, lambda selection: references.shipped("operator", selection).run(selection))
        for name in ("flex_attention", "another")
    ]
    monkeypatch.setattr(references, "candidates", lambda level, device: several)
    shipped = replace(checked_shipped("operator", made), name="flex_attention")
    found, left_out = trial.finalists("operator", made.operator, made.oracle(), 1, 1, shipped)
    assert [one.name for one in found] == ["another"]
    assert left_out == {}


def test_the_fastest_that_are_right_come_first(monkeypatch):
    def slow(rows):
        for _ in range(20):
            out = references.shipped("kernel", rows).run(rows)
        return out

    made = inputs()
    several = [
        Reference("slow", slow),
        Reference("wrong", lambda rows: rows.V.mean(1, keepdim=True).expand(-1, 4, -1).clone()),
        Reference("unsupported", lambda rows: rows.nothing),
        Reference("quick", references.shipped("kernel", made.kernel).run),
    ]
    monkeypatch.setattr(references, "candidates", lambda level, device: several)
    shipped = checked_shipped("kernel", made)
    found, left_out = trial.finalists("kernel", made.kernel, made.oracle(), 1, 5, shipped)
    assert [one.name for one in found] == ["quick", "slow"]
    assert sorted(name for names in left_out.values() for name in names) == ["unsupported", "wrong"]
    assert any("AttributeError" in why for why in left_out)

"""Every reference that the installed torch can run gives the oracle's answer, or is left out."""

from __future__ import annotations

import pytest
import torch
from selection_cases import DEVICE

from kernels.bench import references, trial
from kernels.bench.references import Reference
from kernels.bench.workloads import Shape, build

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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("streams", [1, 2])
def test_right_or_left_out(shape, streams, monkeypatch):
    monkeypatch.setattr(trial, "FINALISTS", 1000)
    made = inputs(**SHAPES[shape])
    for level, expected in (("kernel", PACKED), ("operator", GATHERED)):
        shipped = trial.check(references.shipped(level).run, made.at(level), made.oracle(), 1)
        assert (shipped.wrong, shipped.probe) == (None, "ok")
        found, left_out = trial.finalists(level, made.at(level), made.oracle(), streams, 1, shipped)
        assert {one.name for one in found} >= expected, left_out
        assert {one.trial.probe for one in found} == {"ok"}
        # right or unsupported, never wrong
        assert not [why for why in left_out if why.startswith(("has", "misses", "does", "gives"))]


def test_names_tell_them_apart():
    for level in ("kernel", "operator"):
        names = [one.name for one in references.candidates(level, torch.device("cuda"))]
        assert len(set(names)) == len(names) > 10
        assert references.shipped(level).name not in names
    assert "flex_attention" in names


def test_the_fastest_that_are_right_come_first(monkeypatch):
    def slow(rows):
        for _ in range(20):
            out = references.shipped("kernel").run(rows)
        return out

    made = inputs()
    several = [
        Reference("slow", slow),
        Reference("wrong", lambda rows: rows.V.mean(1, keepdim=True).expand(-1, 4, -1).clone()),
        Reference("unsupported", lambda rows: rows.nothing),
        Reference("quick", references.shipped("kernel").run),
    ]
    monkeypatch.setattr(references, "candidates", lambda level, device: several)
    shipped = trial.check(references.shipped("kernel").run, made.kernel, made.oracle(), 1)
    found, left_out = trial.finalists("kernel", made.kernel, made.oracle(), 1, 5, shipped)
    assert [one.name for one in found] == ["quick", "slow"]
    assert sorted(name for names in left_out.values() for name in names) == ["unsupported", "wrong"]
    assert any("AttributeError" in why for why in left_out)

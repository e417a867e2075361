"""What `benchmarks.counters` reads of Nsight Compute's table, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from benchmarks import counters

STALLS = [f"smsp__average_warps_issue_stalled_{name}_per_issue_active.ratio" for name in "abcd"]
HEADER = ["ID", "Kernel Name", "gpu__time_duration.sum", "launch__registers_per_thread", *STALLS]
UNITS = ["", "", "ns", "register/thread", *["inst"] * 4]


def written(*rows):
    lines = [",".join(f'"{field}"' for field in row) for row in (HEADER, UNITS, *rows)]
    return ["==PROF== Connected to process 1", "", *lines, "==WARNING== something"]


def test_columns_are_ours_in_our_units_and_the_longest_waits_come_first():
    (row,) = counters.read(
        written(["0", "ranges_fwd", "12,640", "207", "0.1", "4.46", "1.14", "2"])
    )
    assert (row["kernel"], row["us"], row["registers"]) == ("ranges_fwd", "12.64", "207")
    assert row["stalls"] == "b=4.5 d=2.0 c=1.1"
    assert row["programs"] == ""  # not in this table


def test_a_unit_that_is_not_known_is_no_number_of_ours():
    lines = [line.replace('"ns"', '"fortnight"') for line in written(["0", "x", "1", "2", *"1111"])]
    with pytest.raises(ValueError, match="fortnight"):
        counters.read(lines)


@pytest.mark.parametrize("lines", [[], ["==ERROR== no permission"], ['"ID","Name"', '"",""']])
def test_no_table_is_refused(lines):
    with pytest.raises(ValueError, match="no table"):
        counters.read(lines)


def test_cells_are_told_from_what_else_is_printed():
    found = list(counters.named_cells("==PROF== x\ndense\t128\t64\ndense, probe\t128\t64\nbye\n"))
    assert [(cell["cell"], cell["D"], cell["L"]) for cell in found] == [
        ("dense", "128", "64"),
        ("dense, probe", "128", "64"),
    ]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo '==ERROR== no permission for the counters' >$5", "no permission for the counters"),
        ("exit 3", "ncu failed"),
        ('echo \'"ID","Kernel Name"\n"",""\n"0","x"\' >$5', "ncu saw 1 kernels, 0 were"),
    ],
)
def test_an_ncu_that_counts_nothing_is_named(script, why, tmp_path, capsys, monkeypatch):
    ncu = tmp_path / "ncu"
    ncu.write_text(f"#!/bin/sh\n{script}\n")
    ncu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(counters, "launch", lambda dims, lengths: [])
    assert counters.main(["--csv", str(tmp_path / "x.csv")]) == 1
    assert why in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a CUDA device")
def test_needs_a_gpu(tmp_path, capsys):
    assert counters.main(["--csv", str(tmp_path / "x.csv")]) == 2
    assert "no CUDA device" in capsys.readouterr().err

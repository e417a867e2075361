"""What `kernels.tune` and `benchmarks.rows` measure: the rows, the probe and the goals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from selection_cases import DEVICE, assert_matches, triton_flags

from benchmarks import rows as benchmark
from kernels import tune
from kernels.measure import Rows, dense_rows, ranges_rows, varlen_rows, worst
from kernels.selection import op
from kernels.selection.tuning import Entry, LaunchParams

LIKE = torch.empty(0, dtype=torch.float16, device=DEVICE)
MADE = {
    "dense": lambda: dense_rows(3, 2, 16, 32, 40, like=LIKE),
    "equal": lambda: varlen_rows(3, 2, 16, 16, 40, ragged=False, like=LIKE),
    "ragged": lambda: varlen_rows(5, 2, 16, 16, 40, ragged=True, like=LIKE),
    "ranges": lambda: ranges_rows(2, 2, 16, 16, 40, G=2, like=LIKE),
}


def selected_keys(rows):
    """Of each row, the keys that it reads, in the flattened K."""
    starts, lengths = rows.starts_and_lengths()
    return [
        [k for s, n in zip(*pair, strict=True) for k in range(s, s + n)]
        for pair in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]


@pytest.mark.parametrize("name", MADE)
class TestRows:
    def test_the_kernel_is_right_on_them(self, name):
        rows = MADE[name]()
        assert_matches(rows.triton(triton_flags()), rows.oracle())

    def test_the_kernel_is_told_how_long_they_are(self, name, monkeypatch):
        told = []
        for one in ("sel_attn_fwd_varlen_group", "sel_attn_fwd_ranges"):
            monkeypatch.setattr(op, one, lambda *_, max_len, **__: told.append(max_len))
        rows = MADE[name]()
        rows.triton(triton_flags())
        assert told == ([] if name == "dense" else [rows.L])

    def test_the_probe_reads_every_selected_byte_once(self, name):
        rows = MADE[name]()
        sums = benchmark.probe_call(rows, 16, 1)()
        words = [X.view(torch.int32).flatten(0, -2).long() for X in (rows.K, rows.V)]
        for row, keys in enumerate(selected_keys(rows)):
            assert (sum(int(w[keys].sum()) for w in words) - int(sums[row])) % 2**32 == 0
        assert rows.bytes_read() == sum(map(len, selected_keys(rows))) * 2 * (
            rows.K.shape[-1] + rows.V.shape[-1]
        )

    def test_references_compute_the_same(self, name):
        rows = MADE[name]()
        oracle = rows.oracle().flatten(0, -3)
        right = {}
        for reference, call in benchmark.references(rows):
            if reference.endswith(("one_head.math", "one_head.auto")):
                right[reference] = worst(call(), oracle)
        assert right
        assert max(right.values()) < 4e-3

    def test_first_rows_are_the_same_rows(self, name):
        rows = MADE[name]()
        few = benchmark.first_rows(rows, 1)
        oracle = few.oracle().flatten(0, -3)
        torch.testing.assert_close(oracle, rows.oracle().flatten(0, -3)[: len(oracle)])


def test_a_nan_is_not_a_small_error():
    assert worst(torch.tensor([math.nan]), torch.tensor([0.0])) == math.inf


def test_ragged_rows_have_the_length_on_average():
    rows = varlen_rows(1000, 1, 1, 1, 100, ragged=True, like=LIKE)
    _, lengths = rows.starts_and_lengths()
    assert 90 < lengths.double().mean() < 110
    assert 1 <= lengths.min() < 10
    assert 190 < lengths.max() < 200
    assert lengths.max() == rows.L


def test_goals():
    assert benchmark.goal("dense", 8, 128, 256) == benchmark.Goal(0.96, 0.99)
    assert benchmark.goal("dense", 8, 64, 64) == benchmark.Goal(0.0, 1.5)
    assert benchmark.goal("ranges", 8, 128, 64) == benchmark.Goal(0.92, 2.5)
    assert benchmark.goal("ragged", 8, 64, 512) == benchmark.Goal(0.95, 1.8)
    assert benchmark.goal("equal", 8, 64, 128) == benchmark.Goal(0.90, 1.7)
    assert benchmark.goal("dense", 4, 64, 64) == benchmark.Goal(0.0, 0.0, 1.8)
    aim = benchmark.Goal(0.95, 2.5)
    assert benchmark.missed(aim, 0.96, 2.6, 3.1) == ""
    assert benchmark.missed(aim, 0.949, 2.6, 3.1) == "0.94 of the probe, goal 0.95"
    assert "2.40 x the strongest" in benchmark.missed(aim, 0.96, 2.4, 3.1)
    assert "2.40 x varlen_attn" in benchmark.missed(aim, 0.96, 2.4, 3.1, "varlen_attn")
    assert "plain" in benchmark.missed(aim, 0.96, 2.6, 2.9)
    assert benchmark.missed(aim, 0.96, 2.6, math.nan) == ""  # it does not exist at this level


@pytest.mark.skipif(DEVICE.type == "cuda", reason="what happens without a CUDA device")
def test_refuses_without_a_gpu(capsys, tmp_path):
    assert benchmark.main(["--csv", str(tmp_path / "rows.csv")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "rows.csv").exists()


class TickingClock:
    """Runs each call once; the first takes 10 us, each later one a little less."""

    def __init__(self):
        self.calls = 0

    def microseconds(self, call, *, hopeless=math.inf):
        call()
        self.calls += 1
        return 10.0 - 0.01 * self.calls, 0.1


@pytest.fixture
def card(monkeypatch):
    """What `torch.cuda` would say of a card; only the clock is not real beside it."""
    properties = SimpleNamespace(
        shared_memory_per_block_optin=227 * 1024,
        multi_processor_count=132,
        major=9,
        minor=0,
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")


@pytest.mark.parametrize("form", ["dense", "varlen", "ranges"])
def test_tuning_checks_times_and_says_where_an_entry_comes_from(form, card, monkeypatch):
    monkeypatch.setitem(tune.ROWS, 2, 512)
    monkeypatch.setattr(tune, "CHECKED_ROWS", 1)
    tried = [LaunchParams(16, 32, 1, 2), LaunchParams(16, 64, 2, 2)]
    monkeypatch.setattr(tune, "candidates", lambda request, shared: tried)
    entry = tune._measure(TickingClock(), form, LIKE, 16, 32, 8, 64, 2)
    assert (entry.arch, entry.kernel, entry.bits, entry.D, entry.Dv) == ("9.0", form, 16, 16, 32)
    assert (entry.H, entry.L, entry.N) == (16, 96, 512)
    assert entry.source.startswith("measured: a card, torch ")
    assert Entry.from_json(entry.to_json()) == entry


def test_tuning_leaves_out_what_is_wrong(card, monkeypatch, capsys):
    monkeypatch.setitem(tune.ROWS, 2, 512)
    monkeypatch.setattr(tune, "CHECKED_ROWS", 1)
    monkeypatch.setattr(tune, "candidates", lambda request, shared: [])
    monkeypatch.setattr(tune, "worst", lambda out, oracle: math.inf)
    assert tune._measure(TickingClock(), "dense", LIKE, 16, 16, 8, 64, 2) is None
    assert "wrong by inf" in capsys.readouterr().out


@pytest.mark.parametrize("name", MADE)
def test_a_cell_is_checked_before_it_is_timed(name, card, monkeypatch):
    monkeypatch.setattr(benchmark, "PROBE_WIDTHS", (16,))
    monkeypatch.setattr(benchmark, "PROBE_WARPS", (1,))
    rows, aim = MADE[name](), benchmark.Goal(0.9, 1.5)
    line = benchmark.measure(TickingClock(), name, rows.L, rows, aim, triton_flags())
    assert line.bytes == rows.bytes_read()
    assert line.kernels.endswith("fwd.group")
    rival = "the strongest" if math.isnan(line.varlen_us) else "varlen_attn"
    assert f"x {rival}, goal 1.50" in line.missed
    assert 0 < line.max_err < 4e-3
    if DEVICE.type == "cpu":
        assert ".cudnn: RuntimeError" in line.left_out
    monkeypatch.setattr(Rows, "triton", lambda self, flags: self.oracle().half() + 1)
    with pytest.raises(ArithmeticError, match="the kernel errs"):
        benchmark.measure(TickingClock(), name, rows.L, rows, aim, triton_flags())


def test_rows_end_to_end_have_goals_beside_what_takes_such_rows(card, monkeypatch):
    monkeypatch.setattr(benchmark, "PROBE_WIDTHS", (16,))
    monkeypatch.setattr(benchmark, "PROBE_WARPS", (1,))
    rows = varlen_rows(3, 8, 16, 16, 20, ragged=True, like=LIKE)
    (plain, *_) = [call for name, call in benchmark.references(rows) if name == benchmark.PLAIN]
    rivals = [("faster", plain), (benchmark.VARLEN, plain)]
    monkeypatch.setattr(benchmark, "references", lambda rows: rivals)
    clock = TickingClock()
    times = iter([(10.0, 0.0), (9.0, 0.0), (8.0, 0.0), (30.0, 1.0)])  # ours, probe, the two
    monkeypatch.setattr(clock, "microseconds", lambda call, hopeless=math.inf: next(times))
    aim = benchmark.Goal(0.0, 2.0)
    line = benchmark.measure(clock, "ragged", rows.L, rows, aim, triton_flags())
    assert (line.strongest, line.strongest_us, line.ratio) == ("faster", 8.0, 0.8)
    assert (line.varlen_us, line.varlen_low) == (30.0, 2.9)
    assert "goal 2.00" not in line.missed


def test_decode_is_timed_with_and_without_combining(card, monkeypatch):
    monkeypatch.setattr(benchmark, "PROBE_WIDTHS", (16,))
    monkeypatch.setattr(benchmark, "PROBE_WARPS", (1,))
    monkeypatch.setattr(benchmark, "DECODE_KEYS", 128)
    monkeypatch.setattr(benchmark, "DECODE_CACHE", 512)
    line = benchmark._decode(TickingClock(), LIKE, triton_flags(splits=2))
    assert line.kernels == "ranges_split.group+ranges_combine.group"
    assert math.isnan(line.probe_us)
    assert 0 < line.split_us < line.triton_us
    assert "without combining), goal 6.4" in line.missed

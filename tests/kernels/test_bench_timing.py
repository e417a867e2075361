"""How the benchmark times, on a stopwatch of the test's own where it can."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kernels.bench import clocks
from kernels.bench.clock import clock_for
from kernels.bench.intervals import median, quantile, ratio_interval, variation
from kernels.bench.timing import ENOUGH, MAX_WARMUPS, NARROW, time_all


class Stopwatch:
    """Takes the milliseconds of an iteration from what its call returns."""

    timer = "wall"
    flush_bytes = 0
    captures = False
    late = 0

    def __init__(self):
        self.times = []

    def run(self, calls):
        made = tuple(call() for call in calls)
        self.times.append(float(sum(made)))
        return (made,)

    def milliseconds(self):
        return list(self.times)

    def clear(self):
        self.times.clear()


class GraphStopwatch(Stopwatch):
    """Its graphs take half the time that their first call took when they were captured."""

    captures = True

    def __init__(self):
        super().__init__()
        self.passes = []

    def capture(self, calls, passes):
        self.passes.append(passes)
        return [[float(call()) / 2 for call in calls] for _ in range(passes)]

    def run(self, calls):
        if callable(calls[0]):
            return super().run(calls)
        self.times.append(sum(calls[0]))
        return tuple(tuple(map(torch.tensor, one)) for one in calls)


def side(order, name, times):
    """A call that takes the next of `times`, for ever."""
    upcoming = itertools.cycle(times)

    def call():
        order.append(name)
        return torch.tensor(float(next(upcoming)))

    return call


def test_contenders_take_turns_on_rotating_copies():
    order = []
    contenders = {
        name: [[side(order, f"{name}{copy}", [ms])] for copy in range(3)]
        for name, ms in (("A", 1), ("B", 2), ("C", 4))
    }
    timed = time_all(contenders, [("B", "A")], clock=Stopwatch(), iters=4, warmup=0)
    assert " ".join(order) == "A0 B0 C0 C1 B1 A1 B2 C2 A2 A0 C0 B0"
    assert timed.samples == {"A": (1,) * 4, "B": (2,) * 4, "C": (4,) * 4}
    assert set(timed.outputs["A"]) == {0, 1, 2}
    assert timed.rounds == 4
    assert timed.started == {"A": 4, "B": 4, "C": 4}


def interval_width(timed):
    low, high = ratio_interval(timed.samples["B"], timed.samples["A"])
    return 2 * (high - low) / (high + low)


def two(a, b, order=None):
    order = [] if order is None else order
    return {"A": [[side(order, "A", a)]], "B": [[side(order, "B", b)]]}


def test_stops_when_the_interval_is_narrow():
    timed = time_all(two([1.0], [2.0]), [("B", "A")], clock=Stopwatch(), iters=10, warmup=2)
    assert (timed.rounds, timed.settled) == (10, "yes")


def test_goes_on_while_the_interval_is_wide_and_says_so():
    noisy = [1.0, 3.0, 1.1, 2.9, 5.0, 0.3, 1.7]
    timed = time_all(two(noisy, [2.0]), [("B", "A")], clock=Stopwatch(), iters=10, warmup=0)
    assert timed.rounds == 30
    assert "after 30 iterations the widest interval is still" in timed.settled


def test_goes_on_to_an_interval_of_one_percent_and_is_content_with_two():
    either = [0.993, 1.007]
    timed = time_all(two(either, [2.0]), [("B", "A")], clock=Stopwatch(), iters=10, warmup=2)
    assert (timed.rounds, timed.settled) == (30, "yes")
    assert ENOUGH < interval_width(timed) <= NARROW


def test_warms_up_until_stable():
    order = []
    cooling = [9.0, 8.0, 5.0, 4.0, *[1.0] * 100]
    timed = time_all(
        two(cooling, [2.0], order), [("B", "A")], clock=Stopwatch(), iters=10, warmup=2
    )
    assert timed.samples["A"] == (1.0,) * 10
    assert timed.settled == "yes"
    assert timed.started["A"] == 2 * 4 + 10  # 9 8 | 5 4 | 1 1 | 1 1


def test_a_warm_up_that_never_settles_is_said():
    growing = [1.5**i for i in range(200)]
    timed = time_all(two(growing, [2.0]), [("B", "A")], clock=Stopwatch(), iters=10, warmup=2)
    assert timed.settled.startswith(f"still warming up after {2 * MAX_WARMUPS} iterations")


def test_what_can_be_captured_is_timed_in_graphs():
    clock = GraphStopwatch()
    timed = time_all(two([0.0625], [4.0]), [("B", "A")], clock=clock, iters=10, warmup=2)
    assert (timed.timer, timed.settled) == ("graph", "yes")
    assert timed.samples == {"A": (0.03125,) * 10, "B": (2.0,) * 10}
    assert clock.passes == [3, 3]  # short ones several times in a graph, and long ones as often
    assert timed.started == {"A": 2 + 3, "B": 2 + 3}  # twice to see how long, and captured
    assert [len(timed.outputs[name][0]) for name in "AB"] == [3, 3]


def test_what_cannot_be_captured_is_timed_as_it_is_and_said():
    class NoGraphs(GraphStopwatch):
        def capture(self, calls, passes):
            raise RuntimeError("operation not permitted when stream is capturing")

    timed = time_all(two([1.0], [2.0]), [("B", "A")], clock=NoGraphs(), iters=10, warmup=2)
    assert (timed.timer, timed.samples["A"]) == ("wall", (1.0,) * 10)
    assert timed.settled == (
        "timed without graphs, because A cannot be captured: "
        "operation not permitted when stream is capturing"
    )


def test_a_device_that_waited_for_python_is_said():
    class Late(Stopwatch):
        late = 2

    clock = Late()
    few = time_all(two([1.0], [2.0]), [("B", "A")], clock=clock, iters=20, warmup=0)
    assert "waited" not in few.settled
    clock.late = 3
    many = time_all(two([1.0], [2.0]), [("B", "A")], clock=clock, iters=20, warmup=2)
    assert many.settled == "the device waited for Python in 8% of the iterations"


def test_sides_must_have_equal_streams():
    one, other = two([1], [1]).values()
    with pytest.raises(ValueError, match="streams of each copy differ"):
        time_all({"A": [one[0] * 2], "B": other}, [], clock=Stopwatch(), iters=1, warmup=0)


class TestWallClock:
    def test_outputs_are_taken_at_once_and_then_spoiled(self):
        kept = torch.ones(3)
        clock = clock_for(torch.device("cpu"), 2)
        ((first, second),) = clock.run([lambda: kept, lambda: torch.zeros(2)])
        assert first.tolist() == [1, 1, 1]
        assert second.tolist() == [0, 0]
        assert all(math.isnan(value) for value in kept)
        assert clock.milliseconds()[0] > 0
        clock.clear()
        assert clock.milliseconds() == []

    def test_longer_work_takes_longer(self):
        calls = {
            name: [[lambda n=n: torch.tensor(sum(range(n)))]]
            for name, n in (("A", 200_000), ("B", 1))
        }
        clock = clock_for(torch.device("cpu"), 1)
        for copies in calls.values():
            copies[0][0] = lambda work=copies[0][0]: work().float()
        timed = time_all(calls, [("A", "B")], clock=clock, iters=5, warmup=1)
        assert median(timed.samples["A"]) > median(timed.samples["B"])
        assert timed.timer == "wall"


class TestIntervals:
    def test_of_paired_ratios(self):
        torch.manual_seed(1)
        drift = torch.linspace(1, 3, 50)  # both sides slow down together
        below = (drift * (1 + 0.02 * torch.randn(50))).tolist()
        above = (2 * drift * (1 + 0.02 * torch.randn(50))).tolist()
        low, high = ratio_interval(above, below)
        assert low < median(above) / median(below) < high
        assert 1.8 < low < 2 < high < 2.2
        assert ratio_interval(above, below) == (low, high)
        # unpaired, the drift would be taken for noise
        apart = ratio_interval(above, sorted(below, reverse=True))
        assert apart[1] - apart[0] > 2 * (high - low)

    def test_too_few_pairs_give_the_point(self):
        assert ratio_interval([3.0] * 9, [2.0] * 9) == (1.5, 1.5)

    def test_by_hand(self):
        assert median([4, 1, 2, 3]) == 2.5
        assert quantile([0, 10], 0.1) == 1
        assert variation([5.0]) == 0
        assert variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)


class TestClocks:
    def test_parse(self):
        assert clocks.parse("1980, 1980, 2619, 45\n") == {
            "sm_mhz": 1980,
            "sm_max_mhz": 1980,
            "mem_mhz": 2619,
            "temperature_c": 45,
        }
        assert clocks.parse("1980, [N/A], 2619, [Unknown Error]") == {
            "sm_mhz": 1980,
            "mem_mhz": 2619,
        }

    @pytest.mark.parametrize("text", ["", "No devices were found\n", "1, 2\n", "1,2,3,4\n" * 2])
    def test_anything_else_is_no_reading(self, text):
        assert clocks.parse(text) == {}

    def test_lowest_clock_and_highest_temperature_of_the_readings(self, tmp_path, monkeypatch):
        script = tmp_path / "nvidia-smi"
        script.write_text(
            "#!/bin/sh\n"
            'test "$1" = --id=GPU-1 || exit 1\n'
            'mkdir "$0.seen" 2>/dev/null && echo "1980, 1980, 2619, 45" && exit\n'
            'echo "1200, 1980, 2619, 61"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        sampler = clocks.Sampler("GPU-1")
        sampler.start()
        sampler.start()
        found = sampler.result()
        assert (found["sm_mhz"], found["temperature_c"]) == (1200, 61)
        assert set(sampler.result().values()) == {""}

    def test_nothing_to_ask(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        for device in (None, "GPU-1"):
            sampler = clocks.Sampler(device)
            sampler.start()
            assert set(sampler.result().values()) == {""}

"""Cells that the benchmark refuses: a side that is wrong, or not what was timed."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cell_cases import cell, inputs

from kernels.bench import cells, references, trial
from kernels.bench.references import Reference
from kernels.selection.flags import Flags

pytestmark = pytest.mark.usefixtures("no_flags")
CHECKS = 16
"""Calls of the Triton side before it is timed: one pass and seven of the probe at both levels."""


def first_key(Q, K, V, lengths=None):
    """SDPA with `is_causal` and one query: attends the first key only."""
    heads = [
        F.scaled_dot_product_attention(Q[:, h, None], K, V, is_causal=True)
        for h in range(Q.shape[1])
    ]
    return torch.cat(heads, dim=1)


def first_64_keys(Q, K, V, lengths=None):
    return F.scaled_dot_product_attention(Q, K[:, :64], V[:, :64])


def shipped_as(monkeypatch, level, run):
    """Put `run` in the place of the shipped reference of a level."""
    real = references.shipped
    fake = Reference("tampered", run)
    monkeypatch.setattr(
        references, "shipped", lambda name, *rest: fake if name == level else real(name, *rest)
    )


class TestReferenceIsRefused:
    @pytest.mark.parametrize(
        ("wrong", "length", "ignored"),
        [(first_key, 40, "middle key"), (first_64_keys, 65, "last key")],
    )
    @pytest.mark.parametrize("dist", ["few", "many"])
    def test_that_skips_keys(self, wrong, length, ignored, dist, monkeypatch):
        monkeypatch.setattr(references, "dense_attention_packed", wrong)
        row = cell("--dist", dist, length=length)
        assert row["ref_probe"].startswith("ignored: ")
        assert ignored in row["ref_probe"]
        assert row["status"].startswith(
            "error: at kernel level the reference packed_sdpa does not attend to: "
        )
        assert "speedup" not in row
        assert row["ref_mae"] > (0.05 if wrong is first_key else 1e-3)
        assert row["mae"] <= 1e-3

    def test_that_scales_wrongly(self, monkeypatch):
        def unscaled(Q, K, V, lengths=None):
            return F.scaled_dot_product_attention(Q, K, V, scale=1.0)

        monkeypatch.setattr(references, "dense_attention_packed", unscaled)
        row = cell()
        assert "the reference packed_sdpa has a mean error of" in row["status"]
        assert row["ref_probe"] == "ok"

    def test_that_was_given_its_rows_packed_at_operator_level(self, monkeypatch):
        packed = {}

        def prepacked(selection):
            # packed once, outside the timed region; the caches that come later are not read
            key = tuple(selection.Q.shape)
            if key not in packed:
                keys = selection.selected.view(-1, selection.L)
                packed[key] = [X.flatten(0, 1)[keys] for X in (selection.K, selection.V)]
            K, V = packed[key]
            return references.dense_attention_packed(selection.Q, K[: len(selection.Q)], V)

        shipped_as(monkeypatch, "operator", prepacked)
        row = cell()
        assert row["ref_probe"].startswith("ignored: first key")
        assert "at operator level the reference tampered does not attend to" in row["status"]

    def test_that_is_faster_because_it_is_wrong(self, monkeypatch):
        said = []
        wrong = Reference("first key", lambda rows: rows.V[:, :1].expand(-1, 2, -1).clone())
        monkeypatch.setattr(references, "candidates", lambda level, device: [wrong])
        row = cell("--level", "kernel", said=said)
        assert row["status"] == "ok"
        assert row["kernel_strongest"] == row["reference"] == "packed_sdpa"
        assert any("left out at kernel level: first key (has a mean error of" in s for s in said)

    def test_that_a_trial_alone_would_have_passed(self, monkeypatch):
        """Right on these inputs, but from the values that it saw first: only the probe tells."""
        said, seen = [], {}

        def cached(rows):
            key = tuple(rows.Q.shape)
            seen.setdefault(key, references.shipped("kernel", rows).run(rows))
            return seen[key].clone()

        monkeypatch.setattr(
            references, "candidates", lambda level, device: [Reference("cached", cached)]
        )
        row = cell(said=said)
        assert row["status"] == "ok"
        assert "cached" not in (row["kernel_strongest"], row["operator_strongest"])
        assert any("cached (does not attend to: " in line for line in said)


def kernel_as(monkeypatch, wrap):
    """Wrap the Triton side of both levels: `wrap(real)` gives what runs in its place."""
    real = cells.triton_side
    monkeypatch.setattr(cells, "triton_side", lambda level, flags: wrap(real(level, flags)))


class TestKernelIsRefused:
    def test_that_skips_the_last_key(self, monkeypatch):
        launch = cells.op.sel_attn_fwd_dense_group
        monkeypatch.setattr(
            cells.op,
            "sel_attn_fwd_dense_group",
            lambda Q, K, V, flags: launch(Q, K[:, :-1], V[:, :-1], flags=flags),
        )
        row = cell(length=40)
        assert row["tri_probe"] == "ignored: last key; last value"
        assert row["status"] == (
            "error: at kernel level the kernel does not attend to: last key; last value"
        )
        assert "speedup" not in row
        assert (row["ref_probe"], row["kernel"]) == ("ok", "triton.dense_rows_fwd.group")

    def test_that_is_a_fallback(self, monkeypatch):
        monkeypatch.setattr(
            cells.op,
            "sel_attn_fwd_dense_group",
            lambda Q, K, V, flags: references.dense_attention_packed(Q, K, V),
        )
        row = cell()
        assert row["status"] == "error: at kernel level no Triton kernel was launched"
        assert row["kernel"] == ""

    @pytest.mark.parametrize("level", ["kernel", "operator"])
    @pytest.mark.parametrize("dist", ["few", "many"])
    def test_that_leaves_its_last_row_unwritten(self, dist, level, monkeypatch):
        """The programs of that row are not started: what was in memory before would be its answer,
        and that may well be the reference's."""
        launch = cells.op.launch_rows

        def short(name, plan, *args, **kwargs):
            launch(name, replace(plan, rows=plan.rows - 1), *args, **kwargs)

        monkeypatch.setattr(cells.op, "launch_rows", short)
        made = inputs("--dist", dist)
        workload = made.at(level)
        shipped = references.shipped(level, workload)
        right = trial.check(shipped.run, workload, made.oracle(), 1)
        run = cells.triton_side(level, Flags.from_env())
        found = trial.check(run, made.at(level), made.oracle(), 1, reference=right)
        assert math.isnan(found.mae)
        assert found.wrong
        assert found.launched

    def test_that_does_not_write_its_output(self, monkeypatch):
        kernel_as(monkeypatch, lambda real: lambda part: torch.empty_like(real(part)))
        row = cell()
        assert "the kernel" in row["status"]
        assert math.isnan(row["mae"])

    def test_that_stops_working_once_it_was_checked(self, monkeypatch):
        """Launches as before, but returns memory in which it has written nothing."""
        calls = []

        def wrap(real):
            def run(part):
                out = real(part)
                calls.append(1)
                return out if len(calls) <= CHECKS else torch.full_like(out, torch.nan)

            return run

        kernel_as(monkeypatch, wrap)
        row = cell()
        assert row["status"].startswith("error: in its last timed iteration on inputs")
        assert "has a mean error of nan" in row["status"]

    def test_that_returns_what_it_returned_before(self, monkeypatch):
        """Honest while it is checked, then its answer is looked up by the shape."""
        calls, kept = [], {}

        def wrap(real):
            def run(part):
                out = real(part)
                calls.append(1)
                if len(calls) <= CHECKS:
                    return out
                return kept.setdefault(tuple(part.K.shape), out)

            return run

        kernel_as(monkeypatch, wrap)
        row = cell()
        assert row["status"].startswith("error: in its last timed iteration on inputs")

    def test_that_copies_an_answer_of_other_inputs(self, monkeypatch):
        """As before, but a copy each time, which is not NaN: the rotated inputs tell."""
        calls, kept = [], {}

        def wrap(real):
            def run(part):
                out = real(part)
                calls.append(1)
                if len(calls) <= CHECKS:
                    return out
                return kept.setdefault(tuple(part.K.shape), out.clone()).clone()

            return run

        kernel_as(monkeypatch, wrap)
        row = cell()
        assert row["status"].startswith("error: in its last timed iteration on inputs")
        assert "has a mean error of" in row["status"]
        assert "nan" not in row["status"]

    def test_that_remembers_its_answers_by_where_the_inputs_lie(self, monkeypatch):
        """Each copy of the inputs gets its own right answer: in place they change only at last."""
        kept = {}

        def wrap(real):
            def run(part):
                place = (part.K.data_ptr(), part.V.data_ptr(), part.Q.shape)
                if place not in kept:  # the part too, so that nothing else comes to lie there
                    kept[place] = part, real(part)
                else:  # the launch is there; it serves one row
                    cells.op.sel_attn_fwd_dense_group(part.Q[:1], part.K[:1], part.V[:1])
                return kept[place][1].clone()

            return run

        real = cells.triton_side
        monkeypatch.setattr(
            cells,
            "triton_side",
            lambda level, flags: (
                wrap(real(level, flags)) if level == "kernel" else real(level, flags)
            ),
        )
        status = cell("--level", "kernel")["status"]
        assert status.startswith("error: run once more on inputs that changed in place, kernel")

    def test_that_is_not_done_when_it_returns(self, monkeypatch):
        """Its work goes on beside the timed region, as on a stream of its own."""
        calls, late = [], []

        def wrap(real):
            def run(part):
                out = real(part)
                calls.append(1)
                if len(calls) <= CHECKS:
                    return out
                later = torch.full_like(out, torch.nan)

                def finish():
                    time.sleep(0.05)
                    later.copy_(out)

                late.append(threading.Thread(target=finish))
                late[-1].start()
                return later

            return run

        kernel_as(monkeypatch, wrap)
        row = cell()
        for thread in late:
            thread.join()
        assert late
        assert row["status"].startswith("error: in its last timed iteration on inputs")

    def test_that_launches_nothing_when_it_is_timed(self, monkeypatch):
        calls = []

        def wrap(real):
            def run(part):
                calls.append(1)
                if len(calls) <= CHECKS:
                    return real(part)
                level = "kernel" if hasattr(part, "K_all") else "operator"
                return references.shipped(level, part).run(part)

            return run

        kernel_as(monkeypatch, wrap)
        row = cell()
        assert row["status"].startswith("error: the timed calls of kernel level: triton launched")


def test_swapped_sides(monkeypatch):
    """Triton timed as the reference, and the reference as Triton: the launches tell."""
    real = cells._time

    def swapped(family, machine, copies, levels, row):
        for level in levels.values():
            level.triton.run, level.shipped.run = level.shipped.run, level.triton.run
        return real(family, machine, copies, levels, row)

    monkeypatch.setattr(cells, "_time", swapped)
    row = cell()
    assert re.fullmatch(
        "error: the timed calls of kernel level: packed_sdpa launched "
        r"\{'dense_rows_fwd\.group': \d+\}, not \{\}",
        row["status"],
    )
    assert "speedup" not in row


def test_streams_on_one_side(monkeypatch):
    calls = cells.Contender.calls

    def one_sided(self, copies, level, streams):
        return calls(self, copies, level, streams if self.name == "triton" else 1)

    monkeypatch.setattr(cells.Contender, "calls", one_sided)
    row = cell("--streams", "3")
    assert row["status"].startswith("error: ValueError: streams of each copy differ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second stream: no CUDA device")
def test_work_on_a_side_stream(monkeypatch):
    """What the CPU shows with a thread, on the device itself."""
    calls, aside = [], torch.cuda.Stream()

    def wrap(real):
        def run(part):
            calls.append(1)
            if len(calls) <= CHECKS:
                return real(part)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                torch.cuda._sleep(10**8)
                return real(part)

        return run

    kernel_as(monkeypatch, wrap)
    assert cell()["status"].startswith("error: in its last timed iteration")

"""`orchestrate compare`: times on equal machines only, speedups with their intervals otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_runs import compare, compared, measured, run
from evidence_samples import RTX_4090, interpreted, row
from judging import documented
from report_runs import complete

from orchestrator.engine.judge import judge
from orchestrator.errors import StoreError, UsageError
from orchestrator.evidence.facts import Facts
from orchestrator.gates.compare import differences
from orchestrator.models.run import Inheritance
from orchestrator.store import runs
from orchestrator.store.paths import RunPaths

H200 = "NVIDIA H200"


def pooled(found: dict, what: str) -> dict:
    (one,) = (one for one in found["pooled"] if one["what"] == what)
    return one


def test_before_and_after_on_one_machine(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a"), run(tmp_path / "b", 1.8))
    assert set(found) == documented("compare.md")
    assert (found["schema"], found["exit_code"], found["same"]) == (1, 0, False)
    assert found["absolute"] is True
    assert found["differences"] == {}
    assert found["counts"]["better"] == 6
    of_kernel = [cell for cell in found["cells"] if cell["what"] == "tri_ms"]
    assert {cell["change"] for cell in of_kernel} == {"better"}
    assert of_kernel[0]["ratio"] == pytest.approx(1.5 / 1.8, rel=1e-4)
    of_reference = [cell for cell in found["cells"] if cell["what"] == "ref_ms"]
    assert {cell["change"] for cell in of_reference} == {"within noise"}


def test_the_other_way_round_it_is_worse(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a", 1.8), run(tmp_path / "b"))
    assert found["counts"]["worse"] == 6


def test_overlapping_intervals_are_noise(tmp_path: Path) -> None:
    found = compared(run(tmp_path / "a", 1.5), run(tmp_path / "b", 1.55))
    assert found["counts"]["within noise"] == 6


def test_what_is_noise_in_every_cell_shows_over_all(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 1.46)
    found = compared(a, b)
    assert found["counts"]["within noise"] == 6
    speedup, kernel, reference = (pooled(found, what) for what in ("speedup", "tri_ms", "ref_ms"))
    assert (speedup["cells"], speedup["better"], speedup["worse"]) == (6, 0, 6)
    assert speedup["ratio"]["value"] == pytest.approx(1.46 / 1.5, rel=1e-4)
    assert speedup["p"] == pytest.approx(2 / 2**6)
    assert (speedup["change"], kernel["change"]) == ("worse", "worse")
    assert kernel["ratio"]["value"] == pytest.approx(1.5 / 1.46, rel=1e-4)
    assert (reference["change"], reference["p"]) == ("within noise", 1)
    text = compare(a, b).output
    assert (
        "speedup  0.9733 [0.9733, 0.9733], worse in 6 of 6 cells, sign test p=0.031: worse\n"
        in (text)
    )


def test_a_change_as_small_as_that_of_the_same_work_is_said_to_be(tmp_path: Path) -> None:
    text = compare(run(tmp_path / "a"), run(tmp_path / "b", 1.49)).output
    assert "p=0.031: worse, by less than the 2% that medians of the same work may differ by" in text


def test_card_against_card_compares_no_times(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 1.8, H200)
    found = compared(a, b)
    assert found["absolute"] is False
    assert found["differences"] == {"device": [RTX_4090, H200]}
    assert {cell["what"] for cell in found["cells"]} == {"speedup"}
    assert [one["what"] for one in found["pooled"]] == ["speedup"]
    text = compare(a, b).output
    assert "only speedups are compared, not times; these differ, or are not known:" in text
    assert f"   device            {RTX_4090} / {H200}\n" in text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"timer": "graph"}, "timer"),
        ({"flush_mib": 128}, "flush_mib"),
        ({"sm_max_mhz": 3105}, "sm_max_mhz"),
        ({"mem_mhz": 10251}, "mem_max_mhz"),
        ({"sm_max_mhz": ""}, "sm_max_mhz"),
        ({"torch": "2.11.0"}, "torch"),
    ],
)
def test_times_taken_otherwise_are_not_compared(tmp_path: Path, changes, name: str) -> None:
    found = compared(run(tmp_path / "a"), run(tmp_path / "b", **changes))
    assert list(found["differences"]) == [name]
    known = str(changes.get(name, 10251)) or None
    assert (found["b"]["fingerprint"][name], found["absolute"]) == (known, False)


def test_another_card_of_the_same_model_is_another_machine(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    facts = runs.read(RunPaths(b).facts, Facts)
    (gpu,) = facts.system.gpus
    for uuid, seen in (("GPU-2", "GPU-2"), ("[N/A]", None)):
        other = facts.system.model_copy(update={"gpus": (gpu.model_copy(update={"uuid": uuid}),)})
        runs.write(RunPaths(b).facts, facts.model_copy(update={"system": other}))
        assert compared(a, b)["differences"] == {"gpus": ["GPU-1", seen]}


def test_a_canary_beyond_its_gates_limit_makes_times_incomparable(tmp_path: Path) -> None:
    a = measured(tmp_path / "a")
    within = measured(tmp_path / "within", canary=("copy,920,", "copy,880,"))
    assert compared(a, within)["absolute"] is True
    capped = measured(tmp_path / "capped", canary=("gemm,1", "gemm,"))
    text = compare(a, capped).output
    assert "   gemm_tflop_per_s  149.2 / 49.25 (-67.0%)\n" in text
    assert compared(a, capped)["differences"] == {"gemm_tflop_per_s": [149.25, 49.25]}
    assert compared(capped, a)["absolute"] is False


def test_without_a_canary_it_is_unknown_whether_the_card_was_the_same(tmp_path: Path) -> None:
    a, b = measured(tmp_path / "a"), complete(tmp_path / "b", row, RTX_4090).paths.root
    found = compared(a, b)["differences"]
    assert list(found) == ["copy_gb_per_s", "gemm_tflop_per_s"]
    assert found["copy_gb_per_s"] == [pytest.approx(915.4), None]
    assert "copy_gb_per_s     915.4 / unknown\n" in compare(a, b).output
    edited = next(a.rglob("sel_dense.canary.csv"))
    edited.write_text(edited.read_text().replace("920", "930"))
    found = compared(a, b, 5)
    assert found["a"]["fingerprint"]["copy_gb_per_s"] is None
    assert "sel_dense.canary.csv: it was changed after it was pulled" in found["a"]["problems"][0]


def test_a_cell_that_died_hides_no_machine(tmp_path: Path) -> None:
    def one_died(mode: str, length: int) -> dict[str, object]:
        good = row(mode, length)
        if length != 128:
            return good
        kept = ("mode", "N", "H", "D", "Dv", "L", "nspans", "streams", "dist", "dtype", "level")
        return {**{n: v if n in kept else "" for n, v in good.items()}, "status": "error: died"}

    found = compared(measured(tmp_path / "a"), measured(tmp_path / "b", one_died))
    assert found["absolute"] is True
    assert found["counts"]["not measured"] == 2


def test_what_is_inherited_was_measured_where_it_says(tmp_path: Path) -> None:
    """By the run that measured, on its card; not by the one that takes it over."""
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    plan = runs.read_plan(RunPaths(b))
    taken = [phase.id for phase in plan.playbook.phases]
    heir = runs.create(
        tmp_path / "b",
        plan.model_copy(
            update={
                "run_id": "20250103-030405-9f3a",
                "phases": [],
                "inherits": Inheritance(run_id=plan.run_id, path=str(b), phases=taken),
            }
        ),
        b"",
        {},
    )
    assert judge(heir).phases[2].inherited == plan.run_id
    assert compared(b, heir.root)["same"] is True
    assert "A and B have the very same rows: one takes them from" in compare(b, heir.root).output
    found = compared(a, heir.root)
    assert found["absolute"] is True
    assert found["b"]["fingerprint"]["gpus"] == "GPU-1"


def test_the_interpreters_times_are_not_compared(tmp_path: Path) -> None:
    a = complete(tmp_path / "a", interpreted).paths.root
    b = complete(tmp_path / "b", interpreted).paths.root
    result = compare(a, b)
    assert result.return_value == 4
    assert "No cell was timed on a card in both runs" in result.output


def test_a_run_whose_evidence_is_invalid_proves_nothing(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 1.8)
    file = next(b.rglob("artifacts/sel_dense.csv"))
    file.write_bytes(file.read_bytes().replace(b"2.", b"3.", 1))
    for pair in ((a, b), (b, a)):
        result = compare(*pair)
        assert result.return_value == 5
        assert "is INVALID: these numbers prove nothing" in result.output
        assert compare(*pair, "--json").return_value == 5


def test_it_is_said_which_run_is_invalid(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 1.8)
    file = next(b.rglob("artifacts/sel_dense.csv"))
    file.write_bytes(file.read_bytes().replace(b"2.", b"3.", 1))
    found = compared(a, b, 5)
    assert (found["a"]["invalid"], found["b"]["invalid"]) == (False, True)
    text = compare(a, b).output
    assert f"B  run {b}, {RTX_4090}: INFRA, with INVALID evidence" in text
    assert "Evidence of B is INVALID" in text
    assert "Evidence of A is INVALID" in compare(b, a).output


def test_a_run_with_itself_is_a_usage_error(tmp_path: Path) -> None:
    a = run(tmp_path / "runs")
    (tmp_path / "link").symlink_to(a)
    for other in (a, tmp_path / "link"):
        with pytest.raises(UsageError, match="are one run, 20250102-030405-9f3a"):
            compare(a, other)


def test_two_runs_of_one_id_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    text = compare(a, b).output
    assert f"A  run {a}, " in text
    assert f"B  run {b}, " in text
    found = compared(a, b)
    assert (found["a"]["path"], found["b"]["path"]) == (str(a), str(b))
    other = b.rename(b.with_name("20250102-030405-aaaa"))
    assert "B  run 20250102-030405-aaaa, " in compare(a, other).output


def test_columns_are_as_wide_as_what_is_in_them(tmp_path: Path) -> None:
    result = compare(run(tmp_path / "a", 1.23456), run(tmp_path / "b", 1.8, tri_cv=3))
    lines = result.output.splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:1] == ["L"])
    assert lines[head].split() == ["L", "A", "B", "B/A"]
    table = lines[head + 1 : head + 10]
    assert "0.1215 [0.1207, 0.1223]  0.08333 [0, 0.1702]   0.6859  within noise" in table[1]
    second = lines[head].index(" B ")
    assert {line[second : second + 2].strip() for line in table} == {"1", "0"}


@pytest.mark.parametrize("name", ["nope.csv", "some/nope.csv", "made.txt", "some/folder"])
def test_what_is_no_run_is_said_to_be_none(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.txt").touch()
    for pair in ((name, "latest"), (str(run(tmp_path / "a")), name)):
        with pytest.raises(UsageError) as refused:
            compare(*map(Path, pair))
        assert name in refused.value.message
        assert "CSVs are judged by: orchestrate judge" in str(refused.value.remedy)
        assert "start one" not in str(refused.value)


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    most = 1.79e308

    def wild(mode: str, length: int) -> dict[str, object]:
        bounds = {"speedup_lo": most, "speedup_hi": most, "settled": "still warming up"}
        return row(mode, length, speedup=5e-324, **bounds)

    found = compared(measured(tmp_path / "a", wild), measured(tmp_path / "b"), 5)
    assert found["cells"][0]["a"] == {"value": 5e-324, "low": most, "high": None}
    assert {cell["ratio"] for cell in found["cells"] if cell["what"] == "speedup"} == {None}
    assert [one["what"] for one in found["pooled"]] == ["tri_ms", "ref_ms"]


def test_runs_that_report_different_references_are_compared_over_one(tmp_path: Path) -> None:
    def over_shipped(mode: str, length: int) -> dict[str, object]:
        # the same measurements; its own columns are those of the shipped reference
        own = row(mode, length)
        return {
            **own, "basis": "shipped", "ref_ms": own["operator_shipped_ms"],
            "speedup": 1.55, "speedup_lo": 1.5, "speedup_hi": 1.6,
        }  # fmt: skip

    found = compared(measured(tmp_path / "a"), measured(tmp_path / "b", over_shipped))
    assert (found["level"], found["reference"]) == ("operator", "strongest")
    speedups = [cell for cell in found["cells"] if cell["what"] == "speedup"]
    assert [cell["ratio"] for cell in speedups] == pytest.approx([1] * 6)
    assert {cell["change"] for cell in speedups} == {"within noise"}
    assert pooled(found, "speedup")["p"] == 1
    (reference, *_) = (cell for cell in found["cells"] if cell["what"] == "ref_ms")
    assert (reference["ratio"], reference["change"]) == (pytest.approx(1), "no interval")


def test_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        compare(run(tmp_path / "a"), tmp_path / "none")


@pytest.mark.parametrize("name", ["device", "gpus", "driver", "torch", "triton", "contract"])
def test_every_difference_and_every_gap_counts(name: str) -> None:
    equal = dict.fromkeys(("device", "gpus", "driver", "torch", "triton", "contract"), "x")
    assert differences(equal, equal) == {}
    assert differences(equal, {**equal, name: "y"}) == {name: ("x", "y")}
    assert list(differences({**equal, name: None}, {**equal, name: None})) == [name]

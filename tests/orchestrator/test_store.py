from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.models.run import StepResult
from orchestrator.store import runs
from orchestrator.store.events import EventLog, read_events
from orchestrator.store.files import atomic_write
from orchestrator.store.paths import RunPaths


def test_atomic_write_leaves_the_old_content_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    atomic_write(file, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_write_sets_the_mode(tmp_path: Path) -> None:
    atomic_write(tmp_path / "diff", b"secret", mode=0o600)
    assert (tmp_path / "diff").stat().st_mode & 0o777 == 0o600


def test_a_torn_event_never_happened_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    EventLog(file).append("first", number=1)
    with file.open("a") as log:
        log.write('{"at": "2025-01-02", "event": "to')
    EventLog(file).append("second", number=2)
    assert [event.name for event in read_events(file)] == ["first", "second"]


def test_an_event_is_on_the_disk_before_a_listener_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    seen: list[list[str]] = []
    log = EventLog(file, (lambda _event: seen.append([e.name for e in read_events(file)]),))
    log.append("a")
    log.append("b")
    assert seen == [["a"], ["a", "b"]]


def _append(path: Path, name: str) -> None:
    log = EventLog(path)
    for number in range(50):
        log.append(name, number=number, filler="x" * 500)


def test_writers_side_by_side_do_not_tear_each_other(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(file, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(list(read_events(file))) == 150


def test_a_run_directory_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert runs.find(Path("runs"), "before").root == (tmp_path / "before").resolve()


def test_find_names_what_it_could_mean(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no runs in"):
        runs.find(tmp_path)
    for name in ("20250101-000000-aaaa", "20250101-000000-aabb", "20250102-000000-cccc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    assert runs.find(tmp_path).run_id == "20250102-000000-cccc"
    assert runs.find(tmp_path, "20250102").run_id == "20250102-000000-cccc"
    assert runs.find(tmp_path, "20250101-000000-aaaa").run_id == "20250101-000000-aaaa"
    with pytest.raises(StoreError, match=r"fits several runs: .*aaaa, .*aabb"):
        runs.find(tmp_path, "20250101")
    with pytest.raises(StoreError, match="no run 'zzz'"):
        runs.find(tmp_path, "zzz")
    with pytest.raises(StoreError, match=r"holds no run\.json"):
        runs.find(tmp_path, str(tmp_path))


def test_a_new_run_is_the_latest_whatever_the_clock_says(tmp_path: Path) -> None:
    for _ in range(3):  # within a second, and after one that was begun by a clock that ran ahead
        name = runs.new_run_id(tmp_path)
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        assert runs.find(tmp_path).run_id == name
        (tmp_path / "20991231-235959-ffff").mkdir(exist_ok=True)
        (tmp_path / "20991231-235959-ffff" / "run.json").write_text("{}")
    assert name.startswith("21000101-00000")
    (tmp_path / "my-folder").mkdir()
    (tmp_path / "my-folder" / "run.json").write_text("{}")
    assert runs.new_run_id(tmp_path) > name


def test_a_damaged_record_is_named_with_its_field(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    result = paths.attempt(1, "parity", 1).result
    result.parent.mkdir(parents=True)
    result.write_text('{"phase": 1}')
    with pytest.raises(StoreError, match=r"result\.json is damaged or from another version: step"):
        runs.read(result, StepResult)


def test_attempts_are_counted_by_number(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for number in (1, 2, 10):
        paths.attempt(2, "bench", number).root.mkdir(parents=True)
    (tmp_path / "phase-2" / "bench" / "notes").mkdir()
    assert paths.attempts(2, "bench") == [1, 2, 10]


def test_a_run_directory_is_never_used_twice(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    plan = type("Plan", (), {"run_id": "taken"})()
    with pytest.raises(StoreError, match="cannot create the run directory"):
        runs.create(tmp_path, plan, b"", {})

"""Bytes of an untrusted pod end in records or in typed errors, never in anything else."""

from __future__ import annotations

import math
from pathlib import Path

from click.testing import CliRunner
from evidence_samples import case as junit_case
from evidence_samples import csv_of, junit, row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cli.app import cli
from orchestrator.engine.judge_files import judge_files
from orchestrator.errors import UsageError
from orchestrator.evidence import EvidenceError
from orchestrator.evidence.bench import parse_bench
from orchestrator.evidence.canary import parse_canary
from orchestrator.evidence.foreign import parse_foreign
from orchestrator.evidence.junit import parse_junit
from orchestrator.evidence.telemetry import is_telemetry, parse_telemetry
from orchestrator.gates.machine import machine_gate
from orchestrator.models.verdict import Outcome, Verdict

MACHINE = Path(__file__).parent / "fixtures" / "machine"
COLUMNS = [
    "mode", "N", "H", "D", "Dv", "L", "nspans", "streams", "tri_ms", "triton_us", "sdpa_ms",
    "ref_ms", "speedup", "mae", "status", "device", "dtype", "flush_mib", "launch_us", "ragged",
    "bytes", "flops", "form", "began_ms", "ended_ms", "sm_mhz", "sm_max_mhz", "kernel", "Comment",
    "iters", "temperature_c",
]  # fmt: skip
FIELDS = st.one_of(
    st.sampled_from(
        ["", "dense", "varlen", "ok", "ERROR", "nan", "inf", "-inf", "-1", "0", "1e308", "1e-308",
         "1e999", "9" * 40, "0.18 ms", "1_0", "٣", "RTX 4090", "NVIDIA B200", "fp16", "fp64",
         "decode", "1..L", "\x1b[31m", '"', "#end", "1024", "64", "0x10", "1,2"]
    ),
    st.floats(0.001, 5).map(repr),
    st.integers(0, 10**12).map(str),
    st.text(max_size=12),
)  # fmt: skip
MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Nearly a bench CSV."""
    header = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=14))
    width = len(header) if draw(st.booleans()) else draw(st.integers(1, 15))
    rows = draw(st.lists(st.lists(FIELDS, min_size=width, max_size=width), max_size=6))
    separator = draw(st.sampled_from([",", ";", "\t"]))
    lines = [separator.join(line) for line in (header, *rows)]
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file with some bytes changed, cut out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        end = min(len(data), at + draw(st.integers(0, 30)))
        data[at:end] = draw(st.binary(max_size=12))
    return bytes(data)


GOOD_CSV = csv_of("dense", *(row("dense", n) for n in (64, 128)))
GOOD_XML = junit(junit_case("a", {"mae": "1e-4"}), junit_case("b"))
GOOD_TELEMETRY = (MACHINE / "quiet.csv").read_bytes()
GOOD_CANARY = (MACHINE / "steady.canary.csv").read_bytes()
GOOD_ROWS = parse_bench(GOOD_CSV).rows


def tolerated(parse, data: bytes):
    try:
        return parse(data)
    except EvidenceError:
        return None


@MANY
@given(st.one_of(st.binary(max_size=200), damaged(GOOD_XML)))
def test_junit(data: bytes) -> None:
    tolerated(parse_junit, data)


@MANY
@given(st.one_of(st.binary(max_size=200), damaged(GOOD_TELEMETRY), tables()))
def test_telemetry(data: bytes) -> None:
    found = tolerated(parse_telemetry, data)
    for sample in found.samples if found else ():
        numbers = (sample.when_ms, sample.sm_mhz, sample.temperature_c, sample.foreign)
        assert all(math.isfinite(number) for number in numbers if number is not None)
    is_telemetry(data.decode("utf-8", "replace"))


@MANY
@given(st.one_of(st.binary(max_size=200), damaged(GOOD_CANARY)))
def test_canary(data: bytes) -> None:
    found = tolerated(parse_canary, data)
    assert found is None or all(0 < probe.value < math.inf for probe in found.probes)


@MANY
@given(damaged(GOOD_TELEMETRY), damaged(GOOD_CANARY), tables())
def test_the_machine_gate(samples: bytes, probes: bytes, table: bytes) -> None:
    """Whatever can be parsed can be judged."""
    foreign = tolerated(parse_foreign, table)
    for rows in (GOOD_ROWS, foreign.rows if foreign else ()):
        telemetry, canary = tolerated(parse_telemetry, samples), tolerated(parse_canary, probes)
        assert machine_gate("x.csv", rows, telemetry, canary).message


@MANY
@given(st.one_of(st.binary(max_size=300), tables(), damaged(GOOD_CSV)))
def test_bench_csvs(data: bytes) -> None:
    tolerated(parse_bench, data)
    tolerated(parse_foreign, data)


def judged_or_refused(files: list[Path]):
    try:
        return judge_files(files, device="RTX 4090")
    except UsageError as error:
        return error


@MANY
@given(st.one_of(tables(), damaged(GOOD_CSV), damaged(GOOD_CANARY), damaged(GOOD_XML)))
def test_the_judge(tmp_path: Path, data: bytes) -> None:
    """Whatever the bytes, a verdict or a refusal: never a PASS, and nothing raw on the terminal."""
    file = tmp_path / "x.csv"
    file.write_bytes(data)
    other = tmp_path / "y.csv"
    other.write_bytes(b"mode,L,tri_ms\ndense,64,0.1\n")
    found = judged_or_refused([file, other])
    if isinstance(found, UsageError):  # it holds no column of any evidence
        assert "x.csv is " in found.message
        assert found.message.isprintable()
        return
    assert {card.decision.outcome for card in found.cards} == {Outcome.UNDECIDED}
    assert found.verdict in (Verdict.FAIL, Verdict.INVALID, Verdict.NOT_VERIFIED)
    words = ["judge", str(file), str(other), "--device", "RTX 4090"]
    shown = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    assert shown.return_value in (1, 4, 5)
    assert not set(shown.output) & {chr(n) for n in (*range(9), 27, 127, 0x9B)}

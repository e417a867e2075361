from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import after, inspect
from orchestrator.cli.app import cli, main
from orchestrator.cli.console import Lines, plain
from orchestrator.cli.settings import parse_settings
from orchestrator.config.pods import parse_address
from orchestrator.errors import UsageError

CHECKOUT = Path(__file__).parents[2]


def orchestrate(*arguments: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from orchestrator.cli.app import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(cli, ['run', '--help']).exit_code == 0\n"
        "heavy = {'pydantic', 'paramiko', 'fabric', 'asyncssh', 'jinja2', 'ruamel', 'rich',\n"
        "         'torch', 'triton', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_no_command_of_the_controller_needs_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, orchestrator\n"
        "for module in pkgutil.walk_packages(orchestrator.__path__, 'orchestrator.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--phase", "7"), "there is no phase 7"),
        (("run", "--phase", "3-1"), "backwards"),
        (("run", "--pod", "-oProxyCommand=x"), "cannot name a host"),
        (("run", "--set", "N"), "has no value"),
        (("run", "--set", "n=4"), "did you mean 'N'?"),
        (("run", "--profile", "gpu"), "did you mean 'cpu'?"),
        (("run", "no-such"), "no playbook named 'no-such'"),
        (("run", "--repo", "/nowhere"), "is not a folder"),
        (("report", "--runs-dir", "/nowhere"), "no runs in"),
        (("status", "zzz", "--runs-dir", "/nowhere"), "no runs in"),
        (("frobnicate",), "No such command"),
        (("run", "--frobnicate"), "No such option"),
    ],
)
def test_bad_usage_is_exit_2_with_a_sentence(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(sys, "argv", ["orchestrate", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_bad_usage_of_the_program_is_exit_2() -> None:
    done = orchestrate("run", "--phase", "7")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --phase '7': there is no phase 7")


def test_dry_run_prints_the_documents_commands_and_makes_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = orchestrate(
        "run", "--dry-run", "--pod", "root@203.0.113.7:12181", "--runs-dir", str(runs)
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for piece in (
        "apt-get update",
        "python3-venv python3-pip",
        "ninja-build",
        "-m venv",
        "--upgrade pip wheel",
        "--index-url https://download.pytorch.org/whl/cu121 'torch==2.3.*' torchvision torchaudio",
        "'flash-attn==2.*'",
        "--no-build-isolation",
        "NSA_USE_TRITON_SEL=1 NSA_SEL_TRITON_GROUP=1 NSA_SEL_TRITON_MIN_L=64",
        "NSA_TEST_TRITON_SEL=1",
        "-m pytest -q tests/kernels -k triton_sel_parity ",
        "-m pytest -q tests/kernels -k triton_sel_parity_gpu ",
        "bench_sel_triton.py --N 1024 --H 8 --D 128 --Dv 128 --L_list 64,128,256,512,1024 "
        "--dist few --iters 50 --warmup 5 --streams 1 --csv ./sel_dense.csv",
        "--L_list 128,256,512,1024 --dist many --iters 50 --warmup 5 --streams 2 "
        "--csv ./sel_varlen.csv",
        "at margin 1.2",
    ):
        assert piece in text, piece
    assert "TRITON_INTERPRET" not in text
    assert not runs.exists()


def test_dry_run_as_json_names_profile_and_pod() -> None:
    done = orchestrate("run", "--dry-run", "--json", "--phase", "0,2", "--set", "N=8")
    plan = json.loads(done.stdout)
    assert plan["plan"]["profile"] == "cpu"
    assert plan["plan"]["pod"]["embedded"] is True
    assert plan["plan"]["playbook"]["variables"]["N"] == 8
    assert {step["phase"] for step in plan["steps"]} == {0, 2}


def test_validate_and_schema() -> None:
    done = orchestrate("validate", "--json")
    assert json.loads(done.stdout)["profiles"] == ["cuda", "cpu"]
    assert json.loads(orchestrate("schema").stdout)["title"]


def test_settings() -> None:
    assert parse_settings(("a=1", "b=x=y", "c=")) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root@203.0.113.7:12181", ("root", "203.0.113.7", 12181)),
        ("gpu-a", (None, "gpu-a", None)),
        ("me@[2001:db8::7]:22", ("me", "2001:db8::7", 22)),
        ("[2001:db8::7]", (None, "2001:db8::7", None)),
    ],
)
def test_addresses(text: str, expected: tuple[str | None, str, int | None]) -> None:
    pod = parse_address(text)
    assert (pod.user, pod.host, pod.port) == expected


@pytest.mark.parametrize("text", ["", "a b", "root@", "host:port", "host:99999", "a@b@c", "-x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://203.0.113.9\x1b\\link", "link"),
        ("a\x08b\x7fc\x9bd", "abcd"),
        ("evil\u202etxt", "eviltxt"),
        ("tab\tand \u2713", "tab\tand \u2713"),
    ],
)
def test_plain_text_steers_no_terminal(raw: str, clean: str) -> None:
    assert plain(raw) == clean


def test_lines_are_cut_anywhere_and_keep_the_last_progress() -> None:
    seen: list[str] = []
    lines = Lines(seen.append)
    for byte in "10%\r50%\r100%\nnäxt\r\n\nunfinished".encode():
        lines.feed(bytes([byte]))
    lines.flush()
    assert seen == ["100%", "näxt", "unfinished"]


def test_logs_are_read_in_pieces_whatever_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect, "_CHUNK", 1000)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"first\nhalf " + b"x" * 10_000)
    other.write_bytes(b"")
    logs = inspect._Logs(tmp_path)
    logs.show(one, whole=False)
    logs.show(other, whole=False)
    assert capsys.readouterr().out == "==> one <==\nfirst\n==> other <==\n"
    assert all(len(lines._rest) <= 2000 for lines in logs._lines.values())
    with one.open("ab") as file:
        file.write(b"y\nunfinished")
    logs.show(one, whole=False)
    _, line = capsys.readouterr().out.splitlines()
    assert line == "x" * 2000
    for file in (one, other):
        logs.show(file, whole=True)
    assert capsys.readouterr().out == "unfinished\n"


def test_what_the_pod_said_steers_no_terminal_in_explain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = after.engine.StepState(2, "dense", "run", "ended in: \x1b]0;pwn\x07\x1b[2Jowned")
    monkeypatch.setattr(after.engine, "explain", lambda _paths: [said])
    monkeypatch.setattr(after.store, "find", lambda *_: None)
    assert after.explain_command("latest", tmp_path, as_json=False) == 0
    printed = capsys.readouterr().out
    assert "owned" in printed
    assert "\x1b" not in printed
    assert "pwn" not in printed


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    seen: list[str] = []
    lines = Lines(seen.append)
    for _ in range(100):
        lines.feed(b"x" * 10_000)
    lines.flush()
    assert len(seen) == 1
    assert len(seen[0]) <= 2000

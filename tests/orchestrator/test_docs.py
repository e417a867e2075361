"""The documentation names what there is, and its examples are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchestrator.cli.app import cli
from orchestrator.config.pods_file import open_pods
from orchestrator.models.pod import Pod

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
EXAMPLE = CHECKOUT / "pods.example.toml"


def commands(group: click.Group, above: str = "orchestrate") -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}"


@pytest.mark.parametrize("command", list(commands(cli)))
def test_every_command_is_documented(command: str) -> None:
    mentioned = re.compile(rf"\b{re.escape(command)}\b")
    assert any(mentioned.search(page.read_text(encoding="utf-8")) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documentation_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))
    known = {*commands(cli), *(f"orchestrate {name}" for name in cli.commands)}
    for words in re.findall(r"\borchestrate(?: [a-z]+)+", code):
        assert any(f"{words} ".startswith(f"{name} ") for name in known), words


def test_the_example_of_a_pods_file_loads_and_shows_every_field() -> None:
    file = open_pods(EXAMPLE)
    assert file is not None
    assert list(file.pods) == ["gpu-a", "gpu-b", "lab"]
    assert not any(file.notes.values())
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = set(re.findall(r"^(?:# )?(\w+) = ", text, re.M))
    assert shown == {*Pod.model_fields, "ssh"} - {"name", "embedded"}


def test_the_example_has_the_defaults_of_the_model() -> None:
    file = open_pods(EXAMPLE)
    assert file is not None
    gpu_a, declared = file.pods["gpu-a"], Pod(name="x", host="x")
    assert (gpu_a.workdir, gpu_a.venv, gpu_a.python) == (
        declared.workdir,
        declared.venv,
        declared.python,
    )


@pytest.mark.parametrize("page", [*PAGES, EXAMPLE], ids=lambda page: page.name)
def test_addresses_are_of_the_documentation(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    addresses = set(re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", text))
    assert {
        a for a in addresses if not re.match(r"203\.0\.113\.|127\.|10\.|0\.0\.0\.0", a)
    } == set()


def test_the_recipes_name_what_there_is() -> None:
    named = re.findall(
        r"`([\w/]+\.py)`", (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    )
    assert len(named) > 5
    for path in named:
        assert any(
            (CHECKOUT / below / path).exists()
            for below in ("", "orchestrator", "kernels/selection")
        ), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target

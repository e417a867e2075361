from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.app import cli
from orchestrator.config.document import Source
from orchestrator.config.pods_file import PodsFile, parse_pods
from orchestrator.errors import ConfigError, OrchestrateError

CHECKOUT = Path(__file__).parents[3]
TWO = '[pods.gpu-a]\nhost = "203.0.113.7"\n\n[pods.gpu-b]\nssh = "ssh root@203.0.113.8 -p 22"\n'


def read(text: str, file: str = "pods.toml") -> PodsFile:
    return parse_pods(Source(file, text, ""))


def result_of(call: Callable[[str], object], text: str) -> object:
    """What comes of it, or the error that a user would see."""
    try:
        return call(text)
    except OrchestrateError as error:
        return error


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    return result.output

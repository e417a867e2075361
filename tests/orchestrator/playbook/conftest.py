from __future__ import annotations

import pytest
from playbook_sample import PLAYBOOK

from orchestrator.config.playbook import LoadedPlaybook, load_playbook
from orchestrator.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Load a text, or the playbook above with one piece of it exchanged."""
    path = tmp_path / "p.yaml"

    def run(*change: str, **options) -> LoadedPlaybook:
        text = PLAYBOOK
        if len(change) == 1:
            text = change[0]
        elif change:
            assert text.count(change[0]) == 1, "the test must say which piece it means"
            text = text.replace(*change)
        path.write_text(text, encoding="utf-8")
        return load_playbook(path, **options)

    return run


@pytest.fixture
def refusal(load, tmp_path):
    """The error's lines, without the folder: `line:column: message`."""

    def run(*change: str, **options) -> tuple[list[str], str]:
        with pytest.raises(ConfigError) as caught:
            load(*change, **options)
        prefix = f"{tmp_path / 'p.yaml'}:"
        lines = caught.value.message.splitlines()
        assert all(line.startswith((prefix, "... and")) for line in lines)
        assert lines[0].startswith(caught.value.where)
        return [line.removeprefix(prefix) for line in lines], caught.value.remedy or ""

    return run

"""Where a key or a value of a TOML file stands."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from pods_files import read, result_of

from orchestrator.config.document import Source
from orchestrator.config.pods_file import PodsFile
from orchestrator.config.toml import parse_toml
from orchestrator.errors import ConfigError


def test_every_key_and_value_has_its_place() -> None:
    text = (
        "a.b = 1 # c\n"
        '"x y" = [ 1, "two", # three\n  { k = 2020-01-01 00:00:00 } ]\n'
        "m = '''\n[no]\n'''\n"
        'q = """a "quoted" \\" word""""\n'
        "[t.u]\nk = ']'\n[[l]]\nn = 1\n[[l]]\n[l.sub]\nn=2\n"
    )
    document = parse_toml(Source("f", text, ""))
    for at, where in (
        (("a", "b"), "f:1:7"),
        (("x y", 1), "f:2:14"),
        (("x y", 2, "k"), "f:3:9"),
        (("m",), "f:4:5"),
        (("q",), "f:7:5"),
        (("t", "u", "k"), "f:9:5"),
        (("l", 0, "n"), "f:11:5"),
        (("l", 1, "sub", "n"), "f:14:3"),
    ):
        assert document.where(at) == where


_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=5)
_DATA = st.recursive(
    st.integers(-9, 9) | st.booleans() | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[ " + ",\n ".join(map(_toml, value)) + "\n]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(st.dictionaries(_KEYS, _DATA, max_size=4))
def test_the_scan_agrees_with_the_parser(data: dict[str, object]) -> None:
    text = "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in data.items())
    document = parse_toml(Source("f", text, ""))
    assert document.data == data

    def check(value: object, at: tuple[str | int, ...]) -> None:
        children = value.items() if isinstance(value, dict) else ()
        children = enumerate(value) if isinstance(value, list) else children
        for key, child in children:
            here = (*at, key)
            span = document._values[here]
            assert document.text[span.start : span.end].strip() == _toml(child)
            check(child, here)

    check(data, ())


_PIECES = st.sampled_from(
    [
        *(
            "[pods.a]\n",
            "[pods]\n",
            "[[pods]]\n",
            "pods",
            "a",
            ".",
            "=",
            " = ",
            "\n",
            "{",
            "}",
            "[",
        ),
        *(
            "]",
            ",",
            '"',
            "'",
            '"""',
            "\\",
            "#",
            "host",
            "ssh",
            "port",
            "'ssh root@h -p 2'",
            "'~x/y'",
        ),
        *("22", "1e400", "nan", "2020-01-01", "true", '"\\u0000"', "\x00", "\ud7ff", "-o", "é"),
    ]
)


@settings(max_examples=300)
@given(st.lists(_PIECES, max_size=14).map("".join) | st.text(max_size=60))
def test_no_file_raises_anything_else(text: str) -> None:
    result = result_of(read, text)
    assert isinstance(result, PodsFile | ConfigError)
    assert isinstance(result, PodsFile) or result.where.startswith("pods.toml:")

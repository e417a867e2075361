from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.document import (
    MAX_BYTES,
    Document,
    all_of,
    dotted,
    parse,
    parse_mapping,
    read_source,
)
from orchestrator.errors import ConfigError


def load(path) -> Document:
    return parse_mapping(read_source(path))


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, file="p.yaml")
    return caught.value


def test_scalars_follow_yaml_1_2():
    text = (
        "a: 017\nb: 0x1F\nc: 1_000\nd: 1e-3\ne: yes\nf: true\ng: ~\nh: 2020-01-01\ni: '5'\nj: -2\n"
    )
    assert parse(text, file="p.yaml").data == {
        "a": 17,
        "b": 31,
        "c": 1000,
        "d": 1e-3,
        "e": "yes",
        "f": True,
        "g": None,
        "h": "2020-01-01",
        "i": "5",
        "j": -2,
    }


def test_keys_are_text_whatever_they_look_like():
    assert parse("4090: a\ntrue: b\n", file="p.yaml").data == {"4090": "a", "true": "b"}


def test_every_key_and_value_has_its_place():
    document = parse("a:\n  - b: one\n    c: 'two'\nd: |\n  x\n  y\n", file="p.yaml")
    assert document.where(("a",), key=True) == "p.yaml:1:1"
    assert document.where(("a", 0)) == "p.yaml:2:5"
    assert document.where(("a", 0, "c"), key=True) == "p.yaml:3:5"
    assert document.where(("a", 0, "c")) == "p.yaml:3:8"
    assert document.where(("d",), containing="y") == "p.yaml:6:3"


def test_what_is_not_in_the_file_is_placed_at_what_is_around_it():
    document = parse("a:\n  - b: one\n", file="p.yaml")
    assert document.where(("a", 0, "missing", 3)) == "p.yaml:2:5"


def test_a_byte_order_mark_and_foreign_line_ends_move_nothing(tmp_path):
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = load(tmp_path / "p.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.where(("b",)).endswith(":2:4")


def test_nothing_is_placed_at_its_key():
    document = parse("a:\nb:   # none\n\nc: 1\n", file="p.yaml")
    assert document.where(("a",)) == "p.yaml:1:1"
    assert document.where(("b",)) == "p.yaml:2:1"


def test_an_alias_is_placed_where_its_value_is_written():
    document = parse("a: &x [1, 2]\nb: *x\n", file="p.yaml")
    assert document.data["b"] == [1, 2]
    assert document.where(("b", 1)) == "p.yaml:1:11"


@pytest.mark.parametrize(
    ("text", "where", "message", "remedy"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1", "key 'a' is there twice; first in line 1", None),
        ("a:\n\t- b\n", "2:1", "cannot start any token", "spaces, never with tabs"),
        ("a: [1,\n", "2:1", "expected the node content", None),
        ("a: 'x\n", "2:1", "unexpected end of stream", None),
        ("a: b: c\n", "1:5", "mapping values are not allowed here", None),
        ("a: [p, ${x}]\n", "1:9", "expected ',' or ']'", 'quotes: "${name}"'),
        ("a: {b: ${x}}\n", "1:9", "expected ',' or '}'", 'quotes: "${name}"'),
        ("a: 1\n---\nb: 2\n", "2:1", "a second document begins here", "one document"),
        ("a: *x\n", "1:4", "undefined alias 'x'", None),
        ("a: &x [*x]\n", "1:4", "an alias refers to what it is in", None),
        ("a: !!python/object:os.system x\n", "1:4", "tag ", None),
        ("a: !mine {b: 1}\n", "1:4", "tag '!mine' is not supported", None),
        ("a: !!int x\n", "1:4", "'x' is not a whole number", "'x'"),
        ("a: .nan\n", "1:4", "'.nan' is not a finite number", "'.nan'"),
        ("a: 1e999\n", "1:4", "'1e999' is not a finite number", None),
        ("? [a, b]\n: 1\n", "1:3", "a key must be text", None),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3", "merging with <<", None),
        ("a: 1\nb: \x01\n", "2:4", "control characters are not allowed", None),
        ('a: "\\ud800"\n', "1:4", "half of a surrogate pair", None),
        ('a: "\\0"\n', "1:4", "a NUL is not text", None),
        ("a: " + "[" * 60 + "]" * 60, "1:54", "nested deeper than 50", None),
    ],
)
def test_bad_yaml_is_refused_at_its_place(text, where, message, remedy):
    error = refusal(text)
    assert error.where == f"p.yaml:{where}"
    assert message in error.message
    assert (remedy or "") in (error.remedy or "")


def test_endless_nesting_ends():
    assert "nested deeper than 50" in refusal("[" * 400 + "]" * 400).message


def test_aliases_cannot_blow_the_document_up():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    error = refusal("\n".join(lines))
    assert "more than 100000 values, aliases written out" in error.message


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (b"", ":1:1", "the file is empty"),
        (b"# nothing\n", ":1:1", "the file is empty"),
        (b"- a\n", ":1:1", "expected keys and values, got a list of 1"),
        (b"# c\njust text\n", ":2:1", "expected keys and values, got 'just text'"),
        (b"a: 1\nb: caf\xe9\n", ":2:7", "byte 0xe9 is not UTF-8"),
        (b"a: \xc3\xa9\xff\n", ":1:5", "byte 0xff is not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "", "is larger than 1 MiB"),
    ],
)
def test_files_that_are_no_document(tmp_path, content, place, message):
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.message == f"{path}{place}: {message}"


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file") as missing:
        load(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="is a directory, not a file") as directory:
        load(tmp_path)
    assert missing.value.where == str(tmp_path / "no.yaml")
    assert directory.value.where == str(tmp_path)


def test_several_errors_come_in_the_order_of_the_file_each_once_and_ten_at_most():
    document = parse("a:\n" + "- x\n" * 15, file="p.yaml")
    errors = [document.error(("a", n), "wrong", remedy="mend it") for n in (*range(14, -1, -1), 3)]
    lines = all_of(errors).message.splitlines()
    assert lines[0] == "p.yaml:2:3: a[0]: wrong"
    assert lines[9] == "p.yaml:11:3: a[9]: wrong"
    assert lines[10:] == ["... and 5 more"]
    assert all_of(errors).remedy == "mend it"


def test_paths_print_as_people_write_them():
    assert dotted(("phases", 1, "env", "A-B")) == "phases[1].env.A-B"
    assert dotted(("env", "a b\x1b")) == "env['a b\\x1b']"


INDICATORS = [
    "a",
    "b: ",
    "- ",
    "? ",
    ": ",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    "|",
    ">+",
    "&x ",
    "*x",
]
LAYOUT = [
    "\n",
    "\n  ",
    "\n   ",
    "  ",
    "\t",
    "---\n",
    "...\n",
    "#",
    " #c\n",
    "\x85",
    "%YAML ",
    "%TAG ! ",
]
OTHERS = ["!", "!!int ", "!<", "\\x", "\\u12", "<<: ", "1", "0x", ".inf", "~", "@", "`"]
PIECES = st.sampled_from([*INDICATORS, *LAYOUT, *OTHERS])


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
def test_no_text_does_worse_than_a_config_error(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, file="p.yaml"), Document)

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from orchestrator.errors import ConfigError
from orchestrator.landing.config_edit import propose, read_value, set_value

KEY = "runtime.sel_triton_min_L"
CONFIG = """\
# What runs in production.
model:
    heads:   16      # four-space indentation, odd spacing

runtime:
    # Selected lengths below this use packed SDPA.
    sel_triton_min_L: 2048   # see the report\t
    name: 'x'
list: [1,  2]
"""


def config(tmp_path, text: str | bytes = CONFIG):
    path = tmp_path / "base.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_one_number_changes_and_nothing_else(tmp_path):
    path = config(tmp_path)
    edit = set_value(path, KEY, 256)
    assert path.read_text() == CONFIG.replace("2048", "256")
    assert (edit.before, edit.after, edit.changed) == (2048, 256, True)
    changed = [line for line in edit.diff.splitlines() if line[0] in "+-"][2:]
    assert changed == [
        "-    sel_triton_min_L: 2048   # see the report\t",
        "+    sel_triton_min_L: 256   # see the report\t",
    ]
    assert read_value(path, KEY) == 256


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CONFIG.replace("\n", "\r\n"), CONFIG.replace("\n", "\r\n").replace("2048", "7")),
        ("\ufeff" + CONFIG, "\ufeff" + CONFIG.replace("2048", "7")),
        ("runtime: {a: 1, sel_triton_min_L: 2048}", "runtime: {a: 1, sel_triton_min_L: 7}"),
        ('{"runtime": {"sel_triton_min_L":2048,},}', '{"runtime": {"sel_triton_min_L":7,},}'),
        ("runtime:\n  sel_triton_min_L: '2048'", "runtime:\n  sel_triton_min_L: '7'"),
        ('runtime:\n  sel_triton_min_L: "2048" #\n', 'runtime:\n  sel_triton_min_L: "7" #\n'),
        ("runtime:\n  sel_triton_min_L: 0x800\n", "runtime:\n  sel_triton_min_L: 7\n"),
        ("runtime:\n  sel_triton_min_L: 2_048\n", "runtime:\n  sel_triton_min_L: 7\n"),
        ("runtime:\n  sel_triton_min_L:\n    2048\n", "runtime:\n  sel_triton_min_L:\n    7\n"),
        ("runtime:\n  ? sel_triton_min_L\n  : 2048\n", "runtime:\n  ? sel_triton_min_L\n  : 7\n"),
        (
            "--- # top\nruntime: {sel_triton_min_L: 2048}\n...\n",
            "--- # top\nruntime: {sel_triton_min_L: 7}\n...\n",
        ),
        (
            "x: !mine {a: 2048}\nb: &b {c: 1}\nd: {<<: *b}\nruntime:\n  sel_triton_min_L: 2048",
            "x: !mine {a: 2048}\nb: &b {c: 1}\nd: {<<: *b}\nruntime:\n  sel_triton_min_L: 7",
        ),
        (
            "sel_triton_min_L: 2048\nother: {runtime: {sel_triton_min_L: 2048}}\n"
            "runtime:\n  sel_triton_min_L: 2048\n",
            "sel_triton_min_L: 2048\nother: {runtime: {sel_triton_min_L: 2048}}\n"
            "runtime:\n  sel_triton_min_L: 7\n",
        ),
    ],
    ids=[
        "crlf", "byte-order-mark", "flow", "json", "single-quoted", "double-quoted", "hexadecimal",
        "underscore", "own-line", "complex-key", "document-marks", "tags-and-anchors-elsewhere",
        "same-name-elsewhere",
    ],
)  # fmt: skip
def test_every_way_of_writing_it(tmp_path, before, after):
    path = config(tmp_path, before)
    set_value(path, KEY, 7)
    assert path.read_bytes().decode() == after
    assert read_value(path, KEY) == 7


def test_an_equal_value_writes_nothing(tmp_path):
    path = config(tmp_path)
    path.chmod(0o400)
    stamp = path.stat()
    edit = set_value(path, KEY, 2048)
    assert (edit.diff, edit.changed) == ("", False)
    assert path.stat() == stamp


def test_the_mode_and_a_link_stay(tmp_path):
    path = config(tmp_path)
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path.name)
    set_value(link, KEY, 9)
    assert link.is_symlink()
    assert read_value(path, KEY) == 9
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_proposal_writes_nothing(tmp_path):
    path = config(tmp_path)
    edit = propose(path, KEY, 9, name="kernels/configs/base.yaml")
    assert path.read_text() == CONFIG
    assert edit.diff.startswith(
        "--- a/kernels/configs/base.yaml\n+++ b/kernels/configs/base.yaml\n"
    )


@pytest.mark.parametrize(
    "text", [CONFIG, CONFIG.replace("\n", "\r\n"), "runtime: {sel_triton_min_L: 1}"]
)
def test_git_applies_the_diff(tmp_path, text):
    path = config(tmp_path, text)
    copy = tmp_path / "copy.yaml"
    shutil.copy(path, copy)
    edit = set_value(path, KEY, 512, name="copy.yaml")
    subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],
        input=edit.diff.encode(), cwd=tmp_path, check=True,
    )  # fmt: skip
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("", ":1:1", "there is no runtime.sel_triton_min_L: the file is empty"),
        ("# nothing\n", ":1:1", "the file is empty"),
        ("a: 1\n", ":1:1", "there is no runtime"),
        ("a: 1\nruntime:\n  sel_triton_minL: 1\n", ":2:1", "did you mean 'sel_triton_minL'?"),
        ("runtime: 3\n", ":1:1", "runtime has no keys"),
        ("- runtime\n", ":1:1", "the document has no keys"),
        ("runtime:\n  sel_triton_min_L: high\n", ":2:3", "not a whole number: 'high'"),
        ("runtime:\n  sel_triton_min_L:\n", ":2:3", "not a whole number"),
        ("runtime:\n  sel_triton_min_L: 1.5\n", ":2:3", "not a whole number: '1.5'"),
        ("runtime:\n  sel_triton_min_L: 010\n", ":2:3", "not a whole number: '010'"),
        ("runtime:\n  sel_triton_min_L: true\n", ":2:3", "not a whole number: 'true'"),
        ("runtime:\n  sel_triton_min_L: [1]\n", ":2:3", "not a whole number"),
        ("runtime:\n  sel_triton_min_L: !!int 1\n", ":2:3", "not a whole number: '!!int 1'"),
        ("runtime:\n  sel_triton_min_L: |\n    1\n", ":2:3", "not a whole number"),
        (f"runtime:\n  sel_triton_min_L: {'9' * 5000}\n", ":2:3", "not a whole number"),
        ("runtime:\n  sel_triton_min_L: &a 1\n", ":2:3", "anchor or alias 'a'"),
        ("b: &a 1\nruntime:\n  sel_triton_min_L: *a\n", ":3:3", "anchor or alias 'a'"),
        ("runtime: &r\n  sel_triton_min_L: 1\nb: *r\n", ":1:1", "runtime has the anchor"),
        (
            "runtime:\n  sel_triton_min_L: 1\n  sel_triton_min_L: 2\n",
            ":3:3",
            "twice; first in line 2",
        ),
        ("runtime: {sel_triton_min_L: 1}\nruntime: {}\n", ":2:1", "runtime is there twice"),
        ("runtime:\n\tsel_triton_min_L: 1\n", ":2:1", "cannot start any token"),
        ("runtime: {sel_triton_min_L: 1\n", ":2:1", "expected"),
        ("runtime: *nowhere\n", ":1:10", "undefined alias"),
        ("a: 1\n---\nb: 2\n", ":2:1", "a second document begins here"),
        (b"a: \xff\n", ":1:4", "byte 0xff is not UTF-8"),
        ("a: \x07\n", ":1:1", "special characters are not allowed"),
        (" " * (1 << 20) + "a: 1", "", "larger than 1 MiB"),
    ],
)
def test_what_cannot_be_edited_is_named_and_stays(tmp_path, text, where, says):
    path = config(tmp_path, text)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        set_value(path, KEY, 64)
    assert str(caught.value).startswith(f"{path}{where}: ")
    assert says in str(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["base.yaml"]


def test_a_missing_key_comes_with_the_line_to_add(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_value(config(tmp_path, "a: 1\n"), KEY)
    assert "runtime: {sel_triton_min_L: 2048}" in (caught.value.remedy or "")


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_value(tmp_path / "none.yaml", KEY)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_value(tmp_path, KEY)


# --- any document ---------------------------------------------------------------------------------

_names = st.text("abcxyz_", min_size=1, max_size=6)
_comments = st.one_of(
    st.just(""), st.text("# :{}'é\"-x2048", max_size=12).map(lambda text: f"  # {text}")
)
_scalars = st.one_of(
    st.integers(-5000, 5000).map(str),
    st.sampled_from(
        ["2048", "'2048'", '"a: b"', "~", "[1, 2]", "{a: 2048}", "true", "|\n      x\n", ""]
    ),
)


@st.composite
def documents(draw) -> tuple[str, list[str], int, int, str]:
    """A text, the path of a number in it, where that stands, and its line ends."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    step = draw(st.integers(1, 4))
    keys = draw(st.lists(_names, min_size=1, max_size=4))
    number = draw(st.integers(-9999, 9999))
    quote = draw(st.sampled_from(["", "'", '"']))
    text = ""

    def filler(depth: int, taken: str) -> str:
        lines = []
        for name in draw(st.lists(_names, max_size=3, unique=True)):
            value = draw(_scalars)
            if name != taken and not value.startswith("|"):
                lines.append(f"{' ' * depth * step}{name}: {value}{draw(_comments)}{end}")
            elif name != taken:
                block = f"{' ' * (depth * step + 2)}2048: # no comment{end}"
                lines.append(f"{' ' * depth * step}{name}: |{end}{block}")
            if draw(st.booleans()):
                lines.append(
                    draw(st.sampled_from(["", "   ", f"{' ' * depth * step}# 2048: x"])) + end
                )
        return "".join(lines)

    after: list[str] = []
    for depth, key in enumerate(keys):
        above, below = filler(depth, key), filler(depth, key)
        both = [line.strip().partition(":")[0] for line in above.split(end)]
        text += above
        after.append("" if any(name in both for name in _keys(below)) else below)
        text += f"{' ' * depth * step}{key}:"
        if depth < len(keys) - 1:
            text += f"{draw(_comments)}{end}"
    text += f"{draw(st.sampled_from([' ', '  ']))}{quote}"
    start = len(text)
    text += f"{number}"
    stop = len(text)
    text += f"{quote}{draw(st.sampled_from(['', '  ']))}{draw(_comments)}{end}"
    return text + "".join(reversed(after)), keys, start, stop, end


def _keys(text: str) -> list[str]:
    return [line.strip().partition(":")[0] for line in text.splitlines() if ":" in line]


@settings(max_examples=60)
@given(document=documents(), value=st.integers(-(10**6), 10**6))
def test_in_any_document_only_the_number_changes(tmp_path_factory, document, value):
    text, keys, start, stop, _ = document
    path = config(tmp_path_factory.mktemp("any"), text)
    edit = set_value(path, ".".join(keys), value)
    edited = path.read_bytes().decode()
    assert edit.before == int(text[start:stop])
    if edit.changed:
        assert edited == f"{text[:start]}{value}{text[stop:]}"
    else:
        assert edited == text
    assert _data(edited, keys) == value
    assert read_value(path, ".".join(keys)) == value


def _data(text: str, keys: list[str]) -> int:
    """The number as another reader finds it."""
    data = YAML(typ="safe", pure=True).load(text)
    for key in keys:
        data = data[key]
    return int(data)


@given(
    head=st.sampled_from(["", "a: 12 ", "{a: '12', ", "---\na : 12\n"]),
    tail=st.text("ab: \n{}[]&*!|>'\"#-,?%@\t0123", max_size=60),
)
def test_any_text_is_edited_or_refused(tmp_path_factory, head, tail):
    path = config(tmp_path_factory.mktemp("any"), head + tail)
    try:
        set_value(path, "a", 77)
    except ConfigError:
        assert path.read_bytes().decode() == head + tail
    else:
        assert read_value(path, "a") == 77

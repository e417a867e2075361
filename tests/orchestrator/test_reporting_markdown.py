"""Text in Markdown: escaped, aligned, and read as itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import (
    MARKDOWN,
)

from orchestrator.reporting import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("sel_triton_min_L", "sel_triton_min_L"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("<b>&", "&lt;b>&amp;"),
        ("# title", r"\# title"),
        ("1. item", r"1\. item"),
        ("> quote", r"\> quote"),
        ("1.5 ms", "1.5 ms"),
        ("3.11.7", "3.11.7"),
        (-1.5, "-1.5"),
        ("--csv x", "--csv x"),
        ("- item", r"\- item"),
        ("---", r"\---"),
        ("#12", "#12"),
        ("two\nlines\u2028three", "two lines three"),
        ("http://evil www.evil.com", r"http\://evil www\.evil.com"),
        ("hi @team, root@host", "hi @<!-- -->team, root@host"),
        ("\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b", "red"),
        ("a\u202eb\u200bc\ud800", "abc"),
        (None, markdown.NOTHING),
        ("x" * 700, "x" * 599 + "…"),
    ],
)
def test_escape(text, shown):
    assert markdown.escape(text) == shown
    assert markdown.escape(markdown.escape(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Run `orchestrate run` again", "Run `orchestrate run` again"),
        ("`a|b` is *it*", r"<code>a&#124;b</code> is \*it\*"),
        ("one ` alone", r"one \` alone"),
        ("` ` two", r"\` \` two"),
        ("`a` - b", "`a` - b"),
        ("- `a`", r"\- `a`"),
        (markdown.Markdown("**kept**"), "**kept**"),
        (None, markdown.NOTHING),
    ],
)
def test_prose(text, shown):
    assert markdown.prose(text) == shown


@given(st.text(alphabet=st.sampled_from("a1 .-#>*_`|~<>[]()!&\\:/@+=\n$")))
def test_prose_shapes_nothing_but_code(text):
    blocks = MARKDOWN.parse(markdown.prose(text))
    assert [block.type for block in blocks] in (["paragraph_open", "inline", "paragraph_close"], [])
    for part in blocks[1].children if blocks else ():
        assert part.type in ("text", "text_special", "code_inline", "html_inline")
        assert part.type != "html_inline" or part.content in ("<!-- -->", "<code>", "</code>")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|<b>", "<code>a&#124;&lt;b></code>"),
        ("", markdown.NOTHING),
        (None, markdown.NOTHING),
        ("x\ny", "`x y`"),
    ],
)
def test_code(text, shown):
    assert markdown.code(text) == shown


def test_a_block_cannot_be_left():
    assert markdown.block("a\n```\nb\x1b[1m", "sh") == "````sh\na\n```\nb\n````"


@given(st.text())
def test_escaped_text_is_one_line_without_bare_bars_or_tags(text):
    for shown in (markdown.escape(text), markdown.code(text)):
        assert len(shown.splitlines()) <= 1
        assert "|" not in shown.replace(r"\|", "")
        shown.encode()
    assert "<" not in markdown.escape(text).replace("<!-- -->", "")


def test_tidy_aligns_tables_outside_fences():
    text = "|a|b|\n|---|---:|\n|x|1|\n\n\n```\n|a|b|\n|-|-|\n\n\n```\nend"
    assert markdown.tidy(text) == (
        "| a   |   b |\n| --- | --: |\n| x   |   1 |\n\n```\n|a|b|\n|-|-|\n\n\n```\nend\n"
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (markdown.milliseconds(0.038123), "0.0381"),
        (markdown.milliseconds(12.345), "12.3"),
        (markdown.milliseconds(1234.5), "1234"),
        (markdown.milliseconds(0), "0"),
        (markdown.milliseconds(None), None),
        (markdown.error(0.00021), "2.1e-04"),
        (markdown.error(0.0), "0"),
        (markdown.error(None), None),
        (markdown.ratio(1.4321, 1.38, 1.47), "1.43x [1.38, 1.47]"),
        (markdown.ratio(0.0123), "0.0123x"),
        (markdown.ratio(None), None),
        (markdown.size(512), "512 B"),
        (markdown.size(1536), "1.50 KiB"),
        (markdown.size(24 * 2**30), "24.0 GiB"),
        (markdown.size(None), None),
        (markdown.duration(0.44), "0.4 s"),
        (markdown.duration(59.6), "1 min 00 s"),
        (markdown.duration(12), "12 s"),
        (markdown.duration(3720), "1 h 02 min"),
        (markdown.duration(None), None),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected


@given(st.text(alphabet=st.sampled_from("a1 .-#>*_`|~<>[]()!&\\:/@+=\n$")))
def test_escaped_text_reads_as_itself(text):
    """A real parser sees one paragraph of plain text, and in it what was written."""
    blocks = MARKDOWN.parse(markdown.escape(text))
    assert [block.type for block in blocks] in (["paragraph_open", "inline", "paragraph_close"], [])
    if blocks:
        parts = [part for part in blocks[1].children if part.type != "html_inline"]
        assert all(part.type in ("text", "text_special") for part in parts)
        assert "".join(part.content for part in parts) == " ".join(text.split())


@given(st.text(alphabet=st.sampled_from("a `|<>&*\\")))
def test_code_reads_as_itself(text):
    shown = MARKDOWN.parse(f"| a |\n|---|\n| {markdown.code(text)} |")
    (cell,) = [block for n, block in enumerate(shown) if shown[n - 1].type == "td_open"]
    parts = [part.content for part in cell.children if part.type != "html_inline"]
    assert "".join(parts) == (" ".join(text.split()) or markdown.NOTHING)

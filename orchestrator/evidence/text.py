"""From bytes to text, and what counts as a number in it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence

from orchestrator.evidence.errors import EvidenceError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""A finite number: float() also takes `1_000`, full-width digits and `infinity`."""
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""What spreadsheets of half the world write."""
NOT_FINITE = re.compile(r"[+-]?(nan|inf(inity)?)", re.IGNORECASE | re.ASCII)
"""What programs print where a number went wrong."""
MAX_COLUMNS = 1000
"""More than any table of measurements has."""
_HEAD = 8192
_UTF_8 = "Save it as UTF-8."
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_OTHER_KINDS = {
    b"PK\x03\x04": ("an Excel workbook or another zip archive", "Export the sheet as CSV (UTF-8)."),
    b"\x1f\x8b": ("compressed", "gunzip it, and name what comes out."),
    b"%PDF": ("a PDF", "Find the CSV that its tables were made from."),
}
"""What a file is that begins so, and what to do then."""
_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)


def text_of(data: bytes, file: str, max_bytes: int) -> str:
    """The file's text, without its byte order mark.

    Raises:
        EvidenceError: more than `max_bytes`, another kind of file, or not UTF-8.
    """
    if len(data) > max_bytes:
        raise EvidenceError(
            f"{len(data)} bytes, more than the {max_bytes} that are read", file=file
        )
    refuse_other_kinds(data, file)
    if data.startswith(_UTF_16):
        raise EvidenceError("UTF-16, not UTF-8 text", file=file, remedy=_UTF_8)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EvidenceError("not UTF-8 text", file=file, line=line, remedy=_UTF_8) from None


def refuse_other_kinds(data: bytes, file: str) -> None:
    """Refuse what is no text of measurements at all, by how it begins.

    Raises:
        EvidenceError: a workbook, an archive, a PDF or an HTML page.
    """
    for begin, (what, remedy) in _OTHER_KINDS.items():
        if data.startswith(begin):
            raise EvidenceError(what, file=file, remedy=remedy)
    if _PAGE.match(data.removeprefix(codecs.BOM_UTF8)):
        remedy = "Download the file itself: this is a page about it, or a server's error."
        raise EvidenceError("an HTML page", file=file, remedy=remedy)


def delimiter_of(text: str) -> str:
    """Comma, semicolon or tab: whichever the header has most of."""
    lines = (line.strip() for line in io.StringIO(text))
    head = next((line for line in lines if line and not line.startswith("#")), "")
    return max(",;\t", key=head.count)


def with_commas(data: bytes) -> bytes:
    """A CSV with semicolons or tabs between its fields, each line written again with commas.

    Then a comma within a number can only be a decimal one, and becomes a point. What is no such CSV
    is left as it is, for its own parser to refuse.
    """
    start = data[:_HEAD].decode("utf-8-sig", "replace")
    if start.lstrip().startswith("<") or delimiter_of(start) == ",":
        return data
    out = io.StringIO()
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
        csv.writer(out, lineterminator="\n").writerows(map(_with_points, reader))
    except (UnicodeDecodeError, csv.Error):
        return data
    return out.getvalue().encode()


def _with_points(fields: Sequence[str]) -> list[str]:
    return [
        field.replace(",", ".")
        if "," in field and DECIMAL_COMMA.fullmatch(field.strip())
        else field
        for field in fields
    ]


def refuse_wide(header: Sequence[str], file: str, line: int) -> None:
    """Refuse a header of more than `MAX_COLUMNS`.

    Raises:
        EvidenceError: it is.
    """
    if len(header) > MAX_COLUMNS:
        raise EvidenceError(
            f"the header names {len(header)} columns, more than the {MAX_COLUMNS} that are read",
            file=file,
            line=line,
        )

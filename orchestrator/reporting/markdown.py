"""Markdown for pull requests: escaping of text that a pod wrote, tables, numbers with their units.

A template's `{{ value }}` is escaped unless it already is `Markdown`: forgetting a filter is safe.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_TEXT = 600
"""Characters kept of one inline text."""
_MAX_PADDING = 60
NOTHING = "–"  # noqa: RUF001 - a dash in a table, on purpose

_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"
)
_SPAN = re.compile(r"`([^`]*[^`\s][^`]*)`")
_ITEM = re.compile(r"^(\d+)([.)])(?=\s|$)")
_MARKER = re.compile(r"^(?=#{1,6}(?:\s|$)|>|[-+](?:\s|$)|[-= ]+$)")
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn")


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""

    __slots__ = ()


def plain(text: str, *, lines: bool = False) -> str:
    """Text without control sequences and invisible characters; on one line unless `lines`."""
    text = _TERMINAL.sub("", text)
    kept = "".join(
        char
        for char in text
        if char in "\n\t" or char.isspace() or unicodedata.category(char) not in _INVISIBLE
    )
    if lines:
        return "\n".join(line.rstrip() for line in kept.splitlines())
    return " ".join(kept.split())


def escape(value: object) -> Markdown:
    """A value as inline Markdown that shows exactly its text, and pings or links nobody."""
    if isinstance(value, Markdown):
        return value
    if value is None:
        return Markdown(NOTHING)
    return Markdown(_opening(_inline(_clipped(value))))


def prose(value: object) -> Markdown:
    """A sentence of ours, in which a word of the pod may stand: only its `code spans` are kept."""
    if value is None or isinstance(value, Markdown):
        return escape(value)
    parts = _SPAN.split(_clipped(value))
    shown = [code(part) if n % 2 else _inline(part) for n, part in enumerate(parts)]
    return Markdown(_opening("".join(shown)) if parts[0] else "".join(shown))


def _clipped(value: object) -> str:
    text = plain(str(value))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _inline(text: str) -> str:
    """Escape what means something anywhere in a line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = text.replace("$", "&#36;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = text.replace("://", r"\://")  # or GitHub makes a link of it
    text = re.sub(r"\bwww\.", r"www\\.", text, flags=re.IGNORECASE)
    return re.sub(r"(?<!\w)@(?=\w)", "@<!-- -->", text)  # or GitHub tells a stranger


def _opening(text: str) -> str:
    """Escape what would begin a heading, a quote, a list or a rule."""
    return _MARKER.sub(r"\\", _ITEM.sub(r"\1\\\2", text))


def code(value: object) -> Markdown:
    """A value as a code span, fit for a table too."""
    text = "" if value is None else plain(str(value))[:MAX_TEXT]
    if not text:
        return Markdown(NOTHING)
    if "|" in text:  # in a table it ends the cell, and what escapes it there shows elsewhere
        return Markdown(f"<code>{escape(text)}</code>".replace(r"\|", "&#124;"))
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")


def codes(values: Iterable[object]) -> Markdown:
    """Values as code spans, with commas between."""
    return Markdown(", ".join(code(value) for value in values) or NOTHING)


def link(url: str) -> Markdown:
    """An address as a link where it is a plain one; else as text."""
    plain = url.startswith("https://") and url.isascii() and not set(url) & set("<>\\`|\"' \t\n")
    return Markdown(f"<{url}>") if plain else code(url)


def block(value: str, language: str = "") -> Markdown:
    """Text as a fenced block that it cannot break out of."""
    text = plain(value, lines=True)
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def tidy(text: str) -> str:
    """Align the source of every table and drop repeated blank lines; fenced blocks stay."""
    out: list[str] = []
    rows: list[str] = []
    fence = ""
    for line in [*text.split("\n"), ""]:
        if not fence and line.startswith("|"):
            rows.append(line)
            continue
        out += _aligned(rows)
        rows = []
        if fence:
            fence = "" if line.strip() == fence else fence
        elif opened := re.match("`{3,}", line):
            fence = opened[0]
        if line or fence or (out and out[-1]):
            out.append(line)
    return "\n".join(out).strip() + "\n"


def _aligned(rows: list[str]) -> list[str]:
    grid = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]] for row in rows]
    if len({len(row) for row in grid}) != 1 or len(grid) < 2:
        return rows
    sides = ["r" if cell.endswith(":") else "l" for cell in grid[1]]
    body = [grid[0], *grid[2:]]
    widths = [min(_MAX_PADDING, max(3, *map(len, column))) for column in zip(*body, strict=True)]
    grid[1] = [
        "-" * (width - 1) + (":" if side == "r" else "-")
        for width, side in zip(widths, sides, strict=True)
    ]
    return [
        "| "
        + " | ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        )
        + " |"
        for row in grid
    ]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def verdict(value: object) -> Markdown:
    """A verdict's name, bold unless it is PASS."""
    name = escape(getattr(value, "value", value))
    return name if name == "PASS" else Markdown(f"**{name}**")


def moment(value: str) -> Markdown:
    """An ISO 8601 time in UTC, to the minute: `2025-01-02 03:04 UTC`."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)\S*\+00:00$", value)
    return Markdown(f"{found[1]} {found[2]} UTC") if found else escape(value)


# --- numbers --------------------------------------------------------------------------------------


def significant(value: float, digits: int = 3) -> Markdown:
    """`0.0381`, `12.3`, `1234`: this many digits, never fewer than its whole part, no exponent."""
    if value == 0:
        return Markdown("0")
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole >= digits:
        return Markdown(f"{value:.0f}")
    decimals = digits - whole
    if not whole:
        decimals += len(re.match(r"0*", f"{abs(value):.12f}"[2:])[0])  # type: ignore[index]
    return Markdown(f"{value:.{min(decimals, 9)}f}")


def milliseconds(value: float | None) -> Markdown | None:
    """A time without its unit, which the column's head has."""
    return None if value is None else significant(value)


def error(value: float | None) -> Markdown | None:
    """A mean absolute error."""
    if value is None:
        return None
    return Markdown("0" if value == 0 else f"{value:.1e}")


def ratio(
    value: float | None, low: float | None = None, high: float | None = None
) -> Markdown | None:
    """A speedup with its interval where there is one: `1.43x [1.38, 1.47]`."""
    if value is None:
        return None
    digits = 2 if value >= 0.1 else 4
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return Markdown(f"{value:.{digits}f}x{interval}")


def size(value: float | None) -> Markdown | None:
    """Bytes, in binary units."""
    if value is None:
        return None
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return Markdown(f"{value:.0f} B" if unit == "B" else f"{significant(value)} {unit}")
        value /= 1024
    return Markdown(f"{value:.1f} GiB")


def duration(value: float | None) -> Markdown | None:
    """Seconds as `0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if value is None:
        return None
    if value < 9.95:
        return Markdown(f"{value:.1f} s")
    seconds = round(value)
    if seconds < 60:
        return Markdown(f"{seconds} s")
    if seconds < 3600:
        return Markdown(f"{seconds // 60} min {seconds % 60:02d} s")
    return Markdown(f"{seconds // 3600} h {seconds % 3600 // 60:02d} min")

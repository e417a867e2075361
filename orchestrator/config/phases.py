"""`--phase 0-5`: which phases to run."""

from __future__ import annotations

import re

from orchestrator.config.hints import shown
from orchestrator.errors import UsageError

FIRST, LAST = 0, 5
_PART = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", re.ASCII)
_REMEDY = f"phases are {FIRST} to {LAST}; write one (2), several (1,2) or a range (0-2)"


def parse_phases(text: str) -> tuple[int, ...]:
    """Phase numbers named by `2`, `1,2`, `0-5` or `0,2-3`: sorted, each once."""
    asked = f"--phase {shown(text)}"
    chosen: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise UsageError(f"{asked}: {shown(part)} is no phase", remedy=_REMEDY)
        first = int(match[1])
        last = int(match[2] or first)
        for phase in (first, last):
            if not FIRST <= phase <= LAST:
                raise UsageError(f"{asked}: there is no phase {phase}", remedy=_REMEDY)
        if first > last:
            raise UsageError(
                f"{asked}: the range {first}-{last} is backwards",
                remedy=f"did you mean {last}-{first}?",
            )
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))

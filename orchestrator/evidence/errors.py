"""The one way in which evidence is refused."""

from __future__ import annotations


class EvidenceError(ValueError):
    """A file that cannot be read as the evidence it claims to be.

    The message names the file, and the line and column where they are known; `remedy` says what to
    do about it, where that is known.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str,
        line: int | None = None,
        column: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.column = column
        self.remedy = remedy
        where = [file]
        if line is not None:
            where.append(f"line {line}")
        if column is not None:
            where.append(f"column {column}")
        super().__init__(f"{', '.join(where)}: {problem}")

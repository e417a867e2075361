"""GPU targets: what a card of each may hold, and which a matrix covers by default."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Target:
    """A compute capability, and the figures that launchers and verdicts ask for."""

    capability: tuple[int, int]
    shared_limit: int
    """Bytes of shared memory that one program may have, opted in."""
    sm_count: int
    """Of the card named: launchers may split rows by it."""
    card: str
    required: bool
    """Whether every Triton has to know it; False where support came with a later version."""

    @property
    def number(self) -> int:
        """89 for 8.9, as Triton counts."""
        return self.capability[0] * 10 + self.capability[1]

    def __str__(self) -> str:
        return f"sm_{self.number}"


TARGETS = {
    str(target): target
    for target in (
        Target((8, 0), 163 * KIB, 108, "A100", required=True),
        Target((8, 6), 99 * KIB, 82, "RTX 3090", required=True),
        Target((8, 9), 99 * KIB, 128, "RTX 4090", required=True),
        Target((9, 0), 227 * KIB, 132, "H100, H200", required=True),
        Target((10, 0), 227 * KIB, 148, "B200", required=False),
        Target((12, 0), 99 * KIB, 170, "RTX 5090", required=False),
    )
}

VERSIONS = ("2.3.1", "3.0.0", "3.1.0", "3.3.1", "3.6.0", "3.9.0")
"""Versions of Triton that pods of the last two years carry, oldest first."""

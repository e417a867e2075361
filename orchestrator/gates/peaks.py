"""Which cards the rows of a file ran on, and what these can do at best."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from orchestrator.evidence.cards import Card, find_card, is_slice
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.gates.findings import Finding, listed, unverified

_HEADROOM = 2.0
"""On L2 bandwidths that were measured, and may have been measured better."""


class Peaks:
    """Of the cards that rows name, or that `device` names for those which name none.

    `l2_tb_per_s` is what the canary measured.
    """

    def __init__(self, rows: Rows[Row], device: str | None, l2_tb_per_s: float | None) -> None:
        self._device = device
        self._l2 = l2_tb_per_s
        names = dict.fromkeys(name or device for name in rows.column("device"))
        self._cards = {name: find_card(name) for name in names if name}

    def card(self, name: str | None) -> Card | None:
        """That of rows which say `name`; None where it is not known."""
        return self._cards.get(name or self._device or "")

    def l2_limit(self, card: Card) -> float | None:
        """The most that anyone can get out of L2: the vendor's figure, or measured ones with room.

        The canary times a plain reduction with its launch, others had a card of theirs.
        """
        known = [self._l2 * _HEADROOM] if self._l2 else []
        if card.l2 is not None:
            known.append(card.l2.tb_per_s * (_HEADROOM if card.l2.third_party else 1))
        return max(known, default=None)

    @property
    def whole(self) -> str:
        """What to say before a card's name, where it is not all of a card that ran."""
        return "whole " if any(map(is_slice, self._cards)) else ""

    def findings(self) -> Iterator[Finding]:
        """Cards whose peaks nobody knows."""
        unknown = [name for name, card in self._cards.items() if card is None]
        if unknown:
            # what a row says of itself goes before --device
            own = "Give the card's full name with --device, or add it to "
            yield unverified(
                f"No peaks are known of {listed(map(repr, unknown))}.",
                (own if self._device in unknown else "Add it to ")
                + "orchestrator/evidence/cards.py with its datasheet.",
            )

    def measured(self) -> dict[str, JsonValue]:
        """The numbers that times are held against."""
        known = [card for card in self._cards.values() if card]
        measured: dict[str, JsonValue] = {
            "cards": list[JsonValue](sorted({card.name for card in known})),
            "peaks": {
                card.name: f"{card.dram_tb_per_s:g} TB/s, L2 {card.l2_bytes >> 20} MiB "
                f"({card.source})"
                for card in known
            },
        }
        slices = [name for name in self._cards if is_slice(name)]
        if slices:
            measured["slice"] = f"{listed(slices)}: held against the peaks of the whole card"
        l2 = next((card.l2 for card in known if card.l2), None)
        if self._l2:
            measured["l2"] = f"{self._l2:g} TB/s, measured by the canary"
        elif l2 is not None:
            mark = " (third-party)" if l2.third_party else ""
            measured["l2"] = f"{l2.tb_per_s:g} TB/s, {l2.source}{mark}"
        return measured

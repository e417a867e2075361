"""Whether the cells had the card to themselves, where a container hides whose processes are whose.

A fast copy shows it. A part of a card (MIG) has its part of the memory's bandwidth, and its copy is
held against that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import JsonValue

from orchestrator.evidence.canary import PER_TERA, Canary
from orchestrator.evidence.cards import Card, find_card, is_slice
from orchestrator.evidence.foreign import Row
from orchestrator.evidence.rows import Rows
from orchestrator.evidence.telemetry import Telemetry
from orchestrator.gates.findings import Finding, unverified
from orchestrator.gates.samples import ALONE

QUIET_COPY = 0.7
"""Of the DRAM bandwidth: a copy that gets so much has the card, or its part of it, to itself."""
MOST_COPY = 1.25
"""Of a slice's share: a copy that gets more is not held to that share."""

_PROFILE = re.compile(r" mig (?:[0-9]c\.)?([1-7])g\.([0-9]+)gb\b", re.IGNORECASE | re.ASCII)
"""Compute slices and memory of a slice, `MIG 3g.71gb`; compute instances share theirs."""
_SLICES = 8
"""Parts that the memory of a card is divided into, and its bandwidth with it."""
_FEWEST = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}
"""Of those, by compute slices; there are profiles with more."""
_MEMORY_GB = {
    "A100 40GB": 40, "A100 80GB PCIe": 80, "A100 80GB SXM": 80,
    "H100 PCIe": 80, "H100 SXM": 80, "H100 NVL": 94, "H200": 141, "B200": 180,
}  # fmt: skip
"""What the profiles of each card count to: NVIDIA MIG User Guide, "Supported MIG Profiles"."""
_VISIBLE = (
    "Run the job where nvidia-smi sees the card's processes (the host, or a container with its "
    "process ids), or on a whole card."
)


def company_findings(
    rows: Rows[Row],
    telemetry: Telemetry | None,
    canary: Canary | None,
    measured: dict[str, JsonValue],
) -> Iterable[Finding]:
    """What is not known of others on the card while the cells of `rows` were timed."""
    samples = telemetry.samples if telemetry else ()
    if not samples or any(sample.foreign is not None for sample in samples):
        return
    device = rows[0].device or ""
    card, part = find_card(device), is_slice(device)
    share = _share(device, card) if part and card else 1.0
    hidden = "The telemetry does not say foreign_processes (a container may hide them), and "
    if share is None:
        yield unverified(
            f"{hidden}the name {device} does not tell which part of the card's bandwidth the "
            "slice has, so its canary cannot show that it was free.",
            _VISIBLE,
        )
        return
    copies = [
        probe.value * PER_TERA[probe.unit.lower()] / (card.dram_tb_per_s * share)
        for probe in (canary.probes if canary and card else ())
        if card and probe.probe == "copy" and probe.unit.lower() in PER_TERA
    ]
    whole = "the DRAM bandwidth" + (f" of {share:g} of the card" if part else "")
    if copies and part and max(copies) > MOST_COPY:
        yield unverified(
            f"{hidden}the canary's copy had {max(copies):.0%} of {whole}, more than {device} has: "
            "it cannot show that the slice was free.",
            _VISIBLE,
        )
    elif copies and min(copies) >= QUIET_COPY:
        had = f"the canary's copy had {min(copies):.0%} of {whole}"
        measured["foreign"] = f"not readable here; {had}"
    else:
        yield unverified(
            f"{hidden}no canary shows that the card was free: its copy must reach "
            f"{QUIET_COPY:.0%} of {whole}" + (f", and had {min(copies):.0%}." if copies else "."),
            ALONE,
        )


def _share(device: str, card: Card) -> float | None:
    """A slice's part of its card's memory, and so of the bandwidth; never less than it has."""
    profile = _PROFILE.search(device.replace("_", " "))
    fewest = _FEWEST.get(int(profile[1])) if profile else None
    total = _MEMORY_GB.get(card.name)
    if profile is None or fewest is None or total is None:
        return None
    slices = max(fewest, round(_SLICES * int(profile[2]) / total))
    return slices / _SLICES if slices <= _SLICES else None

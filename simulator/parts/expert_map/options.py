"""Options of expert placement."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text, whole


@described
@dataclass(frozen=True, slots=True)
class PlacementOptions(CheckedOptions):
    """Which devices hold which experts."""

    expert_placement: str | None = text(
        "Which devices hold which experts and copies: a name of `opbyte list expert-placements`, or "
        "file:PATH; balanced where there are copies, else in order.",
        "POLICY",
    )
    redundant_experts: int | None = whole(
        "Copies of a layer's experts over all devices; with the experts a multiple of ep.", 0, 1 << 16
    )
    expert_dispatch: str | None = text(
        "Copies that a token may go to: any, node (of its node if there are some) or local (of its "
        "device, else its node); any without it.",
        "RULE",
        choices=("any", "node", "local"),
    )

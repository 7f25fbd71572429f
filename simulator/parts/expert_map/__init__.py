"""Where experts and their copies lie, and what each serves."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text, whole
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class PlacementOptions(CheckedOptions):
    """Which devices hold which experts."""

    expert_placement: str | None = text(
        "Assignment of experts and their copies to devices: a name of `opbyte list expert-placements`, or "
        "file:PATH. Default: balanced if there are copies, else in order.",
        "POLICY",
    )
    redundant_experts: int | None = whole(
        "Additional copies of experts in each MoE layer, summed over devices. Experts plus copies must be a"
        " multiple of --ep.",
        0,
        1 << 16,
    )
    expert_dispatch: str | None = text(
        "Copies that a token may use: any (default), node (of its node if there are some) or local (of its "
        "device, else its node).",
        "RULE",
        choices=("any", "node", "local"),
    )


PARTS = (
    Part(
        "expert-copies",
        "--expert-placement, --redundant-experts",
        "placed experts and copies",
        options=PlacementOptions,
        scope="deployment",
        hooks={
            "value": "placing:placing_asked",
            "configure": "placing:checked_placing",
            "expert_copies": "placing:copies_of",
            "place_experts": "placing:place_experts",
            "lower": "placed:with_places",
            "slot_loads": "placed:slot_loads",
            "collect": "loads:placed_left",
            "step": "loads:placed_of_step",
            "figures": "loads:FIGURES",
        },
        page="wide-ep",
        tests=("simulator/test_expert_map", "simulator/test_eplb"),
        asked=lambda a: a.part("expert-copies"),
        also=("deploy/expert_parts",),
    ),
)

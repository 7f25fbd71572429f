"""Where experts and their copies lie, and what each serves."""

from __future__ import annotations

from ...part import Part
from .options import PlacementOptions

PARTS = (
    Part(
        "expert-copies",
        "--expert-placement, --redundant-experts",
        "placed experts and copies",
        options=PlacementOptions,
        scope="deployment",
        hooks={
            "value": "deployed:placing_asked",
            "configure": "deployed:checked_placing",
            "expert_copies": "deployed:copies_of",
            "place_experts": "deployed:place_experts",
            "lower": "placed:with_places",
            "slot_loads": "placed:slot_loads",
            "collect": "loads:placed_left",
            "step": "loads:placed_of_step",
            "figures": "figures:FIGURES",
        },
        page="wide-ep",
        tests=("simulator/test_expert_map", "simulator/test_eplb"),
        asked=lambda a: a.part("expert-copies"),
        also=("deploy/expert_parts",),
    ),
)

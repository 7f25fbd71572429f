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
        hooks={"collect": "loads:placed_left", "step": "loads:placed_of_step", "figures": "figures:FIGURES"},
        page="wide-ep",
        tests=("simulator/test_expert_map", "simulator/test_eplb"),
        asked=lambda a: a.of("placing"),
        also=("deploy/expert_parts",),
    ),
)

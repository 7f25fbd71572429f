"""Exchanges of a step in parallel with computation: ways, chunks, and their schedule, explicit and compiled."""

from __future__ import annotations

from ...part import Part
from .options import OverlapOptions

PARTS = (
    Part(
        "overlap",
        "--overlap",
        "exchanges beside computation",
        options=OverlapOptions,
        scope="deployment",
        hooks={
            "value": "deployed:overlap_asked",
            "configure": "deployed:read_overlap",
            "check": "deployed:check_overlap",
            "lower": "compiled:with_streams",
            "step_cost": "chunked:quickest_step",
            "collect": "use:overlap_left",
            "figures": "use:FIGURES",
            "figures_of": "use:figures",
        },
        page="overlap",
        tests=("simulator/test_overlap", "simulator/test_streams"),
        asked=lambda a: (way := a.part("overlap")) not in (None, "none") and f"--overlap {way}",
        also=("streams",),
        cannot={"experts-apart": "its micro-batches overlap already"},
    ),
)

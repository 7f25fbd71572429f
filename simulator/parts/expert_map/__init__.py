"""Where experts and their copies lie, and what each serves."""

from __future__ import annotations

from ..part import Part

PARTS = (
    Part(
        "expert-copies",
        "--expert-placement, --redundant-experts",
        "placed experts and copies",
        page="wide-ep",
        tests=("simulator/test_expert_map", "simulator/test_eplb"),
        asked=lambda a: a.of("placing"),
        also=("deploy/expert_parts",),
    ),
)

"""Speculative decoding: the drafter, the acceptance of drafts, and the results in a run."""

from __future__ import annotations

from ...part import Part
from .options import SpeculationOptions

PARTS = (
    Part(
        "drafts",
        "--speculative",
        "drafts that are verified with the next token",
        options=SpeculationOptions,
        hooks={
            "deployed": "speculating:with_drafts",
            "engine": "run:of_engine",
            "added_bytes": "speculation:added_bytes",
            "collect": "left:drafts_left",
            "figures": "left:FIGURES",
            "figures_of": "left:figures",
        },
        page="speculation",
        tests=("simulator/test_speculation", "analysis/test_speculation_answers"),
        asked=lambda a: (drafts := a.part("drafts")) and f"--speculative {drafts.asked}",
    ),
)

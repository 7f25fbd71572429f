"""Overlap of a step's exchanges with computation: ways to overlap, chunks, and their schedule (explicit and compiled)."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class OverlapOptions(CheckedOptions):
    """Options that choose which exchanges of a step overlap with computation."""

    overlap: str | None = text(
        "Overlap of communication with computation: none (default), pipelined:N, two-batch, two-batch:D,P "
        "(vLLM's thresholds), two-batch:alike or two-batch:decodes (SGLang's rules), or auto (the fastest).",
        "WAY",
    )


PARTS = (
    Part(
        "overlap",
        "--overlap",
        "exchanges in parallel with computation",
        options=OverlapOptions,
        scope="deployment",
        hooks={
            "value": "tracks:overlap_asked",
            "configure": "tracks:read_overlap",
            "check": "tracks:check_overlap",
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

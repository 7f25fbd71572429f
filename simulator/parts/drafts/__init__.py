"""Speculative decoding: the drafter, the acceptance of drafts, and the results in a run."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class SpeculationOptions(CheckedOptions):
    """Speculative decoding; see `workloads.speculators`."""

    speculative: str | None = text(
        "Speculative decoding with K draft tokens per step: mtp:K, eagle:K, ngram:K or draft:MODEL:K.", "METHOD:K"
    )
    acceptance: str | None = text(
        "Probability that each of the K draft tokens is accepted if those before it are, such as 0.8,0.6. "
        "Default: a column of the trace.",
        "RATES",
    )


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

"""Options of speculative decoding."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class SpeculationOptions(CheckedOptions):
    """Speculative decoding; see `workloads.speculators`."""

    speculative: str | None = text(
        "Speculative decoding with K drafts a step: mtp:K, eagle:K, ngram:K or draft:MODEL:K.", "METHOD:K"
    )
    acceptance: str | None = text(
        "Chance that each of the K drafts is accepted once those before it are, such as 0.8,0.6; "
        "without it a trace's column says.",
        "RATES",
    )

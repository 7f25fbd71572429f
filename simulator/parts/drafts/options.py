"""Options of speculative decoding."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


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

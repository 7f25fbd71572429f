"""Options of expert caches."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class ExpertCacheOptions(CheckedOptions):
    """Experts of which a device keeps some."""

    experts_resident: str | None = text(
        "Experts of each MoE layer in a device's memory, a count or a fraction; the others are in host memory.", "N"
    )
    expert_cache: str | None = text("A name of `opbyte list expert-caches`; lru without it.", "POLICY")
    expert_predictor: str | None = text(
        "Names the experts of a step ahead: share of those needed that it names, and of the others.",
        "ACCURACY[:FALSE_RATE]",
    )
    expert_horizon: str | None = text(
        "When it does: layer (as the layer before begins) or step (before the first layer).",
        "WHEN",
        choices=("layer", "step"),
    )

"""Options of expert caches."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class ExpertCacheOptions(CheckedOptions):
    """Experts of which a device keeps some."""

    experts_resident: str | None = text(
        "Experts of each MoE layer in a device's memory: a number, or a fraction such as 0.25. The others "
        "are in host memory.",
        "N",
    )
    expert_cache: str | None = text(
        "Eviction policy of the expert cache: a name of `opbyte list expert-caches`; default: lru.", "POLICY"
    )
    expert_predictor: str | None = text(
        "Prefetch predicted experts: ACCURACY is the share of the needed experts that are predicted, "
        "FALSE_RATE the share of the others; 0 to 1.",
        "ACCURACY[:FALSE_RATE]",
    )
    expert_horizon: str | None = text(
        "Start of the prefetch: layer (when the previous layer begins) or step (before the first layer; default).",
        "WHEN",
        choices=("layer", "step"),
    )

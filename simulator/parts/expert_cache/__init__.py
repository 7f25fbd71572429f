"""Expert cache: devices store some experts of each layer and load the others from host memory or disk."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text
from ...part import Part


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


PARTS = (
    Part(
        "resident-experts",
        "--experts-resident",
        "experts that come from the host's memory",
        options=ExpertCacheOptions,
        scope="deployment",
        hooks={
            "value": "use:store_asked",
            "configure": "use:checked_store",
            "elsewhere_bytes": "use:elsewhere_bytes",
            "lower": "fetch:with_cache",
            "engine": "fetch:EngineCaches",
            "waits": "fetched:fetch_in_step",
            "collect": "use:cache_left",
            "ops": "use:waiting",
            "step": "use:cache_of_step",
            "figures": "use:FIGURES",
        },
        page="expert-memory",
        tests=("simulator/test_expert_cache", "simulator/test_fetch"),
        asked=lambda a: a.part("resident-experts"),
        cannot={
            "experts-apart": "the devices of --experts-on have all experts in their memory",
            "overlap": "both halves of a batch would wait for experts, and engines that load experts do not split batches",
        },
    ),
)

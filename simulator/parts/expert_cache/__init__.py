"""Expert cache: devices store some experts of each layer and load the others from host memory or disk."""

from __future__ import annotations

from ...part import Part
from .options import ExpertCacheOptions

PARTS = (
    Part(
        "resident-experts",
        "--experts-resident",
        "experts that come from the host's memory",
        options=ExpertCacheOptions,
        scope="deployment",
        hooks={
            "value": "deployed:store_asked",
            "configure": "deployed:checked_store",
            "elsewhere_bytes": "deployed:elsewhere_bytes",
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
            "experts-apart": "an expert is in one place",
            "overlap": "a layer cut in two waits for experts twice, and engines that bring them cut none",
        },
    ),
)

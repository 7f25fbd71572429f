"""Two pools: prompts on some devices, answers on others, caches moved between them."""

from __future__ import annotations

from ...part import Combination, Part
from .options import PoolOptions


def _asked(a: Combination) -> str:
    if a.of("pools"):
        return f"the two pools of {a.of('system').name}"
    return "--prefill and --decode" if getattr(a.pools, "decode", ()) else ""


PARTS = (
    Part(
        "two-pools",
        "--prefill, --decode",
        "prompts and answers on devices of their own",
        options=PoolOptions,
        panel="Prefill and decode pools",
        hooks={
            "arrange": "asked:arranged",
            "collect": "run:pools_left",
            "request_columns": "run:request_columns",
            "figures": "figures:FIGURES",
        },
        page="disaggregation",
        tests=("simulator/test_disaggregation", "simulator/test_own_pools", "analysis/test_pools"),
        asked=_asked,
    ),
)

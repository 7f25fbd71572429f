"""P/D disaggregation: prefill on some devices, decode on others, with KV transfers between them."""

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
        "prefill and decode on separate devices (P/D disaggregation)",
        options=PoolOptions,
        panel="Prefill and decode pools",
        hooks={
            "arrange": "asked:arranged",
            "between": "kv_transfer:between",
            "collect": "run:pools_left",
            "request_columns": lambda left: {"kv_start_s": left.moves.start_s, "kv_end_s": left.moves.end_s},
            "figures": "run:FIGURES",
        },
        page="disaggregation",
        tests=("simulator/test_disaggregation", "simulator/test_own_pools", "analysis/test_pools"),
        asked=_asked,
    ),
)

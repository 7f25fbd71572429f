"""P/D disaggregation: prefill on some devices, decode on others, with KV transfers between them."""

from __future__ import annotations

from dataclasses import dataclass

from ...limits import MAX_SEQUENCES
from ...option import CheckedOptions, described, text, whole
from ...part import Combination, Part


@described
@dataclass(frozen=True, slots=True)
class PoolOptions(CheckedOptions):
    """Two pools instead of one system: one for prefill, one for decode; see `parts.two_pools.asked`."""

    prefill: str | None = text("System of the prefill pool, with its number of replicas.", "SYSTEM[xN]")
    decode: str | None = text("System of the decode pool, with its number of replicas.", "SYSTEM[xN]")
    kv_link: str | None = text(
        "Link of KV transfers between the pools: its name, free, or bandwidth [GB/s] and latency [us] of a "
        "device. Default: the slower of both networks.",
        "NAME|RATE[,US]",
    )
    kv_overlap: str | None = text(
        "Start of a KV transfer: layers (each layer's cache when its prefill ends) or none (after the whole"
        " prefill; default).",
        "WAY",
        choices=("layers", "none"),
    )
    prefill_tp: int | None = whole("--tp of the prefill pool.")
    prefill_dp: int | None = whole("--dp of the prefill pool.")
    prefill_ep: int | None = whole("--ep of the prefill pool.")
    prefill_pp: int | None = whole("--pp of the prefill pool.")
    prefill_policy: str | None = text("--policy of the prefill pool.", "NAME")
    prefill_engine: str | None = text("--engine of the prefill pool.", "FILE", file=True)
    prefill_token_budget: int | None = whole("--token-budget of the prefill pool.", 1)
    prefill_max_seqs: int | None = whole("--max-seqs of the prefill pool.", 1, MAX_SEQUENCES)
    prefill_autoscale: str | None = text("--autoscale of the prefill pool.", "MIN:MAX,KEY=VALUE,...")
    decode_tp: int | None = whole("--tp of the decode pool.")
    decode_dp: int | None = whole("--dp of the decode pool.")
    decode_ep: int | None = whole("--ep of the decode pool.")
    decode_pp: int | None = whole("--pp of the decode pool.")
    decode_policy: str | None = text("--policy of the decode pool.", "NAME")
    decode_engine: str | None = text("--engine of the decode pool.", "FILE", file=True)
    decode_token_budget: int | None = whole("--token-budget of the decode pool.", 1)
    decode_max_seqs: int | None = whole("--max-seqs of the decode pool.", 1, MAX_SEQUENCES)
    decode_autoscale: str | None = text("--autoscale of the decode pool.", "MIN:MAX,KEY=VALUE,...")


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

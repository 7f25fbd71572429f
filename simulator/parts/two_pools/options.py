"""Options of prefill and decode pools."""

from __future__ import annotations

from dataclasses import dataclass

from ...limits import MAX_SEQUENCES
from ...option import CheckedOptions, described, text, whole


@described
@dataclass(frozen=True, slots=True)
class PoolOptions(CheckedOptions):
    """Two pools instead of one system: one for prefill, one for decode; see `parts.two_pools.asked`."""

    prefill: str | None = text("System that takes prompts, and how many of it.", "SYSTEM[xN]")
    decode: str | None = text("System that goes on after the first token.", "SYSTEM[xN]")
    kv_link: str | None = text(
        "What KV caches cross between them: a link's name, free, or a device's rate [GB/s] and "
        "latency [us]; the slower of their networks without it.",
        "NAME|RATE[,US]",
    )
    kv_overlap: str | None = text(
        "layers (a layer's cache leaves as soon as the prompt has passed it) or none.",
        "WAY",
        choices=("layers", "none"),
    )
    prefill_tp: int | None = whole("As --tp, of the devices that prefill.")
    prefill_dp: int | None = whole("As --dp, of the devices that prefill.")
    prefill_ep: int | None = whole("As --ep, of the devices that prefill.")
    prefill_pp: int | None = whole("As --pp, of the devices that prefill.")
    prefill_policy: str | None = text("As --policy, where prompts run.", "NAME")
    prefill_engine: str | None = text("As --engine, where prompts run.", "FILE", file=True)
    prefill_token_budget: int | None = whole("As --token-budget, where prompts run.", 1)
    prefill_max_seqs: int | None = whole("As --max-seqs, where prompts run.", 1, MAX_SEQUENCES)
    prefill_autoscale: str | None = text("As --autoscale, of the systems that prefill.", "MIN:MAX,KEY=VALUE,...")
    decode_tp: int | None = whole("As --tp, of the devices that decode.")
    decode_dp: int | None = whole("As --dp, of the devices that decode.")
    decode_ep: int | None = whole("As --ep, of the devices that decode.")
    decode_pp: int | None = whole("As --pp, of the devices that decode.")
    decode_policy: str | None = text("As --policy, where decodes run.", "NAME")
    decode_engine: str | None = text("As --engine, where decodes run.", "FILE", file=True)
    decode_token_budget: int | None = whole("As --token-budget, where decodes run.", 1)
    decode_max_seqs: int | None = whole("As --max-seqs, where decodes run.", 1, MAX_SEQUENCES)
    decode_autoscale: str | None = text("As --autoscale, of the systems that decode.", "MIN:MAX,KEY=VALUE,...")

"""Values of prefill and decode pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...quantity import Figures, Quantity


def _layout(name: str) -> Quantity:
    return Quantity(name, f"Its {name}.", lambda p: getattr(p.deployment.layout, name))


def _busy(pool: int) -> Callable[[Any], Any]:
    return lambda t: t.pools[pool].stepping


POOL = (
    Quantity("name", "prefill or decode.", label="pool"),
    Quantity("system", "Its system.", "deployment.system.name", label="on"),
    Quantity("replicas", "Its engines.", label="engines"),
    Quantity("devices", "Their devices.", label="devices"),
    Quantity("policy", "Its policy.", "policy.name"),
    *map(_layout, ("tp", "dp", "ep", "pp")),
    Quantity("utilisation", "Share of the time in steps.", "stepping", "%", "in steps"),
    Quantity("port_utilisation", "Share of the run that a port of the link is busy.", "sending", "%", "port busy"),
    Quantity("kv_peak_fraction", "Most of its KV cache in use.", "kv_peak", "%", "KV at most"),
    Quantity("iterations", "Its steps.", label="steps"),
    Quantity("preemptions", "Its preemptions."),
    Quantity("prompt_tokens", "Prompt tokens that it computed."),
    Quantity("output_tokens", "Tokens that it made."),
)  # fmt: skip
LINK = (
    Quantity("name", "Its name.", "link.name", label="KV link"),
    Quantity("bytes_per_s", "Rate of one device, one way [B/s].",
             lambda m: m.link.bandwidth_bytes_per_s if m.link.paced else None, "B/s", "rate"),
    Quantity("latency_s", "Latency of one cache [s].", "link.latency_s"),
    Quantity("overlap", "Whether layers leave one by one.", lambda m: "layers" if m.link.by_layer else "none", label="overlap"),
    Quantity("caches", "KV caches transferred.", "count", label="caches"),
    Quantity("bytes", "Bytes transferred [B].", "total_bytes", "B", "transferred"),
    Quantity("wait_s", "Wait of a cache for the link [s].", "wait_s", "s", "wait"),
    Quantity("transfer_s", "Time of its transfer [s].", "transfer_s", "s", "transfer"),
    Quantity("share_of_latency", "Share of requests' time that both take.", "share", "%", "of the requests' time"),
)  # fmt: skip
FIGURES = Figures("", "Prefill and decode pools", (
    Quantity("pools", "Both pools.", lambda t: list(t.pools), inside=POOL),
    Quantity("kv_link", "The link between them.", "moves", inside=LINK),
    Quantity("limiting_pool", "The pool that more load would fill first.", "limiting", label="more load fills first"),
), (
    Quantity("prefill_utilisation", "Share of the time that the pool of prompts is busy.", _busy(0), column=True),
    Quantity("decode_utilisation", "Share of the time that the pool of decodes is busy.", _busy(1), column=True),
    Quantity("kv_wait_s_mean", "Mean wait of a KV cache for the link between pools [s].", "moves.wait_s.mean", column=True),
    Quantity("kv_transfer_s_mean", "Mean time of its transfer [s].", "moves.transfer_s.mean", column=True),
    Quantity("kv_share_of_latency", "Share of a request's time that its transfer takes.", "moves.share", column=True),
    Quantity("limiting_pool", "The pool that more load would fill first.", "limiting", column=True),
), "prefill", "it is of two pools (prefill and decode)", "intervals", late=True)  # fmt: skip

"""Reported values of KV cache tiers."""

from __future__ import annotations

from ...quantity import Figures, Quantity, ratio
from .run import TiersRun


def _rate(name: str, where: str) -> Quantity:
    """Declare the share of the requested prompt tokens that one tier supplied; its value is None without the tier."""

    def value(run: TiersRun) -> float | None:
        return next((tier.hit_rate for tier in run.tiers if tier.tier.name == name), None)

    return Quantity(f"kv_hit_rate_{name}", f"Share that came from {where}.", value, column=True)


TIER = (
    Quantity("name", "The tier.", "tier.name", label="tier"),
    Quantity("capacity_bytes", "Its size [B].", unit="B", label="size"),
    Quantity("peak_bytes", "Most that it held [B].", unit="B", label="peak"),
    Quantity("bandwidth_bytes_per_s", "Rate of its link, of one device, one way [B/s].",
             lambda t: t.tier.bandwidth_bytes_per_s if t.tier.paced else None, "B/s", "link"),
    Quantity("latency_s", "Latency of one transfer [s].", "tier.latency_s", "s", "latency"),
    Quantity("link", "Source of both.", "tier.source"),
    Quantity("hit_tokens", "Prompt tokens that came from it."),
    Quantity("hit_rate", "Share of the prompt tokens asked for that came from it.", unit="%", label="hits"),
    Quantity("loaded_bytes", "Bytes loaded from it [B].", unit="B", label="loaded"),
    Quantity("stored_bytes", "Bytes written to it [B].", unit="B", label="stored"),
    Quantity("evicted_bytes", "Bytes that made room for others [B]."),
    Quantity("prefetched_bytes", "Bytes brought to it ahead of a request [B]."),
    Quantity("link_up_s", "Time that its link loaded [s].", "up_s"),
    Quantity("link_down_s", "Time that its link stored [s].", "down_s"),
)  # fmt: skip
FIGURES = Figures("kv_tiers", "KV cache tiers", (
    Quantity("write", "When blocks are written to tiers.", "settings.write", label="write"),
    Quantity("load", "When blocks are loaded from tiers.", "settings.load", label="load"),
    Quantity("prefetch", "Whether blocks are brought to the first tier ahead.", "settings.prefetch"),
    Quantity("hit_rate", "Share of the prompt tokens asked for that were found somewhere.", unit="%", label="prompt tokens found"),
    Quantity("hbm", "What the devices' own memory had.", lambda r: r, inside=(
        Quantity("hit_tokens", "Prompt tokens found there.", "near_tokens"),
        Quantity("hit_rate", "Their share.", "near_rate", "%", "of them in HBM"),
    )),
    Quantity("tiers", "Each tier.", inside=TIER),
    Quantity("declined_tokens", "Tokens that were in a tier and were computed sooner.", label="tokens computed sooner"),
    Quantity("loads", "Requests that waited for blocks.", label="loads"),
    Quantity("load_wait_s_mean", "Mean time from a load's order to its end [s].",
             lambda r: ratio(r.waited_s, r.loads), "s", "mean load"),
    Quantity("load_wait_s_max", "Longest such time [s].", "longest_s", "s", "longest load"),
    Quantity("load_wait_s_total", "Sum of such times [s].", "waited_s"),
    Quantity("steps_held_s", "Time that steps waited for blocks to be copied [s].", "held_s", "s", "steps waited"),
), (
    Quantity("kv_hit_rate", "Share of the prompt tokens asked for that were found somewhere.", "hit_rate", column=True),
    Quantity("kv_hit_rate_hbm", "Share that was found in the devices' own memory.", "near_rate", column=True),
    _rate("host", "the host's memory"), _rate("disk", "the disk"), _rate("shared", "the shared pool"),
    Quantity("kv_loaded_bytes", "Bytes loaded from tiers.", lambda r: sum(t.loaded_bytes for t in r.tiers), column=True),
    Quantity("kv_stored_bytes", "Bytes written to tiers.", lambda r: sum(t.stored_bytes for t in r.tiers), column=True),
    Quantity("kv_load_wait_s_mean", "Mean time from a load's order to its end [s].",
             lambda r: ratio(r.waited_s, r.loads), column=True),
    Quantity("kv_steps_held_s", "Time that steps waited for blocks to be copied [s].", "held_s", column=True),
), "kv_tiers", "it is of a KV cache with tiers (kv_tiers)")  # fmt: skip

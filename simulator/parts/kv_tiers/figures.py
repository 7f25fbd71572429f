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
    Quantity("name", "Name of the tier.", "tier.name", label="tier"),
    Quantity("capacity_bytes", "Capacity of the tier [B].", unit="B", label="size"),
    Quantity("peak_bytes", "Largest number of bytes stored in the tier [B].", unit="B", label="peak"),
    Quantity("bandwidth_bytes_per_s", "Bandwidth of the tier's link per device, one way [B/s].",
             lambda t: t.tier.bandwidth_bytes_per_s if t.tier.paced else None, "B/s", "link"),
    Quantity("latency_s", "Latency of one transfer [s].", "tier.latency_s", "s", "latency"),
    Quantity("link", "Source of bandwidth and latency.", "tier.source"),
    Quantity("hit_tokens", "Prompt tokens loaded from the tier."),
    Quantity("hit_rate", "Prompt tokens loaded from the tier over all prompt tokens.", unit="%", label="hits"),
    Quantity("loaded_bytes", "Bytes loaded from the tier [B].", unit="B", label="loaded"),
    Quantity("stored_bytes", "Bytes written to the tier [B].", unit="B", label="stored"),
    Quantity("evicted_bytes", "Bytes evicted from the tier [B]."),
    Quantity("prefetched_bytes", "Bytes prefetched to the tier from lower tiers [B]."),
    Quantity("link_up_s", "Time that the tier's link was busy with loads [s].", "up_s"),
    Quantity("link_down_s", "Time that the tier's link was busy with writes [s].", "down_s"),
)  # fmt: skip
FIGURES = Figures("kv_tiers", "KV cache tiers", (
    Quantity("write", "When blocks are written to tiers.", "settings.write", label="write"),
    Quantity("load", "When blocks are loaded from tiers.", "settings.load", label="load"),
    Quantity("prefetch", "Whether blocks are prefetched to the first tier.", "settings.prefetch"),
    Quantity("hit_rate", "Prompt tokens found in device memory or a tier over all prompt tokens.", unit="%", label="prompt tokens found"),
    Quantity("hbm", "Hits in device memory.", lambda r: r, inside=(
        Quantity("hit_tokens", "Prompt tokens found in device memory.", "near_tokens"),
        Quantity("hit_rate", "Prompt tokens found in device memory over all prompt tokens.", "near_rate", "%", "of them in HBM"),
    )),
    Quantity("tiers", "Values of each tier.", inside=TIER),
    Quantity("declined_tokens", "Prompt tokens found in a tier but recomputed, because that was faster.", label="tokens computed sooner"),
    Quantity("loads", "Requests that loaded blocks from a tier.", label="loads"),
    Quantity("load_wait_s_mean", "Mean time from the request of a load to its completion [s].",
             lambda r: ratio(r.waited_s, r.loads), "s", "mean load"),
    Quantity("load_wait_s_max", "Longest time from the request of a load to its completion [s].", "longest_s", "s", "longest load"),
    Quantity("load_wait_s_total", "Sum of the times from the request of a load to its completion [s].", "waited_s"),
    Quantity("steps_held_s", "Time that steps waited for copies of the blocks that they overwrite [s].", "held_s", "s", "steps waited"),
), (
    Quantity("kv_hit_rate", "Prompt tokens found in device memory or a tier over all prompt tokens.", "hit_rate", column=True),
    Quantity("kv_hit_rate_hbm", "Prompt tokens found in device memory over all prompt tokens.", "near_rate", column=True),
    _rate("host", "the host's memory"), _rate("disk", "the disk"), _rate("shared", "the shared pool"),
    Quantity("kv_loaded_bytes", "Bytes loaded from all tiers [B].", lambda r: sum(t.loaded_bytes for t in r.tiers), column=True),
    Quantity("kv_stored_bytes", "Bytes written to all tiers [B].", lambda r: sum(t.stored_bytes for t in r.tiers), column=True),
    Quantity("kv_load_wait_s_mean", "Mean time from the request of a load to its completion [s].",
             lambda r: ratio(r.waited_s, r.loads), column=True),
    Quantity("kv_steps_held_s", "Time that steps waited for copies of the blocks that they overwrite [s].", "held_s", column=True),
), "kv_tiers", "it is of a KV cache with tiers (kv_tiers)")  # fmt: skip

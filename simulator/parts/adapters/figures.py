"""Values of adapters, of a run or of one step."""

from __future__ import annotations

from ...quantity import Figures, Quantity
from .use import AdaptersUse

HELD = (
    Quantity("adapters", "Adapters of tenants.", "tenants.adapters", label="adapters"),
    Quantity("rank", "Their rank.", "tenants.rank", label="rank"),
    Quantity("resident", "Adapters that a device has room for.", "tenants.resident", label="in memory"),
    Quantity("popularity", "How requests that name none choose.", "tenants.popularity"),
    Quantity("bytes_each", "Bytes of one on a device [B].", unit="B", label="each"),
    Quantity("resident_bytes", "Bytes of those in its memory [B].", unit="B", label="all in memory"),
)  # fmt: skip
FIGURES = Figures("adapters", "Adapters", HELD)
SWAPPED = Figures("adapters", "Adapters", (
    *HELD,
    Quantity("hit_rate", "Share of the requests whose adapter was in memory.",
             lambda a: a.counts.hits / a.counts.asked if a.counts.asked else 1.0, "%", "hits"),
    Quantity("loads", "Adapters brought.", "counts.loads", label="loads"),
    Quantity("loaded_bytes", "Bytes brought [B].", lambda a: a.counts.loads * a.bytes_each, "B", "brought"),
    Quantity("link_s", "Time that the link was busy [s].", "counts.link_s", "s", "link busy"),
    Quantity("waited_s", "Time that requests waited [s].", "counts.waited_s", "s", "requests waited in all"),
))  # fmt: skip


def figures(use: AdaptersUse) -> Figures:
    """Adapters that wait for slots have more values."""
    return FIGURES if use.counts is None else SWAPPED

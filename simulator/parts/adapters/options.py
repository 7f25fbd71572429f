"""Options of adapters."""

from __future__ import annotations

from dataclasses import dataclass

from ...limits import MAX_ADAPTERS
from ...option import CheckedOptions, described, text, whole


@described
@dataclass(frozen=True, slots=True)
class AdapterOptions(CheckedOptions):
    """LoRA adapters of tenants."""

    adapters: int | None = whole("Number of LoRA adapters; each request uses one.", 1, MAX_ADAPTERS)
    adapter_rank: int | None = whole("Rank of the adapters; default: 16.", 1, 65_536)
    adapters_resident: int | None = whole(
        "Adapters that fit in a device's memory; the others are loaded from host memory. Default: all.", 1, MAX_ADAPTERS
    )
    adapter_popularity: str | None = text(
        "Popularity of adapters among requests that name none: uniform (default) or power_law:S.", "POPULARITY"
    )

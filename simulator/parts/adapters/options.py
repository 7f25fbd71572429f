"""Options of adapters."""

from __future__ import annotations

from dataclasses import dataclass

from ...limits import MAX_ADAPTERS
from ...option import CheckedOptions, described, text, whole


@described
@dataclass(frozen=True, slots=True)
class AdapterOptions(CheckedOptions):
    """LoRA adapters of tenants."""

    adapters: int | None = whole("LoRA adapters of tenants, one of which a request uses.", 1, MAX_ADAPTERS)
    adapter_rank: int | None = whole("Their rank; 16 without it.", 1, 65_536)
    adapters_resident: int | None = whole(
        "Adapters that a device has room for; the others come from the host's memory.", 1, MAX_ADAPTERS
    )
    adapter_popularity: str | None = text("How requests that name none choose: uniform or power_law:S.", "POPULARITY")

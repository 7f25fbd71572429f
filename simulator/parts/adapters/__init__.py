"""LoRA adapters, all in device memory or loaded from host memory."""

from __future__ import annotations

from dataclasses import dataclass

from ...limits import MAX_ADAPTERS
from ...option import CheckedOptions, described, text, whole
from ...part import Part


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


PARTS = (
    Part(
        "adapters",
        "--adapters",
        "LoRA adapters, all in the devices' memory",
        options=AdapterOptions,
        scope="deployment",
        hooks={
            "engine_requests": "run:known",
            "nodes": "run:by_names",
            "stage": "run:shelve",
            "value": "use:tenants_asked",
            "adapt_model": "use:adapted",
            "check": "use:check_adapters",
            "collect": "use:adapters_left",
            "step": "use:adapters_of_step",
            "figures": "use:SWAPPED",
            "figures_of": "use:figures",
        },
        page="adapters",
        tests=("simulator/test_adapter_paths",),
        asked=lambda a: a.part("adapters"),
    ),
    Part(
        "resident-adapters",
        "--adapters-resident",
        "adapters that come from the host's memory",
        page="adapters",
        tests=("simulator/test_adapter_serving",),
        asked=lambda a: getattr(a.part("adapters"), "swapped", False),
    ),
)

"""LoRA adapters, all in the devices' memory or coming from the host's."""

from __future__ import annotations

from ...part import Part
from .options import AdapterOptions

PARTS = (
    Part(
        "adapters",
        "--adapters",
        "LoRA adapters, all in the devices' memory",
        options=AdapterOptions,
        scope="deployment",
        hooks={
            "collect": "use:adapters_left",
            "step": "use:adapters_of_step",
            "figures": "figures:SWAPPED",
            "figures_of": "figures:figures",
        },
        page="adapters",
        tests=("simulator/test_adapter_paths",),
        asked=lambda a: a.of("tenants"),
        also=("serving/host_link",),
    ),
    Part(
        "resident-adapters",
        "--adapters-resident",
        "adapters that come from the host's memory",
        page="adapters",
        tests=("simulator/test_adapter_serving",),
        asked=lambda a: getattr(a.of("tenants"), "swapped", False),
    ),
)

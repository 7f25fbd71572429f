"""LoRA adapters, all in device memory or loaded from host memory."""

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

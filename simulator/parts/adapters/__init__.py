"""LoRA adapters, all in the devices' memory or coming from the host's."""

from __future__ import annotations

from ..part import Combination, Part


def _asked(a: Combination) -> str:
    return "--adapters" if a.deployment and a.deployment.tenants is not None else ""


def _swapped(a: Combination) -> str:
    return "--adapters-resident" if _asked(a) and a.deployment.tenants.swapped else ""


PARTS = (
    Part(
        "adapters",
        "--adapters",
        "LoRA adapters, all in the devices' memory",
        page="adapters",
        tests=("simulator/test_adapter_paths",),
        asked=_asked,
        also=("serving/host_link",),
    ),
    Part(
        "resident-adapters",
        "--adapters-resident",
        "adapters that come from the host's memory",
        page="adapters",
        tests=("simulator/test_adapter_serving",),
        asked=_swapped,
    ),
)

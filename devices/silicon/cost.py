"""What a device costs to make: dies with their yield, memory, package and test. Estimates, all of them."""

from __future__ import annotations

import math

import numpy as np

from ..spec import DeviceSpec
from .area import LOGIC
from .constants import constants
from .spec import SiliconSpec

STACKED = ("hbm2", "hbm3", "hbm3e", "hbm4")
SPARE = (*LOGIC, "registers", "local memory")
"""Parts of cores: what can be switched off."""


def dies_per_wafer(area: float) -> float:
    """Return the whole dies of `area` mm2 on a wafer.

    Examples
    --------
    >>> round(dies_per_wafer(826), 1), round(dies_per_wafer(478), 1)
    (62.4, 117.4)
    """
    across = constants().cost["wafer_mm"]
    return math.pi * across**2 / 4 / area - math.pi * across / math.sqrt(2 * area)


def whole_yield(area: float) -> float:
    """Return the share of dies of `area` mm2 without a defect (negative binomial).

    Examples
    --------
    >>> round(whole_yield(826 * 0.9), 2)
    0.49
    """
    c = constants().cost
    return float((1 + area * c["defects_per_mm2"] / c["cluster"]) ** -c["cluster"])


def die_USD(node: str, parts: dict[str, float], enabled: float) -> float:
    """Return the cost of one good die; if cores may be disabled, only a defect outside of them is fatal."""
    area = sum(parts.values())
    count = dies_per_wafer(area)
    if count < 1:
        return math.inf
    spared = sum(parts.get(name, 0.0) for name in SPARE) if enabled < 1 else 0.0
    return constants().nodes[node].wafer_USD / count / whole_yield(area - spared)


def cost_parts(
    device: DeviceSpec, silicon: SiliconSpec, dies: list[tuple[str, int, dict[str, float]]], near_mm2: float = 0.0
) -> dict[str, float]:
    """Parts of a device's cost [USD]; `dies` are node, count and parts of each kind.

    Units near memory take `near_mm2` of N7 in dies that exist in any case; the cost of a wafer is shared by area.
    """
    c = constants().cost
    area = sum(count * sum(parts.values()) for _, count, parts in dies)
    logic = sum(n * die_USD(node, parts, silicon.enabled) for node, n, parts in dies)
    memory = device.memory.capacity_bytes / 1e9 * constants().USD_per_GB[silicon.memory]
    if silicon.memory in STACKED:
        under = (area + device.memory.stacks * c["stack_mm2"]) * c["interposer_margin"]
        package = under * c["interposer_USD_per_mm2"]
    else:
        package = area * c["organic_USD_per_mm2"]
    near = near_mm2 * constants().nodes["N7"].wafer_USD / (math.pi * c["wafer_mm"] ** 2 / 4)
    known = {"dies": logic, "memory": memory, "units near memory": near, "package": package}
    return known | {"test and the rest": sum(known.values()) * c["test_share"]}


def cost_spread(computed: dict[str, float]) -> float:
    """Share that 80 % of costs found stay within of the published estimates."""
    published = constants().published_USD
    errors = [abs(computed[name] / published[name] - 1) for name in published if name in computed]
    return float(np.quantile(errors, 0.8))

"""Area, power and cost of a device, each with its parts and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..catalog import load_device
from ..spec import DeviceSpec
from .area import LOGIC, area_model, die_of, die_parts, is_near, near_parts
from .constants import SiliconSpec, constants
from .power import main_of, power_law, power_parts

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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with what it is the sum of.

    Attributes
    ----------
    value : float or None
        None where the description does not say enough.
    interval : tuple of float or None
        What 80 % of the known devices left out of its model stay within.
    why : str
        Missing input if the value is None, else its basis.
    """

    value: float | None
    interval: tuple[float, float] | None
    parts: Mapping[str, float]
    why: str

    def mixed(self, other: Estimate, share: float) -> Estimate:
        """The mean of two, `share` of it this one."""
        if self.value is None or other.value is None:
            return self if self.value is None else other
        ends = zip(self.interval or (), other.interval or (), strict=True)
        low, high = (share * a + (1 - share) * b for a, b in ends)
        names = dict.fromkeys((*self.parts, *other.parts))
        parts = {n: share * self.parts.get(n, 0.0) + (1 - share) * other.parts.get(n, 0.0) for n in names}
        value = share * self.value + (1 - share) * other.value
        return Estimate(value, (low, high), parts, self.why)

    def to_dict(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "interval": interval, "parts": dict(self.parts), "why": self.why}


@dataclass(frozen=True, slots=True)
class Silicon:
    """Area [mm2], power at full load [W] and cost [USD] of one device."""

    area_mm2: Estimate
    watts: Estimate
    usd: Estimate

    def values(self) -> dict[str, float | None]:
        return {n: getattr(self, n).value for n in ("area_mm2", "watts", "usd")}

    def mixed(self, other: Silicon, share: float) -> Silicon:
        """Of the mean device, where `share` of them are such and the rest another's."""
        quantities = ("area_mm2", "watts", "usd")
        return Silicon(*(getattr(self, n).mixed(getattr(other, n), share) for n in quantities))


NO_DIES = "has no value: no `silicon:` block says what is on its dies"
NO_PROCESS = "has no value: the description gives no process"


def silicon_of(device: DeviceSpec) -> Silicon:
    """Estimate area, power and cost of a device from its description."""
    return Silicon(_area(device), _power(device), _cost(device))


def near_of(device: DeviceSpec) -> dict[str, float]:
    """Parts of units near memory, of all stacks of a device [mm2]."""
    return {
        f"{name} {part}": area * device.memory.stacks
        for name, p in device.processors.items()
        if is_near(p)
        for part, area in near_parts(p, device).items()
    }


def _around(value: float, spread: float) -> tuple[float, float]:
    return value * (1 - spread), value * (1 + spread)


def _area(device: DeviceSpec) -> Estimate:
    dies, beside = die_parts(device), near_of(device)
    parts, near = dict(beside), sum(beside.values())
    for _, count, die_areas in dies:
        for name, area in die_areas.items():
            parts[name] = parts.get(name, 0.0) + count * area
    parts = {name: area for name, area in parts.items() if area > 0}
    if not dies and main_of(device) is not None:
        return Estimate(None, None, parts, f"area_mm2 of {device.name} {NO_DIES}")
    value, model = sum(parts.values()), area_model()
    low, high = _around(value - near, model.spread)
    text = (
        f"fitted to {len(model.left_out)} published dies, 80 % of which are within "
        f"{model.spread:.0%} when left out; units near memory to Duplex's (MICRO 2024)"
    )
    return Estimate(value, (low + near * 0.75, high + near * 1.25), parts, text)


def _power(device: DeviceSpec) -> Estimate:
    process = process_of(device)
    if main_of(device) is not None and (process is None or not die_parts(device)):
        lacking = NO_PROCESS if process is None else NO_DIES
        return Estimate(None, None, {}, f"watts of {device.name} {lacking}")
    parts, law = power_parts(device, process or "N7"), power_law()
    value = sum(parts.values())
    text = (
        f"fitted to the limits of {len(law.left_out)} products, 80 % of which are within "
        f"{law.spread:.0%} when their die is left out"
    )
    return Estimate(value, _around(value, law.spread), parts, text)


def process_of(device: DeviceSpec) -> str | None:
    """Return the process of a device's cores: what it names, or its first die's."""
    if device.process is not None or device.silicon is None or not device.silicon.dies:
        return device.process
    node = die_of(device.silicon.dies[0]).node
    return "N7" if node in ("16FF", "12FFN") else node  # older ones have no energy: N7's is a floor


def _cost(device: DeviceSpec) -> Estimate:
    silicon = device.silicon
    if silicon is None:
        return Estimate(None, None, {}, f"usd of {device.name} {NO_DIES}")
    near = sum(near_of(device).values())
    parts, spread = cost_parts(device, silicon, die_parts(device), near), _cost_spread()
    value = sum(parts.values())
    text = (
        f"80 % of {len(constants().published_USD)} published estimates of products are within "
        f"{spread:.0%}; estimates of analysts, all of them secondary"
    )
    return Estimate(value, _around(value, spread), parts, text)


@cache
def _cost_spread() -> float:
    """How far the model is from the published estimates of the catalog's products."""
    spreads = {}
    for name in constants().published_USD:
        spec, _ = load_device(name)
        if spec.silicon is not None:
            spreads[name] = sum(cost_parts(spec, spec.silicon, die_parts(spec)).values())
    return cost_spread(spreads)

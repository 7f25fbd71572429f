"""Area, power and cost of a device, each with its parts and an interval.

Power of a device at full load from its peaks, memory and process: the power that its board must supply.

Dynamic power of matrix units and lanes scales with the process as in `devices.power`, memory and links take their
bandwidth times their energy per bit; leakage, clocks and power supply scale with the area. The three coefficients are
fitted to the power limits of the catalog's products; products of one die are left out together. A limit is a choice of
the product: one die is sold at 300 W and at 450 W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..catalog import load_device
from ..device import can_calibrate
from ..power.clock import PROCESS
from ..spec import DeviceSpec, ProcessorSpec
from .area import LOGIC, ScoredFit, area_model, die_of, die_parts, is_near, near_parts
from .constants import SiliconSpec, constants

F8 = npt.NDArray[np.float64]
TERMS = ("matrix units", "lanes", "leakage and clocks")


@dataclass(frozen=True, slots=True)
class PowerLaw(ScoredFit):
    """Fitted coefficients of `TERMS` [J per FLOP of N5, J per FLOP of N5, W per mm2].

    `share` is the fp32 over the fp16 rate where a description has no fp32.
    """

    matrix: float
    lanes: float
    area: float
    share: float


def main_of(device: DeviceSpec) -> ProcessorSpec | None:
    """Return the processor on the main die; None on a card of near-memory units only."""
    mains = [p for p in device.processors.values() if not is_near(p)]
    return mains[0] if mains else None


def memory_watts(device: DeviceSpec, processor: ProcessorSpec) -> float:
    """Return the power of a processor's memory at its full bandwidth [W]."""
    near_bandwidth = device.memory.bandwidth_bytes_per_s * processor.bandwidth_multiple
    return near_bandwidth * processor.memory_J_per_byte


def link_watts(device: DeviceSpec) -> float:
    """Return the power of a device's link at its full bandwidth in both directions [W]."""
    return 2 * device.link.bandwidth_bytes_per_s * device.link.energy_J_per_byte


def power_parts(device: DeviceSpec, process: str) -> dict[str, float]:
    """Return the parts of a device's power at full load [W]: main die, memory, and units near memory."""
    law, parts = power_law(), dict[str, float]()
    main = main_of(device)
    if main is not None:
        terms = _terms(device, main, PROCESS[process][0], law.share)
        fitted = terms * [law.matrix, law.lanes, law.area]
        parts |= dict(zip(TERMS, map(float, fitted), strict=True))
        parts |= {"memory": memory_watts(device, main), "links": link_watts(device)}
    for name, p in device.processors.items():
        if not is_near(p):
            continue
        peak = _peak16(p, device)
        dtype = "fp16" if "fp16" in p.compute_J_per_flop else next(iter(p.compute_J_per_flop))
        parts[f"{name} arithmetic"] = peak * p.compute_J_per_flop[dtype]
        parts[f"{name} memory"] = memory_watts(device, p)
    if main is None:
        parts["static"] = device.static_W
    return parts


def _peak16(processor: ProcessorSpec, device: DeviceSpec) -> float:
    """Return the 16-bit FLOP/s of a processor, or of its widest format."""
    if processor.mac_array is not None:
        units = processor.mac_array.modules_per_stack * processor.mac_array.macs_per_module
        return 2.0 * units * processor.mac_array.clock_Hz * device.memory.stacks
    if processor.peak_flops_per_s is not None:
        peaks = processor.peak_flops_per_s
        return peaks.get("fp16") or peaks.get("bf16") or max(peaks.values())
    near_bandwidth = device.memory.bandwidth_bytes_per_s * processor.bandwidth_multiple
    return (processor.peak_op_per_byte or 0.0) * near_bandwidth


def _terms(device: DeviceSpec, main: ProcessorSpec, energy: float, share: float) -> F8:
    peaks = main.peak_flops_per_s or {}
    half = peaks.get("fp16") or peaks.get("bf16") or max(peaks.values(), default=0.0)
    area = sum(count * sum(parts.values()) for _, count, parts in die_parts(device))
    return np.array([half * energy, (peaks.get("fp32") or half * share) * energy, area])


@cache
def power_law() -> PowerLaw:
    """Return the law fitted to the catalog's products with a power limit, with the errors of left-out dies."""
    products = [load_device(name)[0] for name in constants().products]
    dies = [p.silicon.dies[0].like if p.silicon is not None else None for p in products]
    mains = [p for p in map(main_of, products) if p is not None]
    ratios = [p.peak_flops_per_s["fp32"] / p.peak_flops_per_s["fp16"] for p in mains
              if p.peak_flops_per_s and "fp32" in p.peak_flops_per_s]  # fmt: skip
    share = float(np.median(ratios))
    energies = [PROCESS[str(spec.process)][0] for spec in products]
    rows = zip(products, mains, energies, strict=True)
    terms = np.array([_terms(s, p, e, share) for s, p, e in rows])
    limits = np.array([spec.limit_W for spec in products], dtype=float)
    rest = limits - [memory_watts(s, p) + link_watts(s) for s, p in zip(products, mains, strict=True)]
    weights = 1.0 / limits / np.sqrt([dies.count(die) for die in dies])  # a die counts once
    left_out = {}
    for i, spec in enumerate(products):
        others = np.array([die != dies[i] for die in dies])
        fit = _fitted(terms[others], rest[others], weights[others])
        left_out[spec.name] = float((terms[i] @ fit + limits[i] - rest[i]) / limits[i] - 1)
    matrix, lanes, area = map(float, _fitted(terms, rest, weights))
    return PowerLaw(left_out, matrix, lanes, area, share)


def _fitted(terms: F8, rest: F8, weights: F8) -> F8:
    """Return the weighted least squares of relative errors, without negative coefficients."""
    from scipy.optimize import nnls

    scale: F8 = terms.max(axis=0)
    scaled: F8 = nnls(terms / scale * weights[:, None], rest * weights)[0]
    return scaled / scale


STACKED = ("hbm2", "hbm3", "hbm3e", "hbm4")
SPARE = (*LOGIC, "registers", "local memory")
"""Parts of cores, which can be switched off if they have a defect."""


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
    """Return the parts of a device's cost [USD]; `dies` are node, count and parts of each kind.

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
    """Return the relative error within which 80 % of the computed costs are, compared with published estimates."""
    published = constants().published_USD
    errors = [abs(computed[name] / published[name] - 1) for name in published if name in computed]
    return float(np.quantile(errors, 0.8))


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated value with its interval and parts.

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
        """Return the weighted mean of two estimates: a `share` of this one, the rest of the other."""
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
        """Return the area, power and cost of the mean device: a `share` of this one, the rest the other."""
        quantities = ("area_mm2", "watts", "usd")
        return Silicon(*(getattr(self, n).mixed(getattr(other, n), share) for n in quantities))


NO_DIES = "has no value: no `silicon:` block says what is on its dies"
NO_PROCESS = "has no value: the description gives no process"


CACHE = "memory.cache_MiB (its area: cache_MiB of silicon.dies)"


def timed_sram(device: DeviceSpec, *, tuned: bool = False) -> str:
    """Return a sentence on which on-chip memories affect a device's times; `tuned`: every kernel has its best tile."""
    fitted = CACHE if any(map(can_calibrate, device.processors.values())) else "no SRAM"
    seen = f"local memory and {CACHE}" if tuned else fitted
    return (
        f"times depend on {seen}; all other SRAM, buffers near memory too, changes only the area (opbyte tune uses it)"
    )


def silicon_of(device: DeviceSpec) -> Silicon:
    """Estimate area, power and cost of a device from its description."""
    return Silicon(_area(device), _power(device), _cost(device))


def near_of(device: DeviceSpec) -> dict[str, float]:
    """Return the parts of units near memory, for all stacks of a device [mm2]."""
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
        f"{model.spread:.0%} when left out; units near memory to Duplex's (MICRO 2024); {timed_sram(device)}"
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
    """Return the process of a device's cores: the stated one, or its first die's."""
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
    """Return the relative error of 80 % of the model's costs against published estimates of catalog products."""
    spreads = {}
    for name in constants().published_USD:
        spec, _ = load_device(name)
        if spec.silicon is not None:
            spreads[name] = sum(cost_parts(spec, spec.silicon, die_parts(spec)).values())
    return cost_spread(spreads)

"""Power of a device at full load from its peaks, memory and process: the power that its board must supply.

Dynamic power of matrix units and lanes scales with the process as in `devices.power`, memory and links take their
bandwidth times their energy per bit; leakage, clocks and power supply scale with the area. The three coefficients are
fitted to the power limits of the catalog's products; products of one die are left out together. A limit is a choice of
the product: one die is sold at 300 W and at 450 W.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ..catalog import load_device
from ..power.clock import PROCESS
from ..spec import DeviceSpec, ProcessorSpec
from .area import die_parts, is_near
from .constants import constants

F8 = npt.NDArray[np.float64]
TERMS = ("matrix units", "lanes", "leakage and clocks")


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Fitted coefficients of `TERMS` [J per FLOP of N5, J per FLOP of N5, W per mm2].

    `share` is the fp32 over the fp16 rate where a description has no fp32; `left_out` the error of each
    product whose die was left out.
    """

    matrix: float
    lanes: float
    area: float
    share: float
    left_out: dict[str, float]

    @property
    def spread(self) -> float:
        """Share that 80 % of the products left out stay within."""
        return float(np.quantile(np.abs(list(self.left_out.values())), 0.8))


def main_of(device: DeviceSpec) -> ProcessorSpec | None:
    """Return the processor on the main die; None on a card of near-memory units only."""
    mains = [p for p in device.processors.values() if not is_near(p)]
    return mains[0] if mains else None


def memory_watts(device: DeviceSpec, processor: ProcessorSpec) -> float:
    """Power of a processor's memory at its bandwidth [W]."""
    near_bandwidth = device.memory.bandwidth_bytes_per_s * processor.bandwidth_multiple
    return near_bandwidth * processor.memory_J_per_byte


def link_watts(device: DeviceSpec) -> float:
    """Power of a device's link at its bandwidth, both ways [W]."""
    return 2 * device.link.bandwidth_bytes_per_s * device.link.energy_J_per_byte


def power_parts(device: DeviceSpec, process: str) -> dict[str, float]:
    """Parts of a device's power at full load [W]: its main die, its memory, its units near memory."""
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
    """The law of the catalog's products with a power limit, with errors of dies left out."""
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
    return PowerLaw(matrix, lanes, area, share, left_out)


def _fitted(terms: F8, rest: F8, weights: F8) -> F8:
    """Weighted least squares of relative errors, no coefficient below 0."""
    from scipy.optimize import nnls

    scale: F8 = terms.max(axis=0)
    scaled: F8 = nnls(terms / scale * weights[:, None], rest * weights)[0]
    return scaled / scale

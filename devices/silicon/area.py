"""Area of a die, estimated from its contents.

Memories, interfaces and links cost what photos and LLMCompass say; the logic of a core is fitted to
whole dies: a constant, a term of its fp32 lanes and one of its matrix units, none below 0. Logic and SRAM
shrink with the node, the analogue parts of interfaces do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spec import DeviceSpec, ProcessorSpec
from .constants import Die, DieSpec, constants

F8 = npt.NDArray[np.float64]
MIB = float(2**20)
LOGIC = ("control", "lanes", "matrix")
"""Parts of a core whose areas are fitted."""


@dataclass(frozen=True, slots=True)
class ScoredFit:
    """A fit with the error of each product or die in a fit that leaves it out."""

    left_out: dict[str, float]

    @property
    def spread(self) -> float:
        """Relative error that 80 % of the left-out errors do not exceed."""
        return float(np.quantile(np.abs(list(self.left_out.values())), 0.8))


@dataclass(frozen=True, slots=True)
class AreaModel(ScoredFit):
    """Fitted area of a core's logic at N7 [mm2]: a constant per core, per fp32 lane and per MAC."""

    core: float
    lane: float
    mac: float


def given_parts(die: Die) -> dict[str, float]:
    """Return the parts of a die whose area is not fitted [mm2]."""
    known, node = constants(), constants().nodes[die.node]
    c = known.area
    phy, control = known.links[die.link] if die.link is not None else (0.0, 0.0)
    return {
        "registers": die.cores * die.registers * c["register_mm2_per_MiB"] * node.sram,
        "local memory": die.cores * die.local * c["local_mm2_per_MiB"] * node.sram,
        "cache": die.cache * c["cache_mm2_per_MiB"] * node.sram,
        "memory interface": die.hbm * (c["hbm_phy_mm2"] + c["hbm_control_mm2"] * node.logic)
        + die.gddr * (c["gddr_phy_mm2"] + c["gddr_control_mm2"] * node.logic),
        "links": die.links * (phy + control * node.logic),
    }


def logic_terms(die: Die) -> F8:
    """Return the factors of the fitted areas: cores, lanes and MACs, scaled to the die's node."""
    return constants().nodes[die.node].logic * die.cores * np.array([1.0, die.lanes, die.macs])


def parts_of(die: Die) -> dict[str, float]:
    """Return every part of a die [mm2]; a die with a given area is one part.

    Examples
    --------
    >>> round(sum(parts_of(Die("N7", cores=128, macs=1024, lanes=64, hbm=6)).values()))
    373
    """
    model = area_model()
    fitted = logic_terms(die) * [model.core, model.lane, model.mac]
    return dict(zip(LOGIC, map(float, fitted), strict=True)) | given_parts(die)


@cache
def area_model() -> AreaModel:
    """Return the model fitted to all published dies, with the error of each die in a fit that leaves it out."""
    dies = {name: d for name, d in constants().dies.items() if d.fitted}
    terms = np.array([logic_terms(d) for d in dies.values()])
    rest = np.array([sum(given_parts(d).values()) for d in dies.values()])
    areas = np.array([d.area_mm2 for d in dies.values()], dtype=float)
    left_out = {}
    for i, name in enumerate(dies):
        others = np.arange(len(dies)) != i
        fit = _fitted(terms[others], (areas - rest)[others], areas[others])
        left_out[name] = float((terms[i] @ fit + rest[i]) / areas[i] - 1)
    core, lane, mac = map(float, _fitted(terms, areas - rest, areas))
    return AreaModel(left_out, core, lane, mac)


def _fitted(terms: F8, left: F8, areas: F8) -> F8:
    """Return the least squares of relative errors, without negative terms."""
    from scipy.optimize import nnls

    scale: F8 = terms.max(axis=0)
    scaled: F8 = nnls(terms / scale / areas[:, None], left / areas)[0]
    return scaled / scale


def die_of(given: DieSpec) -> Die:
    """Return a die of a description; missing values come from the published die that it is like."""
    base = Die(str(given.node)) if given.like is None else constants().dies[given.like]
    entry: dict[str, Any] = {
        "node": given.node, "cores": given.cores, "macs": given.macs_per_core,
        "lanes": given.lanes_per_core, "registers": _mib(given.registers_bytes),
        "local": _mib(given.local_bytes), "cache": _mib(given.cache_bytes), "hbm": given.hbm,
        "gddr": None if given.gddr_bits is None else given.gddr_bits / 32,
        "links": given.links, "link": given.link,
    }  # fmt: skip
    return replace(base, **{name: value for name, value in entry.items() if value is not None})


def _mib(value: float | None) -> float | None:
    return None if value is None else value / MIB


def die_parts(device: DeviceSpec) -> list[tuple[str, int, dict[str, float]]]:
    """Return node, count and parts [mm2] of every kind of die."""
    out = []
    for given in device.silicon.dies if device.silicon is not None else ():
        die = die_of(given)
        parts = {"die": given.area_mm2} if given.area_mm2 is not None else parts_of(die)
        out.append((die.node, given.count, parts))
    return out


ON_DRAM = ("bank-pim", "bank-group-pim")
"""Kinds of units that are made in the DRAM's process; their softmax unit is on the logic die."""
DEFAULT_BUFFER = 2**20
"""Default size of the buffers for inputs, and for temporaries [bytes] (Duplex, section VII-E)."""


def is_near(processor: ProcessorSpec) -> bool:
    """Return whether a processor's units are in the memory, and so counted per stack."""
    return processor.kind == "logic-pim" or processor.kind in ON_DRAM


def macs_per_stack(processor: ProcessorSpec, device: DeviceSpec) -> float:
    """Return the multiply-accumulate units per stack: the given number, or the peak over the clock."""
    if processor.mac_array is not None:
        return processor.mac_array.modules_per_stack * processor.mac_array.macs_per_module
    clock = processor.clock_Hz or constants().near["clock_Hz"]
    near_bandwidth = device.memory.bandwidth_bytes_per_s * processor.bandwidth_multiple
    peaks = processor.peak_flops_per_s
    peak = (
        (peaks.get("fp16") or peaks.get("bf16") or max(peaks.values()))
        if peaks
        else (processor.peak_op_per_byte or 0.0) * near_bandwidth
    )
    return peak / (2 * clock) / device.memory.stacks


def near_parts(processor: ProcessorSpec, device: DeviceSpec) -> dict[str, float]:
    """Return the parts of a unit near memory [mm2 per stack].

    The interface of a unit on the logic die are TSVs, as many more as its bandwidth is a multiple; units
    on the DRAM die need none, and are larger for its process.
    """
    near, array = constants().near, processor.mac_array
    factor = near["dram_process"] if processor.kind in ON_DRAM else 1.0
    buffers = array.modules_per_stack * (array.module_buffer_bytes or 0.0) if array else 0.0
    inputs = (array.input_buffer_bytes if array else None) or DEFAULT_BUFFER
    on_die = factor if processor.kind == "bank-group-pim" else 1.0
    per_byte = near["buffer_mm2_per_MiB"] / 2**20
    more = max(processor.bandwidth_multiple - 1.0, 0.0)
    return {
        "tsv": 0.0 if processor.kind in ON_DRAM else more * near["tsv_mm2_per_multiple"],
        "macs": macs_per_stack(processor, device) * near["mac_mm2"] * factor,
        "module buffers": buffers * per_byte * factor,
        "buffers": 2 * inputs * per_byte * on_die,
        "softmax": near["softmax_mm2"],
    }

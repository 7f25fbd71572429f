"""A device's description with numbers of its tile model replaced, so that every other model sees them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...workloads.errors import InputError
from ..core_spec import CoreSpec
from ..spec import DeviceSpec, ProcessorSpec
from .machine import (
    M_BLOCKS,
    M_CACHE,
    M_CACHE_BANDWIDTH,
    M_CACHE_LATENCY,
    M_CLOCK,
    M_CORES,
    M_LANES,
    M_LATENCY,
    M_RATE,
    M_REGISTERS,
    M_SHARED,
    M_SHARED_BLOCK,
    M_WARPS,
    machine_of,
)


def changed_spec(spec: DeviceSpec, values: Mapping[str, float]) -> DeviceSpec:
    """The description of a device with some of `machine.SETTINGS` replaced.

    Peaks follow cores, clock and what a core does in a clock; all else stays.

    Raises
    ------
    InputError
        An unknown key, a value out of range, or a device without an xPU of known cores.
    """
    if not values:
        return spec
    before = machine_of(spec)
    after = before.changed(values)
    old, new = before.vector, after.vector
    name = next(n for n, p in spec.processors.items() if p.kind == "xpu")
    xpu = spec.processors[name]
    faster = new[M_CORES] * new[M_CLOCK] * new[M_RATE] / (old[M_CORES] * old[M_CLOCK] * old[M_RATE])
    wider = after.value("bandwidth_GBps") / before.value("bandwidth_GBps")
    memory = {
        "bandwidth_bytes_per_s": spec.memory.bandwidth_bytes_per_s * wider,
        "cache_bytes": new[M_CACHE],
        "cache_bandwidth_bytes_per_s": new[M_CACHE_BANDWIDTH],
        "cache_latency_s": new[M_CACHE_LATENCY],
        "latency_s": new[M_LATENCY],
    }
    processors = {**spec.processors, name: _processor(xpu, new, faster)}
    copied = spec.model_copy(update={"memory": spec.memory.model_copy(update=memory), "processors": processors})
    return copied


def _processor(xpu: ProcessorSpec, new: tuple[float, ...], faster: float) -> ProcessorSpec:
    if xpu.peak_flops_per_s is None:
        raise InputError("device", "needs an xpu whose peaks are given to be changed")
    core: dict[str, Any] = {
        "shared_bytes": new[M_SHARED], "block_bytes": new[M_SHARED_BLOCK],
        "registers": int(new[M_REGISTERS]), "warps": int(new[M_WARPS]),
        "blocks": int(new[M_BLOCKS]), "lanes": int(new[M_LANES]),
    }  # fmt: skip
    return xpu.model_copy(
        update={
            "cores": int(new[M_CORES]),
            "clock_Hz": new[M_CLOCK],
            "peak_flops_per_s": {k: v * faster for k, v in xpu.peak_flops_per_s.items()},
            "core": CoreSpec(**core),
        }
    )

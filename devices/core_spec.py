"""Schemas of a processor's compute units: MAC arrays near memory, and the core of a GPU."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from ..workloads.specfile import Spec
from .lines import Count, Positive


class MacArraySpec(Spec):
    """Multiply-accumulate units of a processor near memory; peak = 2 x MACs x clock.

    `module_buffer_bytes` is the buffer of one module, `input_buffer_bytes` the buffer of all inputs of a stack; the
    tile model needs both.
    """

    modules_per_stack: Count
    macs_per_module: Count
    clock_Hz: Positive
    module_buffer_bytes: Positive | None = None
    input_buffer_bytes: Positive | None = None


def own_bandwidths(given: Any) -> Any:
    """Return a device's keys with each processor's bandwidth as a multiple of the memory's bandwidth.

    For a card with all units in the memory the external bandwidth is optional: the default is the largest internal one.
    """
    memory, processors = (given.get(key) for key in ("memory", "processors"))
    if not isinstance(memory, dict) or not isinstance(processors, dict):
        return given
    internal = {
        name: p["bandwidth_bytes_per_s"]
        for name, p in processors.items()
        if isinstance(p, dict) and isinstance(p.get("bandwidth_bytes_per_s"), (int, float))
    }
    if not internal:
        return given
    if any("bandwidth_multiple" in processors[name] for name in internal):
        raise ValueError("a processor has bandwidth_GBps or bandwidth_multiple, not both")
    if min(internal.values()) <= 0:
        raise ValueError("the bandwidth_GBps of a processor must be above 0")
    outside = memory.get("bandwidth_bytes_per_s") or max(internal.values())
    entry = {}
    for name, value in internal.items():
        rest = {k: v for k, v in processors[name].items() if k != "bandwidth_bytes_per_s"}
        entry[name] = rest | {"bandwidth_multiple": value / outside}
    return given | {"memory": memory | {"bandwidth_bytes_per_s": outside}, "processors": processors | entry}


class CoreSpec(Spec):
    """What one core (SM, CU) of a GPU holds; the tile model (`devices.tiles`) reads it.

    `shared_bytes` is the shared memory (LDS) of the core, `block_bytes` the most that one block may have; `registers`
    are 32-bit ones, `warps` and `blocks` the most that reside at a time, `lanes` the threads of a warp (wavefront).
    """

    shared_bytes: Positive
    block_bytes: Positive
    registers: Count
    warps: Count
    blocks: Count
    lanes: Count = 32

    @model_validator(mode="after")
    def _block_fits(self) -> CoreSpec:
        if self.block_bytes > self.shared_bytes:
            raise ValueError("block_KiB must be at most shared_KiB")
        return self

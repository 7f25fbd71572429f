"""Units in the memory stacks (Logic-PIM, bank-group and bank PIM) as machines of the tile model."""

from __future__ import annotations

from functools import lru_cache

from ...workloads.errors import SpecError
from ..calibrated.hardware import ARITHMETIC
from ..dram.access import NEAR
from ..dram.catalog import load_memory
from ..dram.pim import measure, stream_of
from ..peaks import peaks_of
from ..spec import DeviceSpec
from .machine import HBM_CHANNEL, Machine

COLUMNS = (1, 2, 4, 8, 16, 32)
"""Columns of an open row that a tile reads, for which efficiencies are derived."""
COMMANDS = 4096
"""Commands of a stream that tells an efficiency: over a refresh interval."""


def units_of(spec: DeviceSpec) -> Machine:
    """The MAC units of a device's memory stacks: modules are cores, buffers shared memory and cache.

    Raises
    ------
    SpecError
        No such units, or none whose buffers are known, or a memory without a DRAM standard.
    """
    unit = next((p for p in spec.processors.values() if p.mac_array is not None), None)
    if unit is None or unit.mac_array is None:
        raise SpecError(spec.name, "has no units with a mac_array in its memory")
    array, memory = unit.mac_array, spec.memory
    if array.module_buffer_bytes is None or array.input_buffer_bytes is None:
        raise SpecError(spec.name, "needs module_buffer_KiB and input_buffer_KiB in mac_array for the tile model")
    if memory.dram is None:
        raise SpecError(spec.name, "needs memory.dram for the tile model of units in the memory")
    modules = float(array.modules_per_stack * memory.stacks)
    bandwidth = memory.bandwidth_bytes_per_s * memory.data_fraction * unit.bandwidth_multiple
    peak = peaks_of(unit, spec, bandwidth)
    rates = [peak.get(name, peak["bf16"]) / (modules * array.clock_Hz) for name in ARITHMETIC]
    vector = (
        bandwidth, unit.launch_s, array.input_buffer_bytes * memory.stacks, bandwidth, 0.0, modules,
        array.clock_Hz, array.module_buffer_bytes, array.module_buffer_bytes, 1.0, 1.0, 1.0, 1.0, 0.0,
        HBM_CHANNEL, *rates,
    )  # fmt: skip
    efficiency = _efficiency(memory.dram.standard, NEAR[unit.kind])
    return Machine(spec.name, vector, row_efficiency=efficiency)


@lru_cache(maxsize=64)
def _efficiency(standard: str, pattern: str) -> tuple[float, ...]:
    """Return the share of the peak for a number of columns of a row at a time, from the DRAM's command model."""
    memory = load_memory(standard)
    return tuple(measure(memory, stream_of(memory, f"{pattern}_col{n}", COMMANDS, True)).fraction for n in COLUMNS)

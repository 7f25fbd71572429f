"""Area of units near memory: of one memory stack, as functions of MACs, buffers and bandwidth."""

from __future__ import annotations

from ..spec import DeviceSpec, ProcessorSpec
from .constants import constants

ON_DRAM = ("bank-pim", "bank-group-pim")
"""Kinds whose units are made in the DRAM's process; their softmax unit stays on the logic die."""
DEFAULT_BUFFER = 2**20
"""Of inputs [bytes], and as much for temporaries, where no description says (Duplex, section VII-E)."""


def is_near(processor: ProcessorSpec) -> bool:
    """Whether a processor's units are counted by stack: it sits in the memory."""
    return processor.kind == "logic-pim" or processor.kind in ON_DRAM


def macs_per_stack(processor: ProcessorSpec, device: DeviceSpec) -> float:
    """Multiply-accumulate units of one stack: given, or from the peak at a clock."""
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
    """Parts of a unit near memory [mm2 a stack].

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

"""Constants of a device that the kernel models use, and the codes of number formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...workloads.errors import SpecError
from ...workloads.records import Records
from ..peaks import peaks_of
from ..power.clock import PROCESS
from ..spec import DeviceSpec, ProcessorSpec

FORMATS = ("bf16", "fp32", "fp8", "fp8_block", "int8", "nvfp4", "mxfp4", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "int4_wo")
"""Name of the format of each code. fp16 counts as bf16: both have the same rate on every device here."""
(C_16, C_32, C_FP8, C_FP8_BLOCK, C_INT8, C_NVFP4, C_MXFP4, C_W4A16, C_W4A8, C_INT4) = range(len(FORMATS))
HARDWARE: np.dtype[Any] = np.dtype((np.record, [
    ("bandwidth", "f8"), ("cache", "f8"), ("cores", "f8"), ("clock", "f8"), ("link_bandwidth", "f8"),
    ("peak", "f8", (len(FORMATS),)), ("matrix_rows", "f8"), ("capability", "f8"), ("built", "f8"), ("power", "f8"),
    ("peers", "f8"),
]))  # fmt: skip
"""Constants of a device. `bandwidth`: main-memory bytes/s that data can have; `cache`: last-level cache bytes; `cores`:
SMs or CUs; `clock`: hertz; `link_bandwidth`: bytes/s of the link inside a node; `peak`: FLOP/s by format code.

`matrix_rows`: rows that a matrix instruction computes at least; a product of fewer costs as many. `capability`: NVIDIA's
compute capability, which tells the generations of cores; 0 for other devices. `built`: 16-bit FLOP/s that the matrix
units are built for. Some products (GeForce cards) halve the rate with 32-bit accumulation and keep the rate of 8-bit
integers, and the H20 is limited to a quarter of its cores' rate; their operand paths, other units and power supply have
the full rate. `power`: board watts per stated 16-bit TFLOP/s, in units of its process's energy at that clock (the
voltage, whose square energy follows, rises with the clock), at most `ROOM`, also if it is not known. `peers`: devices
that a device must talk to for all of its link: 1 over a switch, all others of a mesh."""
ROOM = 0.22
"""Watts from which power does not limit dense products: boards with less attain less of their peak for milliseconds
(L40S 0.15 and 0.51 of it, MI300X 0.13 and 0.5), those with as much 0.8 (RTX PRO 6000) and, with twice as much, 0.85
to 0.9 (A100)."""
HOPPER, HOPPER_FLOP = 9.0, 4096.0
"""Compute capability of Hopper, and 16-bit FLOP of its core in a clock (NVIDIA H100 Tensor Core GPU
Architecture whitepaper)."""
HELD = 1.5
"""Built over stated rate from which the stated one counts as held down; clocks of data sheets differ by less."""

ARITHMETIC = ("bf16", "fp32", "fp8", "fp8", "int8", "fp4", "fp4", "bf16", "fp8", "bf16")
"""Arithmetic format whose peak applies to each code."""
WEIGHT_BYTES = (2.0, 4.0, 1.0, 1.0, 1.0, 0.5625, 0.53125, 0.53125, 0.53125, 0.515625)
"""Stored bytes per weight by code, block scales included (for int4 a 16-bit scale per 128 weights)."""
INPUT_BYTES = (2.0, 4.0, 1.0, 1.03125, 1.0, 0.5625, 0.53125, 2.0, 1.03125, 2.0)
"""Bytes per input value of a matmul by code, scales included."""

CODES = {name: code for code, name in enumerate(FORMATS)} | {
    "fp16": C_16, "fp4": C_NVFP4, "int4": C_INT4, "w4afp8": C_W4A8,
}  # fmt: skip
WIDENED = (C_W4A16, C_INT4)
"""Formats whose 4-bit weights a kernel widens to 16 bits before it multiplies."""


def hardware(spec: DeviceSpec, processor: ProcessorSpec | None = None) -> Records:
    """Return the constants of a device's xPU in SI units, a record of `HARDWARE`.

    Parameters
    ----------
    processor : ProcessorSpec, optional
        Processor of the device; by default the first xPU.

    Raises
    ------
    SpecError
        The device has no xPU whose cores and clock are known.
    """
    first = (p for p in spec.processors.values() if p.kind == "xpu")
    xpu = next(first, None) if processor is None else processor
    if xpu is None or xpu.cores is None or xpu.clock_Hz is None:
        raise SpecError(spec.name, "needs an xpu with cores and clock_MHz to be calibrated")
    bandwidth = spec.memory.bandwidth_bytes_per_s * spec.memory.data_fraction
    peak = peaks_of(xpu, spec, bandwidth * xpu.bandwidth_multiple)
    built = max(peak["bf16"], 0.5 * peak["int8"])
    designed = HOPPER_FLOP * xpu.cores * xpu.clock_Hz if xpu.compute_capability == HOPPER else 0.0
    if designed > HELD * built:
        built = designed
    constants = np.array(
        [
            bandwidth,
            spec.memory.cache_bytes,
            float(xpu.cores),
            xpu.clock_Hz,
            spec.link.bandwidth_bytes_per_s,
            # A format without a rate is refused where a model needs it.
            *(peak.get(name, peak["bf16"]) for name in ARITHMETIC),
            float(xpu.matrix_rows),
            xpu.compute_capability or 0.0,
            built,
            _room(spec, max(peak["bf16"], 0.5 * peak["int8"]), xpu.clock_Hz),
            float(spec.link.peers),
        ]
    )
    return constants.view(HARDWARE)[0]


def _room(spec: DeviceSpec, flops_per_s: float, clock_Hz: float) -> float:
    """Return the field `power` of a device's `HARDWARE`."""
    if spec.limit_W is None or spec.process not in PROCESS:
        return ROOM
    return min(ROOM, spec.limit_W / (1e-12 * flops_per_s * PROCESS[spec.process][0] * (1e-9 * clock_Hz) ** 2))

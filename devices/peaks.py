"""Arithmetic rates of a processor by number format."""

from __future__ import annotations

from collections.abc import Mapping

from ..workloads.errors import SpecError
from ..workloads.numerics import BITS, WEIGHT_ONLY
from .spec import DeviceSpec, ProcessorSpec

FALLBACK = {"fp4": "fp8", "fp8_block": "fp8", "fp8": "bf16", "int8": "fp16", "bf16": "fp16", "fp16": "fp32"}
"""The next wider format, in which a processor computes if it lacks a format."""

WIDTH = {**BITS, "fp4": 4.0}


def peaks_of(spec: ProcessorSpec, device: DeviceSpec, bandwidth: float) -> dict[str, float]:
    """Return peak FLOP/s by format, from any of the four ways in which a description can give it."""
    if spec.engine is not None:  # a fixed-point array: one rate, whatever the model's format
        return dict.fromkeys(WIDTH, 2.0 * spec.engine.macs * spec.engine.clock_Hz)
    if spec.peak_flops_per_s is not None:
        return all_formats(spec.peak_flops_per_s, f"{device.name}: peak_TFLOPS")
    if spec.mac_array is not None:
        mac = spec.mac_array
        macs = mac.modules_per_stack * mac.macs_per_module * device.memory.stacks
        fp16 = 2.0 * macs * mac.clock_Hz
    else:
        fp16 = (spec.peak_op_per_byte or 0.0) * bandwidth
    # Half-width operands double the rate of the same multipliers (Duplex: INT8/FP8 peak doubles).
    return {name: fp16 * min(16.0 / width, 2.0) for name, width in WIDTH.items()}


def lacking(device: DeviceSpec) -> tuple[str, ...]:
    """Return the formats of `WEIGHT_ONLY` that no processor with stated rates multiplies.

    Examples
    --------
    >>> from opbyte.devices.catalog import load_device
    >>> lacking(load_device("h100")[0]), lacking(load_device("a100")[0])
    (('fp4',), ('fp4', 'fp8', 'fp8_block'))
    """
    given = [p.peak_flops_per_s for p in device.processors.values() if p.peak_flops_per_s is not None]
    known = {name for peaks in given for name in peaks}
    if "fp8" in known:
        known.add("fp8_block")
    return tuple(name for name in WEIGHT_ONLY if given and name not in known)


def all_formats(given: Mapping[str, float], where: str) -> dict[str, float]:
    """Add the missing formats, each at the rate of the next wider format that the processor has.

    Raises
    ------
    SpecError
        None of the 16- and 32-bit formats is given.
    """
    out = dict(given)
    for name in WIDTH:
        wider = name
        while wider not in out and wider in FALLBACK:
            wider = FALLBACK[wider]
        if wider in out:
            out[name] = out[wider]
    if "bf16" not in out and "fp16" not in out:
        raise SpecError(where, "needs at least one of fp16, bf16 and fp32")
    return out

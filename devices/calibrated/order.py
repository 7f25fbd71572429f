"""Order of devices by the peaks of their data sheets: whether one is at least as good as another."""

from __future__ import annotations

from ..peaks import peaks_of
from ..spec import DeviceSpec, ProcessorSpec

FORMATS = ("bf16", "fp8", "fp4")
"""Formats whose peaks are always compared; a device without a unit has the rate of the next wider format."""
WHOLE_NUMBERS = "int8"
"""Format that is compared only for steps in it, because the newest products lower its rate."""

MEASURED_BELOW = frozenset({("l40", "a40")})
"""Pairs of a device and another that it is not better than, in spite of its peaks: an L40 took 1.12 times as long as an
A40 for prompts of Qwen2.5-14B under SGLang, and slowed from repetition to repetition, at 300 W for 1.7 times the cores
(static batches of zksainx/pipeweave 55e0317)."""


def peaks(spec: DeviceSpec, *formats: str) -> tuple[float, ...]:
    """Return the xPU's FLOP/s by format, and the memory bandwidth that data can use (error correction takes some)."""
    processor = _main(spec)
    bandwidth = spec.memory.bandwidth_bytes_per_s * spec.memory.data_fraction
    rate = peaks_of(processor, spec, bandwidth * processor.bandwidth_multiple)
    return (*(rate[name] for name in formats), bandwidth)


def at_least_as_good(one: DeviceSpec, other: DeviceSpec, *, whole_numbers: bool = False, linked: bool = False) -> bool:
    """Return whether every peak of `one`, and its power limit, is at least `other`'s.

    A board keeps its limit by lowering its clock: an A100 for PCIe has the peaks of an SXM one and 250 or 300 of its
    400 W. Small kernels start late on a device with a longer `dispatch_s`, for any peaks: an MI300X takes 6.6 ms for a
    decode of Ministral 14B in fp8 whose bytes take 3 (SGLang 0.5.7, sgl-cookbook).

    Parameters
    ----------
    whole_numbers : bool
        Compare the rate of 8-bit integers too.
    linked : bool
        Compare the link inside a node too.

    Examples
    --------
    >>> from opbyte.devices.catalog import load_device
    >>> h100, h200 = (load_device(name)[0] for name in ("h100", "h200"))
    >>> at_least_as_good(h200, h100), at_least_as_good(h100, h200)
    (True, False)
    """
    if (one.name, other.name) in MEASURED_BELOW:
        return False
    formats = (*FORMATS, WHOLE_NUMBERS) if whole_numbers else FORMATS
    pairs = zip(peaks(one, *formats), peaks(other, *formats), strict=True)
    if not all(a >= b for a, b in pairs):
        return False
    if one.limit_W is not None and other.limit_W is not None and one.limit_W < other.limit_W:
        return False
    if _main(one).dispatch_s > _main(other).dispatch_s:
        return False
    return not linked or one.link.bandwidth_bytes_per_s >= other.link.bandwidth_bytes_per_s


def has_unit(spec: DeviceSpec, format_: str) -> bool:
    """Return whether the data sheet has a peak for that format."""
    given = _main(spec).peak_flops_per_s
    return given is not None and format_ in given


def _main(spec: DeviceSpec) -> ProcessorSpec:
    """Return the GPU-class processor, or else the first one."""
    every = list(spec.processors.values())
    return next((p for p in every if p.kind == "xpu"), every[0])

"""A device as the tile model sees it: cores, memories and caches, as numbers that can be changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...workloads.errors import InputError, SpecError, check_known
from ...workloads.records import Records
from ..calibrated.hardware import ARITHMETIC, FORMATS
from ..core_spec import CoreSpec
from ..peaks import peaks_of
from ..spec import DeviceSpec, ProcessorSpec


class MachineNumbers(NamedTuple):
    """A machine in SI units: main memory, last-level cache, and the cores with their resources.

    `rate` is FLOP per clock and core by format code.
    """

    bandwidth: float
    latency: float
    cache: float
    cache_bandwidth: float
    cache_latency: float
    cores: float
    clock: float
    shared: float
    shared_block: float
    registers: float
    warps: float
    blocks: float
    lanes: float
    capability: float
    channel: float
    rate: tuple[float, ...]


MACHINE = np.dtype(
    (np.record, [(name, "f8", (len(FORMATS),) if name == "rate" else ()) for name in MachineNumbers._fields])
)
"""Record type of `MachineNumbers` in compiled code."""

KIB, RESERVED = 1024.0, 1024.0
"""Bytes of a KiB, and of the shared memory that the system reserves in every block (CUDA C++ Programming Guide, compute
capability 8.x and 9.0)."""
LIKE_AMPERE = CoreSpec(shared_bytes=164 * 1024, block_bytes=163 * 1024, registers=65536, warps=64, blocks=32)
"""Core that is used if a description has none: the A100's."""
LATENCY_S, CACHE_LATENCY_S = 0.7e-6, 0.28e-6
"""Latency of a load from memory and from the last-level cache on a busy device [s], if a description has none: typical
of NVIDIA's GPUs of 2020 to 2024, without a measurement. The shared constants `load_latency` and `cache_load_latency`
are multiples of these."""
BYTES_PER_CLOCK = 40.0
"""Bytes per clock that the last-level cache gives a core if a description has no value: between the A100's 47 (5,120
for 108 cores, its whitepaper) and the 36 of an H100."""


NEAR_POWER = 0.08
"""Relative distance of a peak from a power of two per clock up to which it is rounded to that power."""
HBM_CHANNEL, GDDR_CHANNEL = 256.0, 1024.0
"""Contiguous bytes in one channel; longer rows of a tile gain nothing. 256 in HBM (the width of a memory partition of
NVIDIA's GPUs, as in the catalog's `interleave_bytes`). In GDDR, whose memories count as one stack, the tables show a
gain up to rows of 512 bytes: assumed 1,024."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A number of a machine that users may set: the fields that it scales, and its unit and range.

    Attributes
    ----------
    fields : tuple of str
        Numbers that take it.
    unit : float
        SI units of one of what is written.
    low, high : float
        Least and largest value, as written.
    whole : bool
        Whether it counts things.
    """

    fields: tuple[str, ...]
    unit: float
    low: float
    high: float
    whole: bool = False


SETTINGS: dict[str, Setting] = {
    "shared_memory_KiB": Setting(("shared", "shared_block"), KIB, 8, 1e6),
    "registers": Setting(("registers",), 1, 1024, 1e8, True),
    "warps": Setting(("warps",), 1, 1, 4096, True),
    "blocks": Setting(("blocks",), 1, 1, 4096, True),
    "cores": Setting(("cores",), 1, 1, 1e6, True),
    "clock_MHz": Setting(("clock",), 1e6, 1, 1e5),
    "matrix_FLOP_per_clock": Setting(("rate",), 1, 1, 1e7),
    "bandwidth_GBps": Setting(("bandwidth",), 1e9, 0.1, 1e7),
    "latency_ns": Setting(("latency",), 1e-9, 1, 1e6),
    "cache_MiB": Setting(("cache",), 2.0**20, 0, 1e6),
    "cache_bandwidth_GBps": Setting(("cache_bandwidth",), 1e9, 0.1, 1e7),
    "cache_latency_ns": Setting(("cache_latency",), 1e-9, 1, 1e6),
}
"""Numbers of a machine that can be set. Larger values are better except for latencies. `cores` and `clock_MHz` keep the
work of a core per clock, so larger values give more FLOP/s."""
BETTER_LESS = ("latency_ns", "cache_latency_ns")


@dataclass(frozen=True, slots=True)
class Machine:
    """A device as the tile model sees it.

    Attributes
    ----------
    derived : tuple of str
        Settings that the description does not have and a rule gave.
    wider : frozenset of int
        Format codes without separate units, whose products run at the rate of the next wider format.
    row_efficiency : tuple of float
        For units in the memory: share of their bandwidth with 1, 2, 4, ... columns of a row at a time.
    """

    name: str
    vector: MachineNumbers
    derived: tuple[str, ...] = ()
    wider: frozenset[int] = frozenset()
    row_efficiency: tuple[float, ...] = ()

    @property
    def h(self) -> Records:
        """The machine's numbers as a record of `MACHINE`, for compiled code."""
        return np.array([self.vector], dtype=MACHINE)[0]

    def value(self, setting: str) -> float:
        """Return a number of the machine in the unit of its setting's name."""
        known = _setting(setting)
        return _first(self.vector, known) / known.unit

    def changed(self, values: Mapping[str, float]) -> Machine:
        """Return the machine with some numbers replaced.

        Parameters
        ----------
        values : mapping of str to float
            Keys of `SETTINGS`, in the unit of their names.

        Raises
        ------
        InputError
            An unknown key, or a value out of its range.
        """
        vector = self.vector
        for name, value in values.items():
            known = _setting(name)
            if not known.low <= value <= known.high or (known.whole and value != int(value)):
                what = "a whole number" if known.whole else "a number"
                raise InputError(name, f"must be {what} from {known.low:g} to {known.high:g}, not {value:g}")
            factor = value * known.unit / max(_first(vector, known), 1e-300)
            changed: dict[str, Any] = {field: _times(getattr(vector, field), factor) for field in known.fields}
            first, exact = known.fields[0], value * known.unit
            changed[first] = (exact, *changed[first][1:]) if first == "rate" else exact
            vector = vector._replace(**changed)
            if name == "shared_memory_KiB":  # the block's share keeps the distance of the description
                reserved = self.vector.shared - self.vector.shared_block
                vector = vector._replace(shared_block=value * known.unit - reserved)
        return replace(self, vector=vector)

    def scaled(self, setting: str, factor: float) -> Machine:
        """Return the machine with one number multiplied; integers are rounded."""
        value = self.value(setting) * factor
        return self.changed({setting: float(round(value)) if _setting(setting).whole else value})


def _first(vector: MachineNumbers, setting: Setting) -> float:
    """Return the number that a setting is read from; the first one of rates."""
    value: float | tuple[float, ...] = getattr(vector, setting.fields[0])
    return value[0] if isinstance(value, tuple) else value


def _times(value: float | tuple[float, ...], factor: float) -> float | tuple[float, ...]:
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor


def _setting(name: str) -> Setting:
    check_known(name, name, SETTINGS, "is not a number of the device that can be changed")
    return SETTINGS[name]


def machine_of(spec: DeviceSpec) -> Machine:
    """Return the machine of a device's first xPU.

    Raises
    ------
    SpecError
        No xPU whose cores and clock are known.
    """
    xpu = next((p for p in spec.processors.values() if p.kind == "xpu"), None)
    if xpu is None or xpu.cores is None or xpu.clock_Hz is None:
        raise SpecError(spec.name, "needs an xpu with cores and clock_MHz for the tile model")
    derived = [] if xpu.core else ["shared_memory_KiB", "registers", "warps", "blocks"]
    core, memory = xpu.core or LIKE_AMPERE, spec.memory
    bandwidth = memory.bandwidth_bytes_per_s * memory.data_fraction
    peak = peaks_of(xpu, spec, bandwidth * xpu.bandwidth_multiple)
    cores, clock = float(xpu.cores), xpu.clock_Hz
    latency, cache_latency = memory.latency_s, memory.cache_latency_s
    cache_bandwidth = memory.cache_bandwidth_bytes_per_s
    if latency is None:
        latency = LATENCY_S
        derived.append("latency_ns")
    if cache_latency is None:
        cache_latency = CACHE_LATENCY_S
        derived.append("cache_latency_ns")
    if cache_bandwidth is None:
        cache_bandwidth = BYTES_PER_CLOCK * cores * clock
        derived.append("cache_bandwidth_GBps")
    rates = [_power(peak.get(name, peak["bf16"]) / (cores * clock)) for name in ARITHMETIC]
    vector = MachineNumbers(
        bandwidth, latency, memory.cache_bytes, cache_bandwidth, cache_latency, cores, clock,
        core.shared_bytes, core.block_bytes, float(core.registers), float(core.warps),
        float(core.blocks), float(core.lanes), xpu.compute_capability or 0.0,
        HBM_CHANNEL if memory.stacks > 1 else GDDR_CHANNEL, tuple(rates),
    )  # fmt: skip
    wider = {i for i, name in enumerate(ARITHMETIC) if i and name not in (xpu.peak_flops_per_s or peak)}
    return Machine(spec.name, vector, tuple(derived), frozenset(wider))


def _power(rate: float) -> float:
    """Return the FLOP per clock and core for a data sheet's rate.

    Matrix units have powers of two per clock. Data sheets give peaks at a clock that may differ from the device's: an
    H20 of 148 TFLOPS does 1,024 a clock at 1,980 MHz.
    """
    power = 2.0 ** round(math.log2(rate))
    return power if abs(power / rate - 1.0) <= NEAR_POWER else rate


def changed_spec(spec: DeviceSpec, values: Mapping[str, float]) -> DeviceSpec:
    """Return the description of a device with some of `machine.SETTINGS` replaced.

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
    faster = new.cores * new.clock * new.rate[0] / (old.cores * old.clock * old.rate[0])
    wider = after.value("bandwidth_GBps") / before.value("bandwidth_GBps")
    memory = {
        "bandwidth_bytes_per_s": spec.memory.bandwidth_bytes_per_s * wider,
        "cache_bytes": new.cache,
        "cache_bandwidth_bytes_per_s": new.cache_bandwidth,
        "cache_latency_s": new.cache_latency,
        "latency_s": new.latency,
    }
    processors = {**spec.processors, name: _processor(xpu, new, faster)}
    copied = spec.model_copy(update={"memory": spec.memory.model_copy(update=memory), "processors": processors})
    return copied


def _processor(xpu: ProcessorSpec, new: MachineNumbers, faster: float) -> ProcessorSpec:
    """Return the processor with other cores, clock and sizes, and peaks that are `faster` times as high."""
    if xpu.peak_flops_per_s is None:
        raise InputError("device", "needs an xpu whose peaks are given to be changed")
    core: dict[str, Any] = {
        "shared_bytes": new.shared, "block_bytes": new.shared_block,
        "registers": int(new.registers), "warps": int(new.warps),
        "blocks": int(new.blocks), "lanes": int(new.lanes),
    }  # fmt: skip
    return xpu.model_copy(
        update={
            "cores": int(new.cores),
            "clock_Hz": new.clock,
            "peak_flops_per_s": {k: v * faster for k, v in xpu.peak_flops_per_s.items()},
            "core": CoreSpec(**core),
        }
    )

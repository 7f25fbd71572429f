"""Matrix products on units in the memory: weights stream past input rows that are kept in small buffers.

Modules share the columns, and parts of k where it is split. A module holds `block_m` rows of inputs,
`block_k` values deep, twice (one part fills while the other is used), and sums of `block_n` columns;
weights pass once for every `block_m` rows, inputs once for every `block_n` columns. How much of an
open DRAM row a tile reads decides what its bundle of banks gives (`units`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ....workloads.errors import SpecError
from ....workloads.jit import compiled, compiled_part
from ....workloads.records import Records
from ...calibrated.hardware import ARITHMETIC, C_16, CODES, INPUT_BYTES, WEIGHT_BYTES
from ...dram.access import NEAR
from ...dram.pim import measure, stream_of
from ...dram.spec import load_memory
from ...peaks import peaks_of
from ...spec import DeviceSpec
from ..config import I8, KernelConfig
from ..form import Shape, ShapeKey, TiledKernel, grid_of, kernel_form, number
from ..machine import HBM_CHANNEL, Machine, MachineNumbers
from ..price import SHARP, join

COLUMNS = (1, 2, 4, 8, 16, 32)
"""Numbers of columns of an open row for which efficiencies are derived."""
COMMANDS = 4096
"""Length of the command stream from which an efficiency is derived; longer than a refresh interval."""


def units_of(spec: DeviceSpec) -> Machine:
    """Return the MAC units of a device's memory stacks as a machine.

    Modules are its cores, buffers its shared memory and cache.

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
    vector = MachineNumbers(
        bandwidth, unit.launch_s, array.input_buffer_bytes * memory.stacks, bandwidth, 0.0, modules,
        array.clock_Hz, array.module_buffer_bytes, array.module_buffer_bytes, 1.0, 1.0, 1.0, 1.0, 0.0,
        HBM_CHANNEL, tuple(rates),
    )  # fmt: skip
    efficiency = _efficiency(memory.dram.standard, NEAR[unit.kind])
    return Machine(spec.name, vector, row_efficiency=efficiency)


@lru_cache(maxsize=64)
def _efficiency(standard: str, pattern: str) -> tuple[float, ...]:
    """Return the share of the peak for a number of columns of a row at a time, from the DRAM's command model."""
    memory = load_memory(standard)
    return tuple(measure(memory, stream_of(memory, f"{pattern}_col{n}", COMMANDS, True)).fraction for n in COLUMNS)


CALL: np.dtype[Any] = np.dtype((np.record, [
    *((name, "f8") for name in ("m", "n", "k", "groups", "rate", "input_bytes", "weight_bytes")),
    ("efficiency", "f8", (len(COLUMNS),)),
]))  # fmt: skip
"""Fields of a call: rows of a group, columns, k, groups, FLOP per clock and module, bytes of an input and of a weight,
and the share of the bandwidth by columns of a DRAM row."""
ATOM, BANKS = 32.0, 8.0
"""Bytes of a bank's column, and number of banks in a bundle (Duplex, section IV-B)."""
PORT = 32.0
"""Bytes per clock from a stack's input buffer to a module: assumed, a bus as wide as a DRAM atom."""
SUM_BYTES = 4.0
SPLITS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 40)
"""Possible numbers of parts of k; columns are distributed to the modules of each part, and a remainder is idle."""

KEYS = (
    ShapeKey("m", "rows of each group (tokens of an expert)", low=1, high=1024),
    ShapeKey("n", "columns of the result", low=64, high=65536),
    ShapeKey("k", "length of the sums", low=64, high=65536),
    ShapeKey("groups", "groups with separate weights (active experts)", 1, 1, 256),
    ShapeKey("dtype", "number format", "bf16"),
)


@compiled_part
def price(hardware: Records, call: Records, configuration: Records, out: Records) -> None:
    """Compute the seconds of one product under one mapping, and their terms."""
    bm, bn, bk, split = (
        float(configuration.block_m),
        float(configuration.block_n),
        float(configuration.block_k),
        float(configuration.split),
    )
    m, n, k, groups = call.m, call.n, call.k, call.groups
    modules, clock = hardware.cores, hardware.clock
    columns = math.ceil(n / max(1.0, modules // split))
    deep = math.ceil(k / split)
    passes, sweeps = math.ceil(m / bm), math.ceil(columns / bn)
    multiplied = groups * passes * bm * 2.0 * columns * deep / call.rate / clock
    streamed = groups * passes * sweeps * bm * deep * call.input_bytes / PORT / clock
    read = min(COLUMNS[-1], max(1.0, bn * bk * call.weight_bytes / (ATOM * BANKS)))
    share = call.efficiency[int(math.log2(read))]
    inputs = groups * m * k * call.input_bytes
    again = inputs * (sweeps - 1.0) * max(0.0, 1.0 - hardware.cache / inputs)
    results = groups * m * n * SUM_BYTES * split
    moved = groups * passes * n * k * call.weight_bytes + inputs + again + results
    memory = moved / (hardware.bandwidth * share)
    out.step = out.latency = out.cache = out.start = out.registers = out.wait = 0.0
    out.launch, out.matrix, out.shared, out.memory = (hardware.latency, multiplied, streamed, memory)
    out.seconds = hardware.latency + join(join(memory, multiplied, SHARP), streamed, SHARP)
    used = groups * passes * bm * 2.0 * n * k / (call.rate * modules * clock)
    out.partial_wave, out.blocks = max(0.0, multiplied - used), 1.0
    out.waves = passes * sweeps * math.ceil(deep / bk)
    out.shared_bytes = 2.0 * bm * bk * call.input_bytes + bm * bn * SUM_BYTES
    out.in_flight = bm * bk * call.input_bytes


@compiled
def rows(parameters: Records, hardware: Records, inputs: Records, configs: Records, out: Records) -> None:
    """Compute the cost of many mappings; see `TiledKernel.rows`."""
    for i in range(configs.shape[0]):
        price(hardware, inputs, configs[i], out[i])


def work(machine: Machine, shape: Shape) -> Records:
    """Return the product, with the DRAM's share of bandwidth by columns of a row, which never falls for more columns."""
    code = CODES[str(shape["dtype"])]
    x = np.zeros(1, CALL)[0]
    x.m, x.n, x.k = (number(shape, key) for key in ("m", "n", "k"))
    x.groups, x.rate = number(shape, "groups"), machine.vector.rate[code]
    x.input_bytes, x.weight_bytes = INPUT_BYTES[C_16], WEIGHT_BYTES[code]
    x.efficiency = np.maximum.accumulate(machine.row_efficiency)
    return x


def space(machine: Machine, shape: Shape) -> I8:
    """Return all mappings: powers of two of rows, columns and depth, and the splits."""
    tall = [1 << i for i in range(8) if 1 << i < 2 * number(shape, "m")]
    return grid_of(tall, (1, 2, 4, 8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512, 1024), (1,), (1,), (1,), SPLITS)


def default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return eight rows, as Duplex's balance of 8 Op/B needs, and sums split over the stacks (section V-A)."""
    stacks = max(1, int(machine.vector.cores) // 32)
    return KernelConfig(8, 64, 128, 1, 1, 1, max(z for z in SPLITS if z <= stacks))


PIM_GEMM = kernel_form(
    TiledKernel("pim_gemm", "matrix products on units in the memory stacks", KEYS,
         ("block_m", "block_n", "block_k", "split"), work, rows, space, default,
         lambda machine, shape: "none", machine=units_of, threads=False)
)  # fmt: skip

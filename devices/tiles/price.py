"""Time of a kernel from the steps of its blocks: the norm of totals that all kernel forms share.

Each total falls or stays where a device gains cores, clock, bandwidth, registers or shared memory, and so
does a norm of them: no device is slower for having more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ...workloads.jit import compiled_part
from ...workloads.records import Records, reals
from ..calibrated.family import parameters_of

PARAMETERS = parameters_of("tiles")
TILE_COST = reals(
    "seconds", "launch", "matrix", "shared", "step", "latency", "cache", "memory", "start", "partial_wave",
    "blocks", "waves", "registers", "shared_bytes", "in_flight", "wait",
)  # fmt: skip
"""Fields of a cost: seconds, each term in isolation [s], resident blocks per core, waves, registers per thread, shared
bytes per block, bytes in flight to a core, and seconds that a step waits."""

SHARP = 6.0
"""Exponent of the norm that joins terms which overlap well: arithmetic, shared memory, and the totals of both."""
DEEPER, WIDER = 0.3, 0.6
"""Exponents for DRAM pages that stay open if a row of a tile does not fill a channel: of the rows of two steps in
flight, and of columns below 64. They order configurations that are otherwise equal (0.5 to 3 % in the tables of four
GPUs)."""
CROWD = 0.6
"""Share of the work of a core's other blocks by which a step gets longer: between blocks that take turns as a whole (0)
and warps that all advance alike (1); fits on four GPUs give 0.5 to 0.65."""


@compiled_part
def join(a: float, b: float, exponent: float) -> float:
    """Return the p-norm of two terms."""
    high: float = max(a, b)
    low: float = min(a, b)
    if high <= 0.0:
        return 0.0
    above: float = (1.0 + (low / high) ** exponent) ** (1.0 / exponent)
    return high * above


class Blocks(NamedTuple):
    """Number of launched blocks, and steps per block.

    `longest` is the steps of the longest block if they differ, else 0.

    Different blocks are assigned longest first.
    """

    launched: float
    steps: float
    longest: float


class BlockStep(NamedTuple):
    """One step of one block.

    `work`: clocks that it occupies a core with, spills included; `alone`: its clocks without other blocks; `buffers`:
    steps on their way at a time; `load`: bytes of one; `spilled`: factor on time of what registers cannot hold.
    """

    work: float
    alone: float
    buffers: float
    load: float
    spilled: float


class Traffic(NamedTuple):
    """Memory traffic [B], bytes of a tile's row, the tile's columns, and bytes of a separate kernel that adds up parts.

    `merged` is 0 without such a kernel.
    """

    moved: float
    row: float
    columns: float
    merged: float


@compiled_part
def finish(
    parameters: Records, hardware: Records, launch: Blocks, step: BlockStep, traffic: Traffic, out: Records
) -> None:
    """Compute seconds and terms of a kernel from its blocks, their steps and traffic.

    `out` has clocks of a step as `matrix`, `shared` and `step`, and what is resident; it gets the rest.
    """
    launched, steps, longest = launch.launched, launch.steps, launch.longest
    work, alone, buffers, spilled = step.work, step.alone, step.buffers, step.spilled
    moved, row, merged = traffic.moved, traffic.row, traffic.merged
    cores, clock, blocks = hardware.cores, hardware.clock, out.blocks
    through = launched * steps * step.load
    lies = min(row * min(buffers, 2.0) ** DEEPER, hardware.channel)
    rate, lost = parameters.memory * hardware.bandwidth, parameters.row_bytes
    narrow = WIDER * (1.0 - lies / hardware.channel)
    memory = moved / rate * (1.0 + lost * (min(traffic.columns, 64.0) / 64.0) ** narrow / lies)
    cache = through / (parameters.cache * hardware.cache_bandwidth) * (1.0 + lost / row)
    near, far = parameters.cache_load_latency * hardware.cache_latency, parameters.load_latency * hardware.latency
    wait = (near + max(0.0, far - near) * min(1.0, moved / through)) * clock
    busiest = math.ceil(launched / cores)
    waves = math.ceil(busiest / blocks)
    of_core, of_slot = busiest * steps, waves * steps
    if longest > 0.0:
        of_core = max(launched * steps / cores, longest)
        of_slot = max(launched * steps / (cores * blocks), longest)
    one = max(alone, (wait + alone) / buffers)
    start = waves * (parameters.start_clocks + wait) / clock
    turn = of_slot * (wait + alone) * spilled + CROWD * (of_core - of_slot) * work
    waiting = max(of_slot * alone * spilled, turn / buffers) / clock + start
    working = of_core * work / clock
    out.seconds = join(join(join(waiting, memory, parameters.overlap), working, SHARP), cache, SHARP)
    out.seconds += parameters.launch_s + alone * spilled / clock  # the last step has nothing beside it
    out.launch = parameters.launch_s
    if merged > 0.0:
        out.seconds += merged / rate + parameters.launch_s
        out.launch += parameters.launch_s
        memory += merged / rate
    out.matrix *= of_core * spilled / clock
    out.shared *= of_core * spilled / clock
    out.step *= of_core * spilled / clock
    out.latency, out.cache, out.memory, out.start = (waiting - start, cache, memory, start)
    out.partial_wave = max(0.0, working * (1.0 - launched * steps / (of_core * cores)))
    out.waves = launched / (cores * blocks)
    out.in_flight = min(blocks, busiest) * buffers * step.load
    out.wait = max(0.0, one - alone) / clock

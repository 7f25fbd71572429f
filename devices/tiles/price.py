"""Seconds of a kernel from what its blocks do: the norm of totals that all kernel forms share.

Each total falls or stays where a device gains cores, clock, bandwidth, registers or shared memory, and so
does a norm of them: no device is slower for having more.
"""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ..calibrated.family import F8, parameters_of
from .machine import M_BANDWIDTH, M_CACHE_BANDWIDTH, M_CACHE_LATENCY, M_CHANNEL, M_CLOCK, M_CORES, M_LATENCY

PARAMETERS = parameters_of("tiles")
(P_LAUNCH, P_MEMORY, P_CACHE, P_SHARED, P_LATENCY, P_CACHE_LATENCY, P_STEP, P_START, P_ROW, P_OVERLAP,
 P_MATRIX, P_MATRIX_LATENCY) = range(12)  # fmt: skip
"""Places in a vector of constants."""


(O_SECONDS, O_LAUNCH, O_MATRIX, O_SHARED, O_STEP, O_LATENCY, O_CACHE, O_MEMORY, O_START, O_PARTIAL,
 O_BLOCKS, O_WAVES, O_REGISTERS, O_SHARED_BYTES, O_IN_FLIGHT, O_WAIT) = range(16)  # fmt: skip
"""Columns of a cost: seconds, each term in isolation [s], blocks of a core, waves, registers of a thread, shared
bytes of a block, bytes in flight to a core, waiting seconds of a step."""
NUM_PRICE = O_WAIT + 1

SHARP = 6.0
"""Exponent that joins what overlaps well: arithmetic, shared memory, and the totals of both."""
DEEPER, WIDER = 0.3, 0.6
"""Exponents of how rows of two steps in flight, and of columns fewer than 64, keep DRAM pages open where a row of a tile
fills no channel: they order configurations that are equal otherwise (0.5 to 3 % in the tables of four GPUs)."""
CROWD = 0.6
"""Share of the work of a core's other blocks that a step lasts longer for: between blocks that take turns as a
whole (0) and warps that all advance alike (1); fits on four GPUs give 0.5 to 0.65."""


@compiled_part
def join(a: float, b: float, exponent: float) -> float:
    """p-norm of two terms."""
    high: float = max(a, b)
    low: float = min(a, b)
    if high <= 0.0:
        return 0.0
    above: float = (1.0 + (low / high) ** exponent) ** (1.0 / exponent)
    return high * above


@compiled_part
def finish(
    parameters: F8, hardware: F8, launched: float, steps: float, longest: float, work: float, alone: float,
    buffers: float, load: float, spilled: float, moved: float, row: float, columns: float,
    merged: float, out: F8,
) -> None:  # fmt: skip
    """Turn what blocks do into seconds and terms.

    Parameters
    ----------
    launched, steps : float
        Blocks, and steps of one.
    longest : float
        Steps of the longest block if they differ, else 0. Different ones are assigned longest first.
    work, alone : float
        Clocks that a step occupies a core with, spills included, and of a step without other blocks.
    buffers, load, spilled : float
        Steps on their way at a time, bytes of one, and the factor of spills.
    moved, row, columns, merged : float
        Bytes of memory traffic; bytes of a row of a tile and its width; bytes of a separate kernel that adds up parts,
        0 without one.
    out : float64 array
        Has clocks of a step in `O_MATRIX`, `O_SHARED` and `O_STEP`, and what is resident; gets the rest.
    """
    cores, clock, blocks = hardware[M_CORES], hardware[M_CLOCK], out[O_BLOCKS]
    through = launched * steps * load
    lies = min(row * min(buffers, 2.0) ** DEEPER, hardware[M_CHANNEL])
    rate, lost = parameters[P_MEMORY] * hardware[M_BANDWIDTH], parameters[P_ROW]
    narrow = WIDER * (1.0 - lies / hardware[M_CHANNEL])
    memory = moved / rate * (1.0 + lost * (min(columns, 64.0) / 64.0) ** narrow / lies)
    cache = through / (parameters[P_CACHE] * hardware[M_CACHE_BANDWIDTH]) * (1.0 + lost / row)
    near, far = parameters[P_CACHE_LATENCY] * hardware[M_CACHE_LATENCY], parameters[P_LATENCY] * hardware[M_LATENCY]
    wait = (near + max(0.0, far - near) * min(1.0, moved / through)) * clock
    busiest = math.ceil(launched / cores)
    waves = math.ceil(busiest / blocks)
    of_core, of_slot = busiest * steps, waves * steps
    if longest > 0.0:
        of_core = max(launched * steps / cores, longest)
        of_slot = max(launched * steps / (cores * blocks), longest)
    one = max(alone, (wait + alone) / buffers)
    start = waves * (parameters[P_START] + wait) / clock
    turn = of_slot * (wait + alone) * spilled + CROWD * (of_core - of_slot) * work
    waiting = max(of_slot * alone * spilled, turn / buffers) / clock + start
    working = of_core * work / clock
    out[O_SECONDS] = join(join(join(waiting, memory, parameters[P_OVERLAP]), working, SHARP), cache, SHARP)
    out[O_SECONDS] += parameters[P_LAUNCH] + alone * spilled / clock  # the last step has nothing beside it
    out[O_LAUNCH] = parameters[P_LAUNCH]
    if merged > 0.0:
        out[O_SECONDS] += merged / rate + parameters[P_LAUNCH]
        out[O_LAUNCH] += parameters[P_LAUNCH]
        memory += merged / rate
    out[O_MATRIX] *= of_core * spilled / clock
    out[O_SHARED] *= of_core * spilled / clock
    out[O_STEP] *= of_core * spilled / clock
    out[O_LATENCY], out[O_CACHE], out[O_MEMORY], out[O_START] = (waiting - start, cache, memory, start)
    out[O_PARTIAL] = max(0.0, working * (1.0 - launched * steps / (of_core * cores)))
    out[O_WAVES] = launched / (cores * blocks)
    out[O_IN_FLIGHT] = min(blocks, busiest) * buffers * load
    out[O_WAIT] = max(0.0, one - alone) / clock

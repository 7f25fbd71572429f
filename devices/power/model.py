"""Power of a device while it runs a kernel: constant power, and energy per work times rate.

Power at the nominal clock is a sum: the idle board, the awake part while kernels run, cores that hold thread blocks
(clock trees and issue), and the energy of matrix products, exponentials, bytes from main memory and bytes from the
last-level cache, each per second. The energy of a FLOP falls with the width of its operands. **The limit.** A board
keeps its mean power below its limit by lowering the clock: power is a smooth minimum of the sum and slightly less than
the limit, because a kernel's phases differ and the highest are cut first. Seconds are at the lower clock, under which
all fitted kernel times were measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .work import Work

F8 = npt.NDArray[np.float64]

HELD = 0.985
"""Mean power over the limit of throttled kernels: of the B200 table's rows with experts of over 2 GB, which stream
at the memory's rate, a quarter reads 984 W or more and 1 % more than 996 W."""
KNEE = 30.0
"""Exponent of the smooth minimum of demand and limit."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Coefficients of one device's power, in SI units.

    Attributes
    ----------
    limit_W : float
        Board power limit.
    idle_W : float
        Board without work.
    awake_W : float
        Power above idle while kernels follow one another, for any amount of work.
    cores_W : float
        Additional power with thread blocks on every core.
    fill : float
        Thread blocks per core at which 63 % of `cores_W` are used.
    J_per_flop_16, J_per_flop_8, J_per_flop_4 : float
        By width of the operands.
    rows : float
        Padding rows in every active expert's tile.
    dram_J_per_byte, cache_J_per_byte, vector_J_per_byte : float
        Main memory; last-level cache and the way to the cores, which every byte takes; inputs and
        outputs of a chain of kernels, all their passes together.
    J_per_score : float
        Energy of the exponential and the sums of one attention score.
    cores : float
        Cores (SMs, CUs).
    kept_bytes : float
        Operands that stay in the last-level cache from one call of a kernel to its next.
    kv_J_per_byte : float
        Energy per byte of keys and values for the cores' work on it in attention, in addition to the byte's.
    """

    limit_W: float
    idle_W: float
    cores: float
    awake_W: float = 0.0
    cores_W: float = 0.0
    fill: float = 1.0
    J_per_flop_16: float = 0.0
    J_per_flop_8: float = 0.0
    J_per_flop_4: float = 0.0
    rows: float = 0.0
    dram_J_per_byte: float = 0.0
    cache_J_per_byte: float = 0.0
    vector_J_per_byte: float = 0.0
    J_per_score: float = 0.0
    kept_bytes: float = 1.0
    kv_J_per_byte: float = 0.0

    @property
    def busy_W(self) -> float:
        """Power above idle with work on all cores, without the energy of that work [W]."""
        return self.awake_W + self.cores_W

    def dynamic_joules(self, work: Work, again: bool = False) -> F8:
        """Return the energy of each call's work [J].

        Parameters
        ----------
        again : bool
            The call repeats the previous one, so that small operands are cached.
        """
        flops = work.flops + self.rows * work.lost
        J_per_flop = np.select(
            [work.bits > 8.0, work.bits > 4.0], [self.J_per_flop_16, self.J_per_flop_8], self.J_per_flop_4
        )
        size = work.stream_bytes
        fetched = size * (1.0 - 1.0 / (1.0 + (size / self.kept_bytes) ** 4)) if again else size
        moved = size + work.vector_bytes
        return (
            J_per_flop * flops
            + self.J_per_score * work.scores
            + self.dram_J_per_byte * fetched
            + self.cache_J_per_byte * moved
            + self.vector_J_per_byte * work.vector_bytes
        )

    def demand_W(self, work: Work, again: bool = False) -> F8:
        """Return the power of the board at its nominal clock without a limit."""
        filled = 1.0 - np.exp(-work.blocks / self.cores / self.fill)
        dynamic = self.dynamic_joules(work, again) / work.seconds
        return self.idle_W + self.awake_W + self.cores_W * filled + dynamic

    def limited_W(self, demand: F8) -> F8:
        """Return the power below the limit, by a lower clock if the demand exceeds it."""
        top = HELD * self.limit_W
        low, high = np.minimum(demand, top), np.maximum(demand, top)
        out: F8 = low * (1.0 + (low / high) ** KNEE) ** (-1.0 / KNEE)
        return out

    def power_W(self, work: Work, again: bool = False) -> F8:
        """Return the mean power of the board while it repeats such kernels [W]."""
        return self.limited_W(self.demand_W(work, again))

"""One core of a CPU as its kernels see it: vector registers, caches, and what it reaches of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

WHOLE = ("lanes", "registers")
"""Counts of a core, the first of its fields."""


@dataclass(frozen=True, slots=True)
class Core:
    """Numbers of one core.

    Attributes
    ----------
    lanes, registers : int
        fp32 values of a vector register, and vector registers.
    l1_bytes, l2_bytes, l3_bytes : float
        Caches: two private ones and the shared one.
    fma_flops_per_s : float
        fp32, on registers.
    read_Bps, l2_Bps, l3_Bps : float
        Read from main memory and from the caches [B/s].
    """

    lanes: int
    registers: int
    l1_bytes: float
    l2_bytes: float
    l3_bytes: float
    fma_flops_per_s: float
    read_Bps: float
    l2_Bps: float
    l3_Bps: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Core:
        """A core from a table's row, or any mapping of its numbers."""
        sizes: dict[str, Any] = {f.name: float(row[f.name]) for f in fields(cls) if f.name not in WHOLE}
        return cls(*(int(row[name]) for name in WHOLE), **sizes)

    @property
    def slot_s(self) -> float:
        """Return the seconds of one vector FMA, and of a vector load, at full rate."""
        return 2.0 * self.lanes / self.fma_flops_per_s

    def rate(self, working_set: float) -> float:
        """Return the bytes per second at which a working set of `working_set` bytes is read again."""
        if working_set <= self.l1_bytes:
            return 4.0 * self.lanes / self.slot_s
        if working_set <= self.l2_bytes:
            return self.l2_Bps
        return self.l3_Bps if working_set <= self.l3_bytes else self.read_Bps

"""Memory in tiers with different row times, data placed by heat, and its kind of processor.

An access takes its tier's row activation plus a part that is equal in all tiers. The most often read data is in the
fastest tier (Stratum, MICRO 2025, arXiv 2510.05245: layers of monolithic 3D DRAM, whose far layers have longer word
lines).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from opbyte.extend import Described, Roofline, processor_kind

F8 = npt.NDArray[np.float64]
TIERS = 8


@dataclass(frozen=True, slots=True)
class Tiers:
    """Tiers of equal size, fastest first.

    Attributes
    ----------
    rcd_s : tuple of float
        Row activation of each tier [s].
    slowest_share : float
        Bandwidth of the last tier over the first.

    Raises
    ------
    ValueError
        Tiers that are not in order, or a share that they cannot have.
    """

    rcd_s: tuple[float, ...]
    slowest_share: float

    def __post_init__(self) -> None:
        if min(self.rcd_s, default=0.0) <= 0 or list(self.rcd_s) != sorted(self.rcd_s):
            raise ValueError("row activations of tiers must be positive and grow")
        if not self.rcd_s[0] / self.rcd_s[-1] <= self.slowest_share <= 1:
            raise ValueError("slowest_share must be between the tiers' shortest over longest activation and 1")

    @property
    def common_s(self) -> float:
        """What an access takes besides its row's activation, from the two bandwidths [s]."""
        first, last, share = self.rcd_s[0], self.rcd_s[-1], self.slowest_share
        return (share * last - first) / (1 - share) if share < 1 else np.inf

    @property
    def slowness(self) -> F8:
        """Time of an access over that in the fastest tier, shape (tiers,)."""
        if self.slowest_share == 1:
            return np.ones(len(self.rcd_s))
        took = np.array(self.rcd_s) + self.common_s
        return np.asarray(took / took[0])

    def placed(self, sizes: Sequence[float] | F8, heats: Sequence[float] | F8) -> float:
        """Return the mean slowness of accesses if the hottest data is in the fastest tiers.

        Parameters
        ----------
        sizes : array of float
            Shares of the whole memory; together at most 1.
        heats : array of float
            How often a byte of each is read, in any unit.

        Raises
        ------
        ValueError
            More data than memory, or nothing that is read.
        """
        size, heat = np.asarray(sizes, dtype=np.float64), np.asarray(heats, dtype=np.float64)
        if size.sum() > 1 + 1e-9 or (size < 0).any() or (heat < 0).any():
            raise ValueError("data must fit the memory, and neither sizes nor heats be negative")
        reads = size * heat
        if reads.sum() <= 0:
            raise ValueError("something must be read")
        order = np.argsort(-heat, kind="stable")
        ends = np.cumsum(size[order])
        starts = ends - size[order]
        edges = np.arange(len(self.rcd_s) + 1) / len(self.rcd_s)
        inside = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
        took = np.maximum(inside, 0.0) @ self.slowness
        return float((took * heat[order]).sum() / reads.sum())

    def gain(self, sizes: Sequence[float] | F8, heats: Sequence[float] | F8) -> float:
        """Rate with data placed by heat over that where every access takes the slowest tier's time."""
        return float(self.slowness[-1]) / self.placed(sizes, heats)


def tiers_of(parameters: Mapping[str, float]) -> Tiers:
    """The tiers of a processor's parameters."""
    times = tuple(parameters[f"rcd_{i + 1}_s"] for i in range(TIERS))
    return Tiers(times, parameters["slowest_share"])


@processor_kind("tiered-pim", parameters=(*(f"rcd_{i + 1}_s" for i in range(TIERS)), "slowest_share", "used"))
def tiered_pim(described: Described) -> Roofline:
    """Units under a memory of eight tiers, of which data takes the fastest `used` share (Stratum)."""
    given = described.parameters
    tiers = tiers_of(given)
    if not 0 < given["used"] <= 1:
        raise ValueError("used must be above 0 and at most 1")
    share = described.base.memory_efficiency / tiers.placed([given["used"]], [1.0])
    return replace(described.base, memory_efficiency=share)

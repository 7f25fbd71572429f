"""Settings of KV cache tiers: memories below device memory, and the rules for writes and loads."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

WRITES = ("through", "back")
"""Write rules: `through` copies a block to all tiers when it is computed; `back` when it leaves the memory above."""
LOADS = ("always", "cheaper")
"""Load rules: `always` loads all blocks that are found; `cheaper` loads them only if this is faster than computing them."""


@dataclass(frozen=True, slots=True)
class KvTier:
    """One memory below device memory.

    Attributes
    ----------
    name : str
        host, disk or shared.
    capacity_bytes : float
        Capacity for the devices of one replica; of `shared`, for all replicas [B].
    bandwidth_bytes_per_s : float
        Bandwidth of one device's link in one direction [B/s]; a device moves its own part of each block.
    latency_s : float
        Latency of one transfer [s].
    source : str
        Source of bandwidth and latency.
    """

    name: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float
    source: str = "given"

    @property
    def paced(self) -> bool:
        """Return whether the tier's bandwidth is finite, so that transfers take time."""
        return isfinite(self.bandwidth_bytes_per_s)

    @property
    def shared(self) -> bool:
        """Return whether all replicas share this tier."""
        return self.name == "shared"


@dataclass(frozen=True, slots=True)
class TierSettings:
    """KV cache tiers from the nearest to the farthest, and their rules.

    Attributes
    ----------
    write : str
        One of `WRITES`.
    load : str
        One of `LOADS`.
    prefetch : bool
        Whether blocks of an arriving request are copied from lower tiers to the first tier.
    """

    tiers: tuple[KvTier, ...]
    write: str = "through"
    load: str = "always"
    prefetch: bool = False

    @property
    def host(self) -> int:
        """Return the level of the host memory tier; -1 if there is none."""
        return next((i for i, tier in enumerate(self.tiers) if tier.name == "host"), -1)

"""KV cache tiers as they are asked for: memories below those of the devices, and the rules between them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

WRITES = ("through", "back")
"""When a block is copied: as soon as it is computed, to all tiers; or as it leaves the memory above."""
LOADS = ("always", "cheaper")
"""When found blocks are loaded: always, or where that is sooner than computing them."""


@dataclass(frozen=True, slots=True)
class KvTier:
    """One memory below the devices' own.

    Attributes
    ----------
    name : str
        host, disk or shared.
    capacity_bytes : float
        Of a replica's devices together; of `shared`, of all replicas [B].
    bandwidth_bytes_per_s : float
        One way of one device, which moves its own part of every block.
    latency_s : float
        Of one transfer [s].
    source : str
        Where rate and latency come from.
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
    """Tiers from the nearest to the farthest, and their rules.

    Attributes
    ----------
    write : str
        One of `WRITES`.
    load : str
        One of `LOADS`.
    prefetch : bool
        Whether blocks of a request that arrives are brought to the first tier from those below.
    """

    tiers: tuple[KvTier, ...]
    write: str = "through"
    load: str = "always"
    prefetch: bool = False

    @property
    def host(self) -> int:
        """Return the level of the host memory tier; -1 if there is none."""
        return next((i for i, tier in enumerate(self.tiers) if tier.name == "host"), -1)

"""Sparse gathers and scatters: chunks go to the devices that want them, or their sums back to the owners.

As FSSDP moves experts (arXiv 2502.02581, section 3.1). The message is what the device with most chunks gets, or sends:
how many that are follows from a map of chunks, which is the caller's. Owners are taken to lie evenly on all devices.
"""

from __future__ import annotations

from .plans import ALGORITHMS, Hop, Plan, Topology
from .sums import level_hops


@ALGORITHMS.register("sparse_gather:flat")
def flat_gather(topology: Topology) -> Plan:
    """Every chunk straight from its owner, all at once."""
    return _straight(topology)


@ALGORITHMS.register("sparse_scatter:flat")
def flat_scatter(topology: Topology) -> Plan:
    """Every chunk's sums straight to its owner, all at once."""
    return _straight(topology)


@ALGORITHMS.register("sparse_gather:hierarchical")
def hierarchical_gather(topology: Topology) -> Plan:
    """Chunks that all devices of a node want cross into it once, shared over its links, and go around."""
    return Plan("hierarchical", level_hops(topology, rounds=1), topology.ranks, 1.0)


@ALGORITHMS.register("sparse_scatter:hierarchical")
def hierarchical_scatter(topology: Topology) -> Plan:
    """Sums over the devices of a node first, which then cross to the owner once."""
    return Plan("hierarchical", level_hops(topology, rounds=1), topology.ranks, 1.0)


def _straight(topology: Topology) -> Plan:
    """One message time a level; a chunk comes from each of the other devices alike."""
    hops, inside = [], 1
    for level in topology.levels:
        reached = inside * level.ranks
        if level.ranks > 1:
            hops.append(Hop(level.link, 1.0, (reached - inside) / (topology.ranks - 1)))
        inside = reached
    return Plan("flat", tuple(hops), topology.ranks, 1.0)

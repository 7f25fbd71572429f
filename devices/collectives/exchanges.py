"""All-to-alls by algorithm: every device sends each other one its share of a buffer.

The buffer is what one device would send if none shared its tokens. DeepSpeed-MoE (arXiv 2201.05596,
section 5.3) compares the first, second and fourth.
"""

from __future__ import annotations

from .plans import ALGORITHMS, Hop, Level, Plan, Topology


@ALGORITHMS.register("all_to_all:flat")
def flat(topology: Topology) -> Plan:
    """A message to every device, one after another."""
    return Plan("flat", _peers(topology), topology.ranks, 1.0)


@ALGORITHMS.register("all_to_all:hierarchical")
def hierarchical(topology: Topology) -> Plan:
    """Level by level from the innermost out: fewer messages, the whole buffer on every level."""
    levels = [level for level in topology.levels if level.ranks > 1]
    hops = tuple(Hop(level.link, level.ranks - 1, _away(level)) for level in levels)
    return Plan("hierarchical", hops, sum(level.ranks for level in levels), float(len(levels)))


@ALGORITHMS.register("all_to_all:coordinated")
def coordinated(topology: Topology) -> Plan:
    """Devices of equal slice among each other, each its part of the slices' common tokens.

    What follows, a gather over the slices, is the all-reduce that ends a tensor-parallel layer.
    """
    thin = topology.thinned()
    hops = tuple(Hop(hop.link, hop.messages, hop.traffic / topology.slices) for hop in _peers(thin))
    return Plan("coordinated", hops, thin.ranks, 1.0 / topology.slices)


@ALGORITHMS.register("all_to_all:coordinated-hierarchical")
def coordinated_hierarchical(topology: Topology) -> Plan:
    """Devices of equal slice among each other, level by level."""
    inner = hierarchical(topology.thinned())
    hops = tuple(Hop(hop.link, hop.messages, hop.traffic / topology.slices) for hop in inner.hops)
    return Plan("coordinated-hierarchical", hops, inner.participants, inner.passes / topology.slices)


def _away(level: Level) -> float:
    """Share of a buffer that is not one's own among the groups of a level."""
    return (level.ranks - 1) / level.ranks


def _peers(topology: Topology) -> tuple[Hop, ...]:
    """A message to every peer over the level that joins it with oneself."""
    out, inside = [], 1
    for level in topology.levels:
        reached = inside * level.ranks
        if level.ranks > 1:
            peers = reached - inside
            out.append(Hop(level.link, peers, peers / topology.ranks))
        inside = reached
    return tuple(out)

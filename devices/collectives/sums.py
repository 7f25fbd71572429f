"""All-reduces, reduce-scatters and all-gathers by algorithm: rings, trees, and level by level."""

from __future__ import annotations

from math import ceil, log2

from .plans import ALGORITHMS, CollectivePlan, Hop, Level, Topology


@ALGORITHMS.register("all_reduce:ring")
def ring_all_reduce(topology: Topology) -> CollectivePlan:
    """One ring through all devices: bandwidth-optimal, 2 (n - 1) steps (Patarasuk and Yuan 2009)."""
    return _ring("ring", topology, rounds=2)


@ALGORITHMS.register("all_reduce:hierarchical")
def hierarchical_all_reduce(topology: Topology) -> CollectivePlan:
    """Reduce-scatter on inner levels, all-reduce on the outermost, all-gather back: rings each."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds=2), topology.ranks, 2.0)


@ALGORITHMS.register("all_reduce:tree")
def tree_all_reduce(topology: Topology) -> CollectivePlan:
    """Two trees with half of the message each: 2 log2 n steps (Sanders, Speck and Traeff 2009).

    Each level's message is what the level below leaves of it: devices of a node share the sending.
    """
    hops, share = [], 1.0
    for level in topology.levels:
        if level.ranks > 1:
            hops.append(Hop(level.link, 2 * ceil(log2(level.ranks)), 2.0 * share))
        share /= level.ranks
    return CollectivePlan("tree", tuple(hops), topology.ranks, 2.0)


@ALGORITHMS.register("reduce_scatter:ring")
def ring_reduce_scatter(topology: Topology) -> CollectivePlan:
    """One ring through all devices, n - 1 steps."""
    return _ring("ring", topology, rounds=1)


@ALGORITHMS.register("reduce_scatter:hierarchical")
def hierarchical_reduce_scatter(topology: Topology) -> CollectivePlan:
    """A ring on each level, from the innermost out."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds=1), topology.ranks, 1.0)


@ALGORITHMS.register("all_gather:ring")
def ring_all_gather(topology: Topology) -> CollectivePlan:
    """One ring through all devices, n - 1 steps."""
    return _ring("ring", topology, rounds=1)


@ALGORITHMS.register("all_gather:hierarchical")
def hierarchical_all_gather(topology: Topology) -> CollectivePlan:
    """A ring on each level, from the outermost in."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds=1), topology.ranks, 1.0)


def _ring(name: str, topology: Topology, rounds: int) -> CollectivePlan:
    """A ring that crosses every level; the slowest link sets the pace of all steps."""
    n = topology.ranks
    used: list[Level] = [level for level in topology.levels if level.ranks > 1]
    if not used:
        return CollectivePlan(name, (), n, float(rounds))
    latest = max(used, key=lambda level: level.link.latency_s).link
    slowest = min(used, key=lambda level: level.link.bandwidth_bytes_per_s).link
    hops = Hop(latest, rounds * (n - 1), 0.0), Hop(slowest, 0.0, rounds * (n - 1) / n)
    return CollectivePlan(name, hops, n, float(rounds))


def level_hops(topology: Topology, rounds: int) -> tuple[Hop, ...]:
    """A ring among the groups of each level, with what the levels below leave of the message."""
    hops, share = [], float(rounds)
    for level in topology.levels:
        if level.ranks > 1:
            steps = level.ranks - 1
            hops.append(Hop(level.link, rounds * steps, share * steps / level.ranks))
        share /= level.ranks
    return tuple(hops)

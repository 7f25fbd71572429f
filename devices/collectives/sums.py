"""All-reduces, reduce-scatters and all-gathers by algorithm: rings, trees, and level by level."""

from __future__ import annotations

from functools import partial
from math import ceil, log2

from .plans import ALGORITHMS, CollectivePlan, Hop, Level, Topology


@ALGORITHMS.register("all_reduce:tree")
def tree_all_reduce(topology: Topology) -> CollectivePlan:
    """Two trees with half of the message each: 2 log2 n steps (Sanders, Speck and Traeff 2009).

    Each level's message is reduced by the level below: devices of a node share the sending.
    """
    hops, share = [], 1.0
    for level in topology.levels:
        if level.ranks > 1:
            hops.append(Hop(level.link, 2 * ceil(log2(level.ranks)), 2.0 * share))
        share /= level.ranks
    return CollectivePlan("tree", tuple(hops), topology.ranks, 2.0)


def _ring(rounds: int, topology: Topology) -> CollectivePlan:
    """Return a ring over every level; the slowest link limits all steps."""
    n = topology.ranks
    used: list[Level] = [level for level in topology.levels if level.ranks > 1]
    if not used:
        return CollectivePlan("ring", (), n, float(rounds))
    latest = max(used, key=lambda level: level.link.latency_s).link
    slowest = min(used, key=lambda level: level.link.bandwidth_bytes_per_s).link
    hops = Hop(latest, rounds * (n - 1), 0.0), Hop(slowest, 0.0, rounds * (n - 1) / n)
    return CollectivePlan("ring", hops, n, float(rounds))


def level_hops(topology: Topology, rounds: int) -> tuple[Hop, ...]:
    """A ring among the groups of each level, with what the levels below leave of the message."""
    hops, share = [], float(rounds)
    for level in topology.levels:
        if level.ranks > 1:
            steps = level.ranks - 1
            hops.append(Hop(level.link, rounds * steps, share * steps / level.ranks))
        share /= level.ranks
    return tuple(hops)


def _hierarchical(rounds: int, topology: Topology) -> CollectivePlan:
    """A ring on each level."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds), topology.ranks, float(rounds))


RINGS = {
    "all_reduce": (
        2, "One ring through all devices: bandwidth-optimal, 2 (n - 1) steps (Patarasuk and Yuan 2009)",
        "Reduce-scatter on inner levels, all-reduce on the outermost, all-gather back: rings each",
    ),
    "reduce_scatter": (1, "One ring through all devices, n - 1 steps", "A ring on each level, from the innermost out"),
    "all_gather": (1, "One ring through all devices, n - 1 steps", "A ring on each level, from the outermost in"),
}  # fmt: skip
"""Kind -> times that the message goes round, and what its ring and its rings by level are."""
for _kind, (_rounds, _one, _each) in RINGS.items():
    ALGORITHMS.register(f"{_kind}:ring", _one)(partial(_ring, _rounds))
    ALGORITHMS.register(f"{_kind}:hierarchical", _each)(partial(_hierarchical, _rounds))

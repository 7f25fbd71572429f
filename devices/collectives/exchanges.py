"""All-to-alls by algorithm: every device sends each other one its share of a buffer; sparse gathers and scatters.

The buffer is the data of one device without sharing. DeepSpeed-MoE (arXiv 2201.05596, section 5.3) compares the first,
second and fourth. Sparse ones send chunks to the devices that need them, or their sums back to the owners, as FSSDP
moves experts (arXiv 2502.02581, section 3.1): the message is the largest amount that a device receives, or sends, from
the caller's map of chunks. Owners are assumed evenly on all devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import ceil, log2

from ..spec import LinkSpec
from .plans import ALGORITHMS, Algorithm, CollectivePlan, Hop, Level, Topology

# All-reduces, reduce-scatters and all-gathers by algorithm: rings, trees, and level by level.


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
    """Return the hops of a ring among the groups of each level, for the part of the message that inner levels leave."""
    hops, share = [], float(rounds)
    for level in topology.levels:
        if level.ranks > 1:
            steps = level.ranks - 1
            hops.append(Hop(level.link, rounds * steps, share * steps / level.ranks))
        share /= level.ranks
    return tuple(hops)


def _hierarchical(rounds: int, topology: Topology) -> CollectivePlan:
    """Return a plan with a ring on each level."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds), topology.ranks, float(rounds))


RINGS = {
    "all_reduce": (
        2, "One ring through all devices: bandwidth-optimal, 2 (n - 1) steps (Patarasuk and Yuan 2009)",
        "Reduce-scatter on inner levels, all-reduce on the outermost, all-gather back: rings each",
    ),
    "reduce_scatter": (1, "One ring through all devices, n - 1 steps", "A ring on each level, from the innermost out"),
    "all_gather": (1, "One ring through all devices, n - 1 steps", "A ring on each level, from the outermost in"),
}  # fmt: skip
"""Number of rounds of the message by kind of collective, and descriptions of its ring and of its rings by level."""
for _kind, (_rounds, _one, _each) in RINGS.items():
    ALGORITHMS.register(f"{_kind}:ring", _one)(partial(_ring, _rounds))
    ALGORITHMS.register(f"{_kind}:hierarchical", _each)(partial(_hierarchical, _rounds))


@ALGORITHMS.register("all_to_all:flat")
def flat(topology: Topology) -> CollectivePlan:
    """A message to every device, one after another."""
    hops = tuple(Hop(link, peers, peers / topology.ranks) for link, peers in _peers(topology))
    return CollectivePlan("flat", hops, topology.ranks, 1.0)


@ALGORITHMS.register("all_to_all:hierarchical")
def hierarchical(topology: Topology) -> CollectivePlan:
    """Level by level from the innermost out: fewer messages, the whole buffer on every level."""
    levels = [level for level in topology.levels if level.ranks > 1]
    hops = tuple(Hop(level.link, level.ranks - 1, (level.ranks - 1) / level.ranks) for level in levels)
    return CollectivePlan("hierarchical", hops, sum(level.ranks for level in levels), float(len(levels)))


@ALGORITHMS.register("all_to_all:coordinated")
def coordinated(topology: Topology) -> CollectivePlan:
    """Devices of equal slice exchange with each other, each its part of the slices' common tokens.

    The next step, a gather over the slices, is the all-reduce at the end of a tensor-parallel layer.
    """
    return _sliced("coordinated", topology, flat)


@ALGORITHMS.register("all_to_all:coordinated-hierarchical")
def coordinated_hierarchical(topology: Topology) -> CollectivePlan:
    """Devices of equal slice exchange with each other, level by level."""
    return _sliced("coordinated-hierarchical", topology, hierarchical)


def _sliced(name: str, topology: Topology, algorithm: Algorithm) -> CollectivePlan:
    inner = algorithm(topology.thinned())
    hops = tuple(replace(hop, traffic=hop.traffic / topology.slices) for hop in inner.hops)
    return CollectivePlan(name, hops, inner.participants, inner.passes / topology.slices)


def _peers(topology: Topology) -> Iterator[tuple[LinkSpec, int]]:
    """Yield the link of every level that joins devices, and the number of a device's peers over it."""
    inside = 1
    for level in topology.levels:
        reached = inside * level.ranks
        if level.ranks > 1:
            yield level.link, reached - inside
        inside = reached


@ALGORITHMS.register("sparse_scatter:flat", "Every chunk's sums straight to its owner, all at once")
@ALGORITHMS.register("sparse_gather:flat", "Every chunk straight from its owner, all at once")
def straight(topology: Topology) -> CollectivePlan:
    """One message time per level; one chunk comes from each of the other devices."""
    hops = tuple(Hop(link, 1.0, peers / (topology.ranks - 1)) for link, peers in _peers(topology))
    return CollectivePlan("flat", hops, topology.ranks, 1.0)


@ALGORITHMS.register(
    "sparse_scatter:hierarchical", "Sums over the devices of a node first, which then cross to the owner once"
)
@ALGORITHMS.register(
    "sparse_gather:hierarchical",
    "Chunks for all devices of a node enter it once, shared over its links, and are passed around",
)
def by_level(topology: Topology) -> CollectivePlan:
    """One round over every level."""
    return CollectivePlan("hierarchical", level_hops(topology, rounds=1), topology.ranks, 1.0)

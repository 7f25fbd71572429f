"""All-to-alls by algorithm: every device sends each other one its share of a buffer; sparse gathers and scatters.

The buffer is the data of one device without sharing. DeepSpeed-MoE (arXiv 2201.05596, section 5.3) compares the first,
second and fourth. Sparse ones send chunks to the devices that need them, or their sums back to the owners, as FSSDP
moves experts (arXiv 2502.02581, section 3.1): the message is the largest amount that a device receives, or sends, from
the caller's map of chunks. Owners are assumed evenly on all devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..spec import LinkSpec
from .plans import ALGORITHMS, Algorithm, CollectivePlan, Hop, Topology
from .sums import level_hops


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
    """Devices of equal slice among each other, each its part of the slices' common tokens.

    The next step, a gather over the slices, is the all-reduce at the end of a tensor-parallel layer.
    """
    return _sliced("coordinated", topology, flat)


@ALGORITHMS.register("all_to_all:coordinated-hierarchical")
def coordinated_hierarchical(topology: Topology) -> CollectivePlan:
    """Devices of equal slice among each other, level by level."""
    return _sliced("coordinated-hierarchical", topology, hierarchical)


def _sliced(name: str, topology: Topology, algorithm: Algorithm) -> CollectivePlan:
    inner = algorithm(topology.thinned())
    hops = tuple(replace(hop, traffic=hop.traffic / topology.slices) for hop in inner.hops)
    return CollectivePlan(name, hops, inner.participants, inner.passes / topology.slices)


def _peers(topology: Topology) -> Iterator[tuple[LinkSpec, int]]:
    """The link of every level that joins devices, and how many peers of a device are over it."""
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

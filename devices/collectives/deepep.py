"""All-to-alls of DeepEP (github.com/deepseek-ai/DeepEP): its two modes, as its README describes them.

Assumed: routing spreads a token's copies evenly over nodes; a copy of half the bytes (8-bit dispatch) is
the op's matter; what threads do beside the links is hidden.
"""

from __future__ import annotations

from math import prod

from .plans import ALGORITHMS, CollectivePlan, Hop, Topology


@ALGORITHMS.register("all_to_all:deepep-normal")
def normal(topology: Topology) -> CollectivePlan:
    """DeepEP's kernels for prompts and training: one copy to a node, then on to its devices."""
    inside, nodes = topology.levels[0], prod(level.ranks for level in topology.levels[1:])
    hops = []
    if nodes > 1:
        copies = topology.copies
        distinct = nodes * (1.0 - (1.0 - 1.0 / nodes) ** copies)
        link = topology.levels[topology.outermost].link
        hops.append(Hop(link, 1.0, distinct / copies * (nodes - 1) / nodes))
    if inside.ranks > 1:
        hops.append(Hop(inside.link, 1.0, (inside.ranks - 1) / inside.ranks))
    return _shared("deepep-normal", topology, hops, float(len(hops)), at_once=True)


@ALGORITHMS.register("all_to_all:deepep-low-latency")
def low_latency(topology: Topology) -> CollectivePlan:
    """DeepEP's kernels for decoding: every copy straight to its device, all at once, past the node's links."""
    n = topology.ranks
    link = topology.levels[topology.outermost].link
    return _shared("deepep-low-latency", topology, [Hop(link, 1.0, (n - 1) / n)], 1.0)


def _shared(name: str, topology: Topology, hops: list[Hop], passes: float, at_once: bool = False) -> CollectivePlan:
    """Devices of a rank share the sending of its tokens."""
    slices = topology.slices
    if topology.ranks == 1:
        return CollectivePlan(name, (), 1, 0.0)
    own = tuple(Hop(hop.link, hop.messages, hop.traffic / slices) for hop in hops)
    return CollectivePlan(name, own, topology.ranks, passes / slices, at_once)

"""DeepSeek's EPLB: copies of experts where a copy's load is largest, packed so that devices are loaded alike.

As published (github.com/deepseek-ai/EPLB, eplb.py) and as vLLM (vllm/distributed/eplb) and SGLang
(sglang/srt/eplb) have it, but that loads keep their 64 bits, and of equal ones the first comes first.
"""

from __future__ import annotations

import numpy as np

from ...deploy.expert_maps import F8, I8, Sites


def globally(loads: F8, sites: Sites) -> I8:
    """Experts in the slots of every group of devices, wherever their nodes are; shape (groups, slots)."""
    return _shared(loads, np.arange(sites.experts), sites.groups, sites.slots)


def by_node(loads: F8, sites: Sites) -> I8:
    """The same, but a model's groups of experts are packed on nodes first, and copied within theirs.

    `Sites.deals_by_node` says whether they can be.
    """
    nodes, size = sites.whole_nodes, sites.experts // sites.expert_groups
    slots_of = []
    for held in packed(loads.reshape(-1, size).sum(axis=1), nodes):
        members = (held[:, None] * size + np.arange(size)).reshape(-1)
        slots_of.append(_shared(loads[members], members, sites.groups // nodes, sites.slots))
    return np.vstack(slots_of)


def _shared(loads: F8, experts: I8, groups: int, slots: int) -> I8:
    """Experts and their copies on groups of devices, each with the given slots."""
    copies, line = np.ones(len(experts)), [*range(len(experts))]
    while len(line) < groups * slots:  # one more of the expert whose copies are loaded most
        line.append(int((loads / copies).argmax()))
        copies[line[-1]] += 1
    every = np.array(line, dtype=np.int64)
    return experts[every[packed((loads / copies)[every], groups)]]


def packed(loads: F8, packs: int) -> I8:
    """Things of these loads in packs of equally many, by falling load each to the lightest with room.

    Packs of one thing hold them in order. Shape (packs, things of a pack).
    """
    size_of_pack = len(loads) // packs
    if size_of_pack == 1:
        return np.arange(packs)[:, None]
    packs_of: list[list[int]] = [[] for _ in range(packs)]
    weight = np.zeros(packs)
    for thing in np.argsort(-loads, kind="stable").tolist():
        pack = int(weight.argmin())
        packs_of[pack].append(thing)
        weight[pack] += loads[thing] if len(packs_of[pack]) < size_of_pack else np.inf
    return np.array(packs_of, dtype=np.int64)

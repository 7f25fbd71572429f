"""Policies that make maps of experts out of the loads of experts.

A policy is one function of the loads of a layer's experts (tokens of each, in any unit) and of where
they can lie; it gives the experts in the slots of every group.

As published (github.com/deepseek-ai/EPLB, eplb.py) and as vLLM (vllm/distributed/eplb) and SGLang
(sglang/srt/eplb) have it, but that loads keep their 64 bits, and of equal ones the first comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....workloads.errors import InputError
from ....workloads.registry import Registry, first_line
from ...deploy.expert_maps import F8, I8, Sites


def globally(loads: F8, sites: Sites) -> I8:
    """Experts in the slots of every group of devices, wherever their nodes are; shape (groups, slots)."""
    return _shared(loads, np.arange(sites.experts), sites.groups, sites.slots)


def by_node(loads: F8, sites: Sites) -> I8:
    """The same, but a model's groups of experts are packed on nodes first, and copied within theirs.

    `Sites.distributes_by_node` says whether they can be.
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


Make = Callable[[F8, Sites], I8]


@dataclass(frozen=True, slots=True)
class MapPolicy:
    """A policy as registered.

    Attributes
    ----------
    make : callable
        ``make(loads, sites)``: experts in the slots of every group, shape (groups, slots).
    needs_nodes : bool
        Refused where the nodes do not divide the model's groups of experts (`Sites.distributes_by_node`).
    """

    make: Make
    needs_nodes: bool = False


MAP_POLICIES: Registry[MapPolicy] = Registry("expert placement", described=True)


def map_policy(name: str, *, needs_nodes: bool = False) -> Callable[[Make], Make]:
    """Register a function that makes maps; see `MapPolicy`.

    Raises
    ------
    InputError
        The name is taken, or the function has no docstring.
    """

    def add(make: Make) -> Make:
        MAP_POLICIES.register(name, first_line(make))(MapPolicy(make, needs_nodes))
        return make

    return add


@map_policy("even")
def even(loads: F8, sites: Sites) -> I8:
    """In order, for any loads; copies are the experts of the next device."""
    return _followed(_in_order(sites), sites)


@map_policy("round-robin")
def round_robin(loads: F8, sites: Sites) -> I8:
    """One by one over the devices (vLLM's round_robin); copies as in even."""
    _in_order(sites)
    return _followed(np.arange(sites.experts).reshape(sites.own, sites.groups).T.copy(), sites)


@map_policy("wrapped")
def wrapped(loads: F8, sites: Sites) -> I8:
    """Slots filled in order, after the last expert with the first ones again (SGLang's trivial)."""
    slots = np.arange(sites.groups * sites.slots) % sites.experts
    return slots.reshape(sites.groups, sites.slots)


@map_policy("sorted")
def by_load(loads: F8, sites: Sites) -> I8:
    """By falling load, back and forth over the devices; copies as in even."""
    _in_order(sites)
    order = np.argsort(-loads, kind="stable").reshape(sites.own, sites.groups)
    order[1::2] = order[1::2, ::-1]
    return _followed(np.ascontiguousarray(order.T), sites)


def _in_order(sites: Sites) -> I8:
    """Return the experts of each group in order, equally many per group, shape (groups, experts per group).

    Raises
    ------
    InputError
        If the number of experts is not a multiple of the number of groups.
    """
    if sites.experts % sites.groups:
        raise InputError(
            "--expert-placement", f"{sites.experts} experts cannot be distributed to {sites.groups} groups in equal "
            "numbers; use balanced, eplb or wrapped, which fill the groups with copies",
        )  # fmt: skip
    return np.arange(sites.experts).reshape(sites.groups, sites.own)


def _followed(experts: I8, sites: Sites) -> I8:
    """Return the expert of every slot, shape (groups, slots).

    A group's first slots have the experts assigned to it. Its other slots have redundant experts: those of the next groups.
    """
    line, extra = experts.reshape(-1), sites.slots - sites.own
    first = (np.arange(sites.groups)[:, None] + 1) * sites.own
    return np.hstack([experts, line[(first + np.arange(extra)) % sites.experts]])


@map_policy("replicated")
def replicated(loads: F8, sites: Sites) -> I8:
    """Place evenly, and keep on every device copies of the most loaded experts that it lacks."""
    return _hottest(even(loads, sites)[:, : sites.own], loads, sites)


@map_policy("fssdp")
def fssdp(loads: F8, sites: Sites) -> I8:
    """Hecate's: the most loaded on every device, the others on the least loaded node and device."""
    _in_order(sites)
    hot = np.argsort(-loads, kind="stable")[: sites.slots - sites.own]
    cold = loads.copy()
    cold[hot] = 0.0  # every device serves its own tokens of these
    shares = [(float(cold[e]), int(e)) for e in np.argsort(-cold, kind="stable")]
    packed = _packed(shares, sites.nodes, sites.own)
    return _hottest(packed, loads, sites)


def _hottest(experts: I8, loads: F8, sites: Sites) -> I8:
    """Groups' own experts, then copies of the most loaded ones that each has not got."""
    order, extra = np.argsort(-loads, kind="stable"), sites.slots - sites.own
    copies = [order[~np.isin(order, row)][:extra] for row in experts]
    return np.hstack([experts, np.array(copies, dtype=np.int64).reshape(sites.groups, extra)])


@map_policy("balanced")
def balanced(loads: F8, sites: Sites) -> I8:
    """Copies where the load of one is largest, packed so that devices are loaded alike (EPLB, global)."""
    return globally(loads, sites)


@map_policy("balanced-by-node", needs_nodes=True)
def balanced_by_node(loads: F8, sites: Sites) -> I8:
    """The model's groups of experts packed on nodes, then as balanced within each (EPLB, hierarchical)."""
    return by_node(loads, sites)


@map_policy("eplb")
def eplb(loads: F8, sites: Sites) -> I8:
    """Balanced-by-node where the nodes divide the model's groups of experts, else balanced, as engines choose."""
    return by_node(loads, sites) if sites.distributes_by_node else globally(loads, sites)


def _packed(shares: list[tuple[float, int]], units: I8, slots: int) -> I8:
    """Assign experts by falling load, each to the least loaded group that has room for it.

    Parameters
    ----------
    units : int array, shape (groups,)
        Of which node each group is: the least loaded node comes first, then its group.
    """
    groups = len(units)
    names = np.unique(units)
    groups_of: list[list[int]] = [[] for _ in range(groups)]
    load, node = np.zeros(groups), {int(name): 0.0 for name in names}
    for share, expert in shares:
        room = [g for g in range(groups) if len(groups_of[g]) < slots]
        g = min(room, key=lambda g: (node[int(units[g])], load[g], g))
        groups_of[g].append(expert)
        load[g] += share
        node[int(units[g])] += share
    return np.array(groups_of, dtype=np.int64)

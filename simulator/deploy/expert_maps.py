"""Maps from the experts of a layer to groups of devices, and the share of tokens that each copy of an expert serves.

All ranks have equally many tokens, and these choose experts with the same probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, nearest
from ...workloads.ops import Loads
from ...workloads.routing import Router

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

EMPTY = -1
"""Value of a slot without an expert in a map."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Numbers of devices, groups and slots in which the experts of a layer can be placed.

    Attributes
    ----------
    experts, groups : int
        Experts of a layer, and groups of devices that hold some of them whole.
    slots : int
        Experts that each group has room for.
    wide : int
        Devices of a group.
    rank : int
        Devices that hold the same tokens (tensor parallel).
    node : int
        Devices of a node.
    expert_groups : int
        Groups of equally many experts in a row that the model's router chooses from first (``n_group``).
    """

    experts: int
    groups: int
    slots: int
    wide: int = 1
    rank: int = 1
    node: int = 1
    expert_groups: int = 1

    def __post_init__(self) -> None:
        if not self.experts <= self.groups * self.slots:
            raise InputError(f"{self.groups} groups of {self.slots} slots", f"are too few for {self.experts} experts")
        if self.slots > self.experts:
            raise InputError(
                "--redundant-experts",
                f"give each device {self.slots} slots, more than the {self.experts} experts of a layer",
            )

    @property
    def own(self) -> int:
        """Return the number of experts of each group without redundant copies."""
        return self.experts // self.groups

    @property
    def nodes(self) -> I8:
        """Return the first node of each group."""
        return np.arange(self.groups) * self.wide // self.node

    @property
    def whole_nodes(self) -> int:
        """Return the number of nodes if all have equally many groups, else 1, which vLLM assumes then."""
        counts = np.bincount(self.nodes)
        return len(counts) if counts.min() == counts.max() else 1

    @property
    def distributes_by_node(self) -> bool:
        """Return whether every node can hold equally many of the model's groups of experts."""
        return self.expert_groups % self.whole_nodes == 0

    @property
    def ranks(self) -> int:
        """Return the number of ranks: groups of devices that hold the same tokens."""
        return max(self.groups * self.wide // self.rank, 1)

    def near(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return two masks [ranks, groups]: whether a rank and a group share a device, and whether they share a node."""
        rank, group = np.arange(self.ranks) * self.rank, np.arange(self.groups) * self.wide

        def meet(unit: int) -> npt.NDArray[np.bool_]:
            first, last = rank // unit, (rank + self.rank - 1) // unit
            start, end = group // unit, (group + self.wide - 1) // unit
            return np.asarray((first[:, None] <= end[None, :]) & (start[None, :] <= last[:, None]), dtype=np.bool_)

        return meet(1), meet(self.node)


@dataclass(frozen=True, slots=True)
class ExpertMap:
    """Map of one layer: the expert in every slot of every group.

    Attributes
    ----------
    slots : int64 array, shape (groups, slots)
        Experts; `EMPTY` for a slot without an expert.

    Raises
    ------
    InputError
        A wrong shape, an unknown expert, or an expert without a slot.
    """

    sites: Sites
    slots: I8

    def __post_init__(self) -> None:
        wanted = (self.sites.groups, self.sites.slots)
        if self.slots.shape != wanted:
            raise InputError("expert map", f"has shape {self.slots.shape}, {wanted} (groups, slots) is needed")
        most = self.sites.experts - 1
        if self.slots.min() < EMPTY or self.slots.max() > most:
            bad = int(self.slots.max() if self.slots.max() > most else self.slots.min())
            raise InputError("expert map", f"names expert {bad}; there are 0 to {most}")
        if len(missing := np.flatnonzero(self.copies == 0)):
            raise InputError("expert map", f"expert {missing[0]} is on no device")
        self.slots.setflags(write=False)

    @property
    def copies(self) -> I8:
        """Return the number of slots that hold each expert."""
        filled = self.slots[self.slots != EMPTY]
        return np.bincount(filled, minlength=self.sites.experts)

    def moved(self, before: ExpertMap) -> I8:
        """Return for each group the number of experts that it must receive to change from the map `before` to this map."""
        return np.array(
            [len(set(new) - set(old) - {EMPTY})
             for new, old in zip(self.slots.tolist(), before.slots.tolist(), strict=True)]
        )  # fmt: skip


def dealt(sites: Sites) -> I8:
    """Return a map without copies: experts in order, distributed evenly over the groups; further slots are empty."""
    out = np.full((sites.groups, sites.slots), EMPTY, dtype=np.int64)
    for row, own in zip(out, np.array_split(np.arange(sites.experts), sites.groups), strict=True):
        row[: len(own)] = own
    return out


DISPATCHES = ("any", "node", "local")
"""Rules for the copies that a token may use: all copies of its expert; those on its node if there are any; those on its
device, else on its node. The load is divided evenly over them.
"""


def check_dispatch(rule: str) -> None:
    """Refuse an unknown rule for choosing among the copies of an expert.

    Raises
    ------
    InputError
    """
    if rule not in DISPATCHES:
        reason = f"must be {', '.join(DISPATCHES)}, not {rule!r}{nearest(rule, DISPATCHES)}"
        raise InputError("--expert-dispatch", reason)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A layer's map with the share of an expert's tokens that each of its slots serves.

    Attributes
    ----------
    rule : str
        One of `DISPATCHES`.
    share : float64 array, shape (groups, slots)
        Share of the tokens of the slot's expert; the shares of an expert add up to 1.
    away : float64 array, shape (experts,)
        Share of each expert's tokens that leave their rank.
    out : float64 array, shape (experts,)
        Share of them that leave their node.
    """

    map: ExpertMap
    rule: str
    share: F8
    away: F8
    out: F8

    @property
    def experts(self) -> I8:
        """Return the expert of every slot, group by group; expert 0, with no share, if the slot is empty."""
        return np.maximum(self.map.slots, 0).reshape(-1)

    @property
    def bounds(self) -> F8:
        """Return the interval of its expert's tokens that each slot serves, from 0 to 1; shape (slots of all, 2).

        The intervals of an expert's slots are adjacent from 0 to exactly 1, so that no token is lost.
        """
        share, experts = self.share.reshape(-1), self.experts
        out = np.zeros((len(experts), 2))
        done = np.zeros(self.map.sites.experts)
        last = {int(e): i for i, e in enumerate(experts) if share[i] > 0.0}
        for i, e in enumerate(experts):
            if share[i] > 0.0:
                out[i, 0] = done[e]
                done[e] = 1.0 if last[int(e)] == i else done[e] + share[i]
                out[i, 1] = done[e]
        return out

    def drawn(self, tokens: I8, offsets: F8) -> Loads:
        """Return the loads of all slots, group by group, for sampled tokens of the experts.

        A slot gets the whole numbers in its interval (`bounds`), moved by its expert's offset: its share of the tokens on
        average over offsets, with an error below one token.

        Parameters
        ----------
        tokens : int64 array, shape (experts,)
        offsets : float64 array, shape (experts,)
            From 0 to below 1.
        """
        low, high = self.bounds.T
        n, u = tokens[self.experts], offsets[self.experts]
        return Loads.drawn((np.floor(n * high + u) - np.floor(n * low + u)).astype(np.int64))

    def expected(self, router: Router, row: int, tokens: float, choices: float | None = None) -> Loads:
        """Return the expected loads of all slots, group by group, for a step with `tokens` tokens."""
        return router.expected(row, tokens, choices, (self.experts, self.share.reshape(-1)))

    def group_loads(self, tokens: F8) -> F8:
        """Return the tokens of every group from the tokens of each expert; shape (groups,)."""
        return np.asarray((np.append(tokens, 0.0)[self.map.slots] * self.share).sum(axis=1))


def dispatch(map: ExpertMap, rule: str) -> Dispatch:
    """Divide each expert's tokens among its copies by a rule of `DISPATCHES`."""
    check_dispatch(rule)
    sites = map.sites
    on_device, on_node = sites.near()
    share = np.zeros(map.slots.shape)
    away, out = np.zeros(sites.experts), np.zeros(sites.experts)
    for expert, groups, slots, part in _parts(map, rule):
        share[groups, slots] = part.mean(axis=0)
        away[expert] = (part * ~on_device[:, groups]).sum(axis=1).mean()
        out[expert] = (part * ~on_node[:, groups]).sum(axis=1).mean()
    return Dispatch(map, rule, share, away, out)


def flows(map: ExpertMap, rule: str, tokens: F8) -> F8:
    """Return the tokens that every rank sends to every group, shape (ranks, groups).

    Parameters
    ----------
    tokens : float64 array, shape (experts,)
        Of each expert, over all ranks.
    """
    sites = map.sites
    out = np.zeros((sites.ranks, sites.groups))
    for expert, groups, _, part in _parts(map, rule):
        for group, each in zip(groups, part.T, strict=True):  # two copies may lie on one group
            out[:, group] += each * (tokens[expert] / sites.ranks)
    return out


def _parts(map: ExpertMap, rule: str) -> Iterator[tuple[int, I8, I8, F8]]:
    """Yield every expert, the groups and slots of its copies, and the shares of each rank's tokens [ranks, copies]."""
    owned, beside = map.sites.near()
    order = np.argsort(map.slots, axis=None, kind="stable")
    experts = map.slots.reshape(-1)[order]
    groups, slots = np.unravel_index(order, map.slots.shape)
    bounds = np.searchsorted(experts, np.arange(map.sites.experts + 1))
    for expert, (first, end) in enumerate(pairwise(bounds.tolist())):
        at = groups[first:end]
        goes = _candidates(rule, owned[:, at], beside[:, at])
        yield expert, at, slots[first:end], goes / goes.sum(axis=1, keepdims=True)


def _candidates(rule: str, here: npt.NDArray[np.bool_], node: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which copies of an expert each rank's tokens may use, shape (ranks, copies)."""
    goes = np.ones_like(here)
    for near, rules in ((node, ("node", "local")), (here, ("local",))):
        if rule in rules:
            some = near.any(axis=1, keepdims=True)
            goes = np.where(some, near, goes)
    return goes

"""Maps from the experts of a layer to groups of devices, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

EMPTY = -1
"""Expert of an empty slot."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Where experts can lie.

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
            raise InputError(f"{self.groups} groups of {self.slots} slots", f"do not hold {self.experts} experts")
        if self.slots > self.experts:
            raise InputError(
                "--redundant-experts",
                f"give each device {self.slots} slots, more than the {self.experts} experts of a layer",
            )

    @property
    def own(self) -> int:
        """Experts of a group without any copies."""
        return self.experts // self.groups

    @property
    def nodes(self) -> I8:
        """First node of each group."""
        return np.arange(self.groups) * self.wide // self.node

    @property
    def whole_nodes(self) -> int:
        """Nodes with equally many groups each; 1 where they are not, as vLLM counts them then."""
        counts = np.bincount(self.nodes)
        return len(counts) if counts.min() == counts.max() else 1

    @property
    def deals_by_node(self) -> bool:
        """Whether every node can hold as many of the model's groups of experts as any other."""
        return self.expert_groups % self.whole_nodes == 0

    @property
    def ranks(self) -> int:
        """Groups of devices that hold the same tokens."""
        return max(self.groups * self.wide // self.rank, 1)

    def near(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Whether a rank and a group share a device, and whether they share a node; [ranks, groups]."""
        rank, group = np.arange(self.ranks) * self.rank, np.arange(self.groups) * self.wide

        def meet(unit: int) -> npt.NDArray[np.bool_]:
            first, last = rank // unit, (rank + self.rank - 1) // unit
            start, end = group // unit, (group + self.wide - 1) // unit
            return np.asarray((first[:, None] <= end[None, :]) & (start[None, :] <= last[:, None]), dtype=np.bool_)

        return meet(1), meet(self.node)


@dataclass(frozen=True, slots=True)
class ExpertMap:
    """The experts in every slot of every group, of one layer.

    Attributes
    ----------
    slots : int64 array, shape (groups, slots)
        Experts; `EMPTY` where a slot holds none.

    Raises
    ------
    InputError
        Another shape, an expert that there is not, or one that lies nowhere.
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
        """Slots that hold each expert."""
        filled = self.slots[self.slots != EMPTY]
        return np.bincount(filled, minlength=self.sites.experts)

    def moved(self, before: ExpertMap) -> I8:
        """Experts that each group holds and did not hold before, so that it has to get them."""
        return np.array(
            [len(set(new) - set(old) - {EMPTY})
             for new, old in zip(self.slots.tolist(), before.slots.tolist(), strict=True)]
        )  # fmt: skip


def dealt(sites: Sites) -> I8:
    """All experts in order over the groups, as equal in number as can be; slots behind them are empty."""
    out = np.full((sites.groups, sites.slots), EMPTY, dtype=np.int64)
    for row, own in zip(out, np.array_split(np.arange(sites.experts), sites.groups), strict=True):
        row[: len(own)] = own
    return out

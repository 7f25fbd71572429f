"""Plans of collectives, messages and bytes per level of a topology, and the cost model of the cheapest of several.

A plan costs messages times latency plus bytes over rate on every level, one level after another: it is affine in the
message, so explicit and compiled steps agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, nearest
from ...workloads.ops import Op
from ...workloads.registry import Registry
from ..cost import DESCRIPTION, LATENCY, MEMORY, Cost, Evidence, Roof
from ..prices import ROOFLINE, PriceRow, Probe, by_count
from ..ratios import Ratios
from ..spec import LinkSpec


@dataclass(frozen=True, slots=True)
class Timed:
    """Time of a measured kernel on the links of a node, which replaces the link's latency and rate.

    Attributes
    ----------
    launch_s, rate : float
        Time of an empty message [s], and rate of the data that one device sends [B/s].
    rows : int
        Measured rows behind both.
    ratios : Ratios
        Errors of the rows, measured over predicted.
    moved : bool
        Whether the rows are of other cards.
    taken : float
        Share of a device's cores that it keeps from all else.
    """

    launch_s: float
    rate: float
    rows: int
    ratios: Ratios
    moved: bool = False
    taken: float = 0.0

    def on(self, link: LinkSpec) -> Timed:
        """Return these times for a link; the rate is at most the link's rate."""
        return replace(self, rate=min(self.rate, link.bandwidth_bytes_per_s))


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a topology: groups that a link joins, such as devices of a node or nodes of a system.

    Attributes
    ----------
    link : LinkSpec
        Link of one device.
    ranks : int
        Number of joined groups of the level below, or devices.
    """

    link: LinkSpec
    ranks: int

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise InputError("ranks", f"of each level must be at least 1, not {self.ranks}")


@dataclass(frozen=True, slots=True)
class Topology:
    """Levels of links, innermost first; all groups of one level are equal.

    Attributes
    ----------
    slices : int
        Neighbouring devices that hold the same tokens (tensor slicing).
    copies : int
        Devices that a token goes to (experts of a token): an exchange that knows of it sends one copy
        to a node for all of them there.
    timed : mapping of str to Timed
        Kernels inside a node that were measured, by algorithm.
    fewer : tuple of float
        Devices, and nodes, that an exchange which sends one copy to each reaches, over those that evenly spread copies would.
    width : float
        Bytes of a copy over the message's bytes.
    """

    levels: tuple[Level, ...]
    slices: int = 1
    copies: int = 1
    timed: Mapping[str, Timed] = field(default_factory=dict)
    fewer: tuple[float, float] = (1.0, 1.0)
    width: float = 1.0

    @property
    def ranks(self) -> int:
        """Total number of devices."""
        return prod(level.ranks for level in self.levels)

    @property
    def outermost(self) -> int:
        """Index of the last level that joins more than one group; 0 for a single device."""
        return max((i for i, level in enumerate(self.levels) if level.ranks > 1), default=0)

    def thinned(self) -> Topology:
        """Return the topology with one device of each group of `slices` neighbours.

        Raises
        ------
        InputError
            Slices that do not divide the levels from the innermost out.
        """
        left, out = self.slices, []
        for level in self.levels:
            size = min(left, level.ranks)
            if level.ranks % size or left % size:
                raise InputError(f"{self.slices} slices", "do not fill the nodes evenly")
            out.append(Level(level.link, level.ranks // size))
            left //= size
        if left > 1:
            raise InputError(f"{self.slices} slices", f"are more than the {self.ranks} devices")
        return Topology(tuple(out))


@dataclass(frozen=True, slots=True)
class Hop:
    """Messages and bytes that one device sends on one level.

    Attributes
    ----------
    messages : float
        Number of messages sent one after another; each adds a latency.
    traffic : float
        Bytes, as a multiple of the message.
    """

    link: LinkSpec
    messages: float
    traffic: float
    timed: Timed | None = None

    @property
    def latency_s(self) -> float:
        """Time of a message without bytes [s]."""
        return self.link.latency_s if self.timed is None else self.timed.launch_s

    @property
    def rate(self) -> float:
        """Bytes that a device sends in a second [B/s]."""
        return self.link.bandwidth_bytes_per_s if self.timed is None else self.timed.rate


@dataclass(frozen=True, slots=True)
class CollectivePlan:
    """Cost of one collective algorithm on one topology.

    Attributes
    ----------
    hops : tuple of Hop
        Steps of the collective, one after another.
    participants : int
        Devices that a device exchanges messages with, itself among them, over all phases.
    passes : float
        How often the message passes through a device's hands, its own share included.
    at_once : bool
        Whether levels work on parts of the message at the same time: the slower one tells.
    """

    algorithm: str
    hops: tuple[Hop, ...]
    participants: int
    passes: float
    at_once: bool = False

    @property
    def latency_s(self) -> float:
        """Time of an empty message over all hops [s]."""
        return sum(hop.messages * hop.latency_s for hop in self.hops)

    @property
    def s_per_byte(self) -> float:
        """Time per byte of the message [s/B]."""
        hop_times = [hop.traffic / hop.rate for hop in self.hops]
        return max(hop_times, default=0.0) if self.at_once else sum(hop_times)

    @property
    def taken(self) -> float:
        """Return the share of a device's cores that it takes from parallel work, as far as it is known."""
        return max((hop.timed.taken for hop in self.hops if hop.timed is not None), default=0.0)

    @property
    def J_per_byte(self) -> float:
        """Energy per byte of the message on the links of one device [J/B]."""
        return sum(hop.traffic * hop.link.energy_J_per_byte for hop in self.hops)

    def seconds(self, message_bytes: float) -> float:
        """Return the time of a message [s]; see `devices.link.collective` for its definition."""
        return self.latency_s + message_bytes * self.s_per_byte


Algorithm = Callable[[Topology], CollectivePlan]
ALGORITHMS: Registry[Algorithm] = Registry("algorithm of a collective", described=True, home=__package__)
"""Functions that make the plan of an algorithm, by ``KIND:NAME``."""


BY_COST = "auto"
"""Name that selects the cheapest of the `usual` algorithms."""

BY_NAME = frozenset({"deepep-normal", "deepep-low-latency", "hybrid-ep"})
"""Algorithms whose kernels some devices lack; they are used only by name, never because of their cost."""

BY_STEP: Mapping[str, tuple[str, str]] = {"deepep-auto": ("deepep-low-latency", "deepep-normal")}
"""All-to-alls that use one algorithm in decode-only steps, and another if some rank has prompts (``DeepEPMode.resolve``
in sglang/srt/layers/moe/utils.py)."""


def algorithms_of(kind: str) -> list[str]:
    """Return the names of the algorithms of one kind of collective."""
    return [name.partition(":")[2] for name in ALGORITHMS if name.partition(":")[0] == kind]


def usual(kind: str) -> list[str]:
    """Return the names of the algorithms that any device can run."""
    return [name for name in algorithms_of(kind) if name not in BY_NAME]


def plan(kind: str, algorithm: str, topology: Topology) -> CollectivePlan:
    """Return the plan of an algorithm.

    Raises
    ------
    InputError
        No such algorithm for this kind, or slices that do not fit the topology.
    """
    known = algorithms_of(kind)
    if algorithm not in known:
        close = nearest(algorithm, [*known, BY_COST, *BY_STEP])
        reason = f"must be {BY_COST} or an algorithm of {kind}, not {algorithm!r}{close}"
        raise InputError(f"--{kind.replace('_', '-')}", reason)
    return ALGORITHMS[f"{kind}:{algorithm}"](topology)


def cheapest(kind: str, topology: Topology, message_bytes: float) -> CollectivePlan:
    """Return the fastest of the `usual` plans for a message; the first of equal ones."""
    plans = [plan(kind, name, topology) for name in usual(kind)]
    return min(plans, key=lambda made: made.seconds(message_bytes))


F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """Cost model of the ops of one collective, given by one or more plans.

    Each op uses the cheapest plan; its energy is the largest of all plans.

    Attributes
    ----------
    spec : LinkSpec
        The link by whose name the ops go: the outermost.
    scale : float
        Message of the plan over the bytes of an op.
    others : tuple of CollectivePlan
        Plans of the same ops in other steps: energy is the largest of all.
    """

    plans: tuple[CollectivePlan, ...]
    spec: LinkSpec
    scale: float = 1.0
    others: tuple[CollectivePlan, ...] = ()

    @property
    def _J_per_byte(self) -> float:
        return max(plan.J_per_byte for plan in (*self.plans, *self.others)) * self.scale

    def plan(self, op: Op) -> CollectivePlan:
        """Return the plan that an op runs: the cheapest one."""
        return min(self.plans, key=lambda plan: plan.seconds(op.act_bytes * self.scale))

    def cost(self, op: Op) -> Cost:
        plan, message = self.plan(op), op.act_bytes * self.scale
        wire, fixed = message * plan.s_per_byte, plan.latency_s
        joules = {"link": op.act_bytes * self._J_per_byte}
        bound = "latency" if fixed > 0.5 * (wire + fixed) else "link"
        return Cost(wire + fixed, 0.0, wire, fixed, joules, bound)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        plan, params = self.plan(op), np.zeros(1, ROOFLINE)[0]
        params.flops = params.peak = np.inf
        rate = plan.s_per_byte * self.scale
        params.bytes = 1.0 / rate if rate else np.inf
        params.fixed = plan.latency_s
        params.j_act = self._J_per_byte
        row = PriceRow(params)
        if len(self.plans) == 1:
            return row
        return replace(row, curve=by_count(op, probe, lambda op: np.array([op.act_bytes]), self._prices))

    def _prices(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        """Return seconds and bounds of messages of `inputs` bytes, shape (n, 1)."""
        latencies = np.array([plan.latency_s for plan in self.plans])
        rates = np.array([plan.s_per_byte for plan in self.plans]) * self.scale
        times = latencies + inputs * rates
        best = times.argmin(axis=1)
        seconds = times[np.arange(len(inputs)), best]
        return seconds, np.where(latencies[best] > 0.5 * seconds, LATENCY, MEMORY)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        plans = [p for op in ops for p in (self.plan(op), *self.others)]
        name = f"{', '.join(sorted({p.algorithm for p in plans}))} collectives: messages x latency + bytes/bandwidth"
        timed = [hop.timed for p in plans for hop in p.hops]
        known = [t for t in timed if t is not None]
        if not known or len(known) < len(timed):
            return [Evidence(name, "", DESCRIPTION)] if ops else []
        least = max(known, key=lambda t: t.ratios.median_error)
        why = "timed on other cards of its generation" if least.moved else ""
        return [Evidence(name, "", "transferred" if why else "fitted", least.ratios.median_error, least.rows, why=why,
                         ratios=least.ratios)]  # fmt: skip

    def roof(self, dtype: str) -> Roof:
        rate = min(plan.s_per_byte for plan in self.plans) * self.scale
        latency = min(plan.latency_s for plan in self.plans)
        return Roof(np.inf, 1.0 / rate if rate else np.inf, 1.0, 1.0, latency)

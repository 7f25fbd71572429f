"""Results of a run's engines, and the energy that devices consume in addition to their work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np

from ...devices.power.board import Board
from ..deploy.deployment import Deployment
from ..engine.engine import Engine
from ..engine.policies import Policy
from ..engine.state import F8
from ..engine.work_log import Total, totals_at
from ..results.record import Blocks, Requests
from ..results.steady import Stamps, Window, half_width
from ..results.table import RequestTable
from .draining import Drained
from .nodes import Node
from .pools import Pools


class Presence(Protocol):
    """Interface of an autoscaled pool: when its replicas were allocated."""

    def until(self, end: float, ttft_s: F8) -> Self:
        """Return the presence in a run that ended at `end`, given the times to first token of its requests [s]."""
        ...

    def held_s(self, phase: Any = None, begin: float = 0.0, end: float = ...) -> float:
        """Return the allocated replica-seconds between two times [s]."""
        ...

    @property
    def changes(self) -> bool:
        """Return whether the number of replicas changes in the run."""
        ...


@dataclass(frozen=True, slots=True)
class RunState:
    """Results of a run before they are measured."""

    engines: list[Engine]  # those of all nodes
    table: RequestTable  # every request that was read, and what has come of it
    completed: int  # requests that have
    warm_s: float  # end of the warm-up [s]
    failures: int  # nodes that failed, and requests that were put back because of it
    restarts: int
    pools: Pools  # what ran it
    nodes: list[Node]
    policy: Policy  # of the nodes that requests arrive at
    # parts that took part, each with what it counted while the engines ran
    parts: Mapping[str, Any] = field(default_factory=dict)
    presence: tuple[Presence | None, ...] = (None, None)  # of each pool, where its replicas come and go
    groups: int = 1  # of a fleet that it was put together of
    drained: Drained | None = None  # what is kept of requests that were let go, of a long run

    def end_s(self, requests: Requests) -> float:
        """Return the time of the last completion [s]."""
        return self.drained.end_s if self.drained else float(requests.last_token_s.max())

    def ended_s(self, completed_s: float) -> float:
        """Return the end of the last step [s], which may follow the last completion: its tokens are dropped."""
        return max(completed_s, *(engine.work_log.end_s for engine in self.engines))

    @property
    def every(self) -> Blocks | None:
        """Return the columns of all requests, if only a sample is in memory and the run writes all to a file."""
        return self.drained.blocks if self.drained and self.drained.file else None

    def stamps(self) -> Stamps:
        """Return the times of all requests, of a sample for a long run."""
        return self.table.stamps() if self.drained is None else self.drained.stamps()


@dataclass(frozen=True, slots=True)
class Boards:
    """Devices of one kind, with the work log of the engines on them.

    Attributes
    ----------
    curves : list
        See `WorkLog.curve`.
    fixed : int
        Of the devices those that are always there.
    others : tuple of (int, Presence)
        Devices of a replica that comes and goes, and when it is there.
    """

    board: Board
    devices: int
    curves: list[tuple[F8, F8]]
    fixed: int
    others: tuple[tuple[int, Presence], ...] = ()

    def held(self, edges: Sequence[float]) -> list[tuple[int, F8]]:
        """Return the devices, and the seconds for which they are allocated between consecutive times.

        With an autoscaler the devices are one replica's, the seconds are the sum of all replicas.
        """
        out = [(self.fixed, np.diff(edges))] if self.fixed else []
        for devices, own in self.others:
            spans = [own.held_s(None, a, b) for a, b in pairwise(edges)]
            out.append((devices, np.array(spans)))
        return out


def boards_of(
    served: RunState, deployment: Deployment, copies: int, scalings: Sequence[Presence | None]
) -> list[Boards]:
    """Return the devices of a run by kind; two pools of the same kind of device are combined."""
    pools = served.pools
    beside = _beside(served.engines, None if pools.decode else scalings[0])
    if not pools.decode:
        curves = [engine.curve() for engine in served.engines]
        devices = system_devices(deployment) * copies
        here = system_devices(deployment)
        return [_boards(deployment.device.board, devices, curves, scalings[0], here), *beside]
    first = len(pools.entry)
    out: list[Boards] = []
    for nodes, scaling in zip((served.nodes[:first], served.nodes[first:]), scalings, strict=True):
        board = nodes[0].engine.deployment.device.board
        here, curves = (system_devices(nodes[0].engine.deployment), [node.engine.curve() for node in nodes])
        more = _boards(board, devices_of_nodes(nodes), curves, scaling, here)
        if out and out[0].board == board:
            one = out.pop()
            more = Boards(
                board, one.devices + more.devices, [*one.curves, *more.curves],
                one.fixed + more.fixed, (*one.others, *more.others),
            )  # fmt: skip
        out.append(more)
    return out + beside


def _beside(engines: list[Engine], scaling: Presence | None) -> list[Boards]:
    """Return the devices that only store experts; they emit nothing."""
    sides = [(engine, engine.expert_side) for engine in engines if engine.expert_side is not None]
    if not sides:
        return []
    devices = sum(side.devices for _, side in sides)
    curves = [side.work_log.curve(engine.now, 0) for engine, side in sides]
    return [_boards(sides[0][1].work_log.board, devices, curves, scaling, devices // len(sides))]


def _boards(
    board: Board, devices: int, curves: list[tuple[F8, F8]], presence: Presence | None, per_replica: int
) -> Boards:
    """Return the boards of a replica's devices; with an autoscaler only while they are allocated."""
    if presence is None:
        return Boards(board, devices, curves, devices)
    return Boards(board, devices, curves, 0, ((per_replica, presence),))


def devices_of_nodes(nodes: list[Node]) -> int:
    """Return the number of devices of several nodes of one deployment."""
    d = nodes[0].engine.deployment
    return system_devices(d) * len(nodes) // d.replicas


def system_devices(deployment: Deployment) -> int:
    """Return the devices of a system with all its engines; of disaggregated experts only the attention devices."""
    return deployment.system.devices_per_node * deployment.system.nodes


def static_joules(boards: list[Boards], window: Window) -> float:
    """Return the static energy of devices over the window, including starting and draining ones."""
    ends = (window.start_s, window.end_s)
    allocated = [(each.board, *own) for each in boards for own in each.held(ends)]
    return sum(board.idle_joules(devices * float(spans[0])) for board, devices, spans in allocated)


def busy_joules(each: Boards, ends: tuple[float, float], length_s: float) -> float:
    """Return the additional energy of devices that run kernels, between two times."""
    within = np.diff(totals_at(each.curves, ends), axis=0)[0]
    busy_s = min(float(within[Total.BUSY]), each.devices * length_s)
    return each.board.busy_joules(busy_s)


def joules_half_width(boards: list[Boards], curves: list[tuple[F8, F8]], window: Window) -> float | None:
    """Return half of the relative 95 % confidence interval of energy per token, from the window's batches."""
    if not window.batches:
        return None
    made = np.diff(totals_at(curves, window.edges), axis=0)
    joules = made[:, Total.JOULES].copy()
    for each in boards:
        busy_s = np.diff(totals_at(each.curves, window.edges), axis=0)[:, Total.BUSY]
        idle = each.board.idle_joules(1.0)
        drawn = sum(idle * devices * spans for devices, spans in each.held(window.edges))
        joules = joules + each.board.busy_joules(1.0) * busy_s + drawn
    return half_width(joules, made[:, Total.EMITTED]) if joules.sum() > 0 else None

"""What two pools did, each for itself, and what crossed from the one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ....devices.power.board import Board
from ...batching.policies import Policy
from ...batching.state import C_EMITTED, C_PREEMPTIONS, C_PROMPT, C_STEPS, F8, T_KV_PEAK
from ...deploy.deployment import Deployment
from ...serving.course import X_STEPPING, totals_at
from ...serving.engine import Engine
from ...serving.finished import Requests
from ...serving.metrics import quantiles
from ...serving.nodes import Node
from ...serving.record import KvMoves, PoolRun
from ...serving.replicas import Scaling
from ...serving.served import Served
from ...serving.steady import Window
from ..experts_apart.holders import devices_apart, devices_of


@dataclass(frozen=True, slots=True)
class Boards:
    """Devices of one kind, and what the engines on them did over time.

    Attributes
    ----------
    curves : list
        See `Course.curve`.
    fixed : int
        Of the devices those that are always there.
    scalings : tuple of Scaling
        When the others are.
    """

    board: Board
    devices: int
    curves: list[tuple[F8, F8]]
    fixed: int
    scalings: tuple[Scaling, ...] = ()

    def held(self, edges: Sequence[float]) -> list[tuple[int, F8]]:
        """Devices, and the seconds that they are held from each of some times to the next.

        Of replicas that come and go the devices are those of one, the seconds those of all together.
        """
        out = [(self.fixed, np.diff(edges))] if self.fixed else []
        for own in self.scalings:
            spans = [own.held_s(None, a, b) for a, b in pairwise(edges)]
            out.append((own.devices, np.array(spans)))
        return out


def boards_of(served: Served, deployment: Deployment, copies: int, scalings: Sequence[Scaling | None]) -> list[Boards]:
    """Devices by kind; of two pools on the same kind all together."""
    pools = served.pools
    beside = _beside(served.engines, None if pools.decode else scalings[0])
    if not pools.decode:
        curves = [engine.curve() for engine in served.engines]
        devices = devices_of(deployment) * copies
        here = devices_of(deployment)
        return [_boards(deployment.device.board, devices, curves, scalings[0], here), *beside]
    first = len(pools.entry)
    out: list[Boards] = []
    for nodes, own in zip((served.nodes[:first], served.nodes[first:]), scalings, strict=True):
        board = nodes[0].engine.deployment.device.board
        here, curves = (devices_of(nodes[0].engine.deployment), [node.engine.curve() for node in nodes])
        more = _boards(board, _devices(nodes), curves, own, here)
        if out and out[0].board == board:
            one = out.pop()
            more = Boards(
                board, one.devices + more.devices, [*one.curves, *more.curves],
                one.fixed + more.fixed, (*one.scalings, *more.scalings),
            )  # fmt: skip
        out.append(more)
    return out + beside


def _beside(engines: list[Engine], scaling: Scaling | None) -> list[Boards]:
    """Devices that hold experts alone; they emit nothing."""
    found = [(engine, engine.expert_side) for engine in engines if engine.expert_side is not None]
    if not found:
        return []
    devices = sum(devices_apart(engine.deployment) for engine, _ in found)
    curves = [side.course.curve(engine.now, 0) for engine, side in found]
    return [_boards(found[0][1].course.board, devices, curves, scaling, devices // len(found))]


def _boards(board: Board, devices: int, curves: list[tuple[F8, F8]], own: Scaling | None, each: int) -> Boards:
    """All of some devices, of which a replica has so many; of those that come and go when they are there."""
    if own is None:
        return Boards(board, devices, curves, devices)
    return Boards(board, devices, curves, 0, (replace(own, devices=each),))


def _devices(nodes: list[Node]) -> int:
    """Devices of some nodes of one deployment."""
    d = nodes[0].engine.deployment
    return devices_of(d) * len(nodes) // d.replicas


def pool_runs(
    served: Served, policy: Policy, window: Window, end: float, scalings: Sequence[Scaling | None]
) -> tuple[PoolRun, ...]:
    """Measure both pools; nothing where there is one.

    Parameters
    ----------
    policy : Policy
        Of the entry nodes.
    end : float
        Of the run [s].
    scalings : sequence of Scaling or None
        Of each.
    """
    pools, first = served.pools, len(served.pools.entry)
    if not pools.decode:
        return ()
    sides = (
        ("prefill", policy, served.nodes[:first], scalings[0]),
        ("decode", pools.policy or policy, served.nodes[first:], scalings[1]),
    )
    return tuple(_pool(*side, window, end) for side in sides)


def _pool(name: str, policy: Policy, nodes: list[Node], scaling: Scaling | None, window: Window, end: float) -> PoolRun:
    engines = [node.engine for node in nodes]
    curves = [engine.curve() for engine in engines]
    ends = (window.start_s, window.end_s)
    stepping = float(np.diff(totals_at(curves, ends), axis=0)[0][X_STEPPING])
    busy_s = sum(node.busy_s for node in nodes)
    ports = sum(node.engine.deployment.ranks for node in nodes)
    deployment = engines[0].deployment
    there_s, run_s = len(nodes) * window.length_s, ports * end
    if scaling is not None:  # of all that there may be those that were
        there_s = scaling.held_s(None, window.start_s, window.end_s) * deployment.replicas
        run_s = scaling.held_s() * deployment.replicas * deployment.ranks
    whole = there_s * deployment.layout.pp

    def count(counter: int) -> int:
        return sum(int(engine.state.counters[counter]) for engine in engines)

    return PoolRun(
        name, deployment, policy, len(nodes), _devices(nodes) + devices_apart(deployment) * len(nodes),
        stepping=min(stepping / whole, 1.0) if whole > 0 else 0.0,
        sending=min(busy_s / run_s, 1.0) if run_s > 0 else 0.0,
        kv_peak=max(float(e.state.clocks[T_KV_PEAK]) / e.kv.capacity for e in engines),
        kv_capacity=engines[0].kv.capacity, iterations=count(C_STEPS),
        preemptions=count(C_PREEMPTIONS), output_tokens=count(C_EMITTED),
        prompt_tokens=count(C_PROMPT), scaling=scaling,
    )  # fmt: skip


def kv_moves(served: Served, requests: Requests) -> KvMoves | None:
    """Measure what crossed the link; None where there are no two pools."""
    moves, link = served.moves, served.pools.link
    if moves is None or link is None:
        return None
    done = served.table.done()
    start, end, first = moves.start_s[done], moves.end_s[done], requests.first_token_s
    left = np.maximum(start, first)
    whole = float((requests.last_token_s - requests.arrival_s).sum())
    share = float(np.nansum(end - first)) / whole if whole > 0 else None
    return KvMoves(
        link, moves.count, moves.total_bytes, quantiles(left - first), quantiles(end - left), share, start, end
    )

"""What two pools did, each for itself, and what crossed from the one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...devices.power.board import Board
from ..batching.policies import Policy
from ..batching.state import C_EMITTED, C_PREEMPTIONS, C_PROMPT, C_STEPS, F8, T_KV_PEAK
from ..deploy.apart import devices_apart
from ..deploy.deployment import Deployment
from .course import X_STEPPING, totals_at
from .driver import Served
from .engine import Engine
from .metrics import quantiles
from .nodes import Node
from .record import KvMoves, PoolRun, Requests
from .steady import Window


def devices_of(deployment: Deployment) -> int:
    """Devices of a system, all its independent engines together."""
    return deployment.system.devices_per_node * deployment.system.nodes


@dataclass(frozen=True, slots=True)
class Boards:
    """Devices of one kind, and what the engines on them did over time.

    Attributes
    ----------
    board : Board
    devices : int
    curves : list
        See `Course.curve`.
    """

    board: Board
    devices: int
    curves: list[tuple[F8, F8]]


def boards_of(served: Served, deployment: Deployment, copies: int) -> list[Boards]:
    """Devices by kind; of two pools on the same kind all together."""
    pools, beside = served.pools, _beside(served.engines)
    if not pools.decode:
        curves = [engine.curve() for engine in served.engines]
        return [Boards(deployment.device.board, devices_of(deployment) * copies, curves), *beside]
    first = len(pools.entry)
    out: list[Boards] = []
    for nodes in (served.nodes[:first], served.nodes[first:]):
        board = nodes[0].engine.deployment.device.board
        curves = [node.engine.curve() for node in nodes]
        same = out and out[0].board == board
        more = Boards(board, _devices(nodes), curves)
        if same:
            more = Boards(board, out[0].devices + more.devices, [*out.pop().curves, *curves])
        out.append(more)
    return out + beside


def _beside(engines: list[Engine]) -> list[Boards]:
    """Devices that hold experts alone; they emit nothing."""
    found = [(engine, engine.beside) for engine in engines if engine.beside is not None]
    if not found:
        return []
    devices = sum(devices_apart(engine.deployment) for engine, _ in found)
    curves = [side.course.curve(engine.now, 0) for engine, side in found]
    return [Boards(found[0][1].course.board, devices, curves)]


def _devices(nodes: list[Node]) -> int:
    """Devices of some nodes of one deployment."""
    d = nodes[0].engine.deployment
    return devices_of(d) * len(nodes) // d.replicas


def pool_runs(served: Served, policy: Policy, window: Window, end: float) -> tuple[PoolRun, ...]:
    """Measure both pools; nothing where there is one.

    Parameters
    ----------
    policy : Policy
        Of the entry nodes.
    end : float
        Of the run [s].
    """
    pools, first = served.pools, len(served.pools.entry)
    if not pools.decode:
        return ()
    sides = (
        ("prefill", policy, served.nodes[:first]),
        ("decode", pools.policy or policy, served.nodes[first:]),
    )
    return tuple(_pool(name, own, nodes, window, end) for name, own, nodes in sides)


def _pool(name: str, policy: Policy, nodes: list[Node], window: Window, end: float) -> PoolRun:
    engines = [node.engine for node in nodes]
    curves = [engine.curve() for engine in engines]
    ends = (window.start_s, window.end_s)
    stepping = float(np.diff(totals_at(curves, ends), axis=0)[0][X_STEPPING])
    busy_s = sum(node.ports.busy_s for node in nodes)
    ports = sum(node.ports.count for node in nodes)
    deployment = engines[0].deployment
    whole = len(nodes) * window.length_s * deployment.layout.pp

    def count(counter: int) -> int:
        return sum(int(engine.state.counters[counter]) for engine in engines)

    return PoolRun(
        name, deployment, policy, len(nodes), _devices(nodes) + devices_apart(deployment) * len(nodes),
        stepping=min(stepping / whole, 1.0) if whole > 0 else 0.0,
        sending=min(busy_s / (ports * end), 1.0) if end > 0 else 0.0,
        kv_peak=max(float(e.state.clocks[T_KV_PEAK]) / e.kv.capacity for e in engines),
        kv_capacity=engines[0].kv.capacity, iterations=count(C_STEPS),
        preemptions=count(C_PREEMPTIONS), output_tokens=count(C_EMITTED),
        prompt_tokens=count(C_PROMPT),
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
        link, moves.count, moves.total_bytes, quantiles(left - first), quantiles(end - left),
        share, start, end,
    )  # fmt: skip

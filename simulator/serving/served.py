"""What a run of engines leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from .adapters import AdapterCounts
from .encoders import EncoderCounts
from .engine import Engine
from .nodes import Node
from .pools import Pools
from .replicas import Scaling
from .table import Table
from .transfers import Moves


@dataclass(frozen=True, slots=True)
class Served:
    """What a run leaves behind.

    Attributes
    ----------
    engines : list of Engine
        Those of all nodes.
    table : Table
        Every request that was read, and what has come of it.
    completed : int
        Requests that have.
    warm_s : float
        End of the warm-up [s].
    failures, restarts : int
        Nodes that failed, and requests that were put back because of it.
    pools : Pools
        What ran it.
    nodes : list of Node
    moves : Moves or None
        KV caches that crossed the link, of two pools.
    adapters : AdapterCounts, optional
        What requests asked of the slots for adapters, where not all fit.
    encoder : EncoderCounts, optional
        What requests with images asked of their encoder.
    scaling : Scaling, optional
        Which replicas there were when, where an autoscaler decides.
    scalings : tuple of Scaling or None
        Of two pools those of each.
    """

    engines: list[Engine]
    table: Table
    completed: int
    warm_s: float
    failures: int
    restarts: int
    pools: Pools
    nodes: list[Node]
    moves: Moves | None = None
    adapters: AdapterCounts | None = None
    encoder: EncoderCounts | None = None
    scaling: Scaling | None = None
    scalings: tuple[Scaling | None, ...] = (None, None)

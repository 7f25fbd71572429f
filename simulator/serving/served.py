"""What a run of engines leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from ..parts.adapters.run import AdapterCounts
from ..parts.encoders.run import EncoderCounts
from ..parts.two_pools.pools import Moves, Pools
from .draining import Drained
from .engine import Engine
from .finished import Blocks, Requests
from .nodes import Node
from .replicas import Scaling
from .steady import Stamps
from .table import RequestTable


@dataclass(frozen=True, slots=True)
class Served:
    """What a run leaves behind."""

    engines: list[Engine]  # those of all nodes
    table: RequestTable  # every request that was read, and what has come of it
    completed: int  # requests that have
    warm_s: float  # end of the warm-up [s]
    failures: int  # nodes that failed, and requests that were put back because of it
    restarts: int
    pools: Pools  # what ran it
    nodes: list[Node]
    moves: Moves | None = None  # KV caches that crossed the link, of two pools
    # what requests asked of the slots for adapters, where not all fit
    adapters: AdapterCounts | None = None
    encoder: EncoderCounts | None = None  # what requests with images asked of their encoder
    scaling: Scaling | None = None  # which replicas there were when, where an autoscaler decides
    scalings: tuple[Scaling | None, ...] = (None, None)  # of two pools those of each
    groups: int = 1  # of a fleet that it was put together of
    drained: Drained | None = None  # what is kept of requests that were let go, of a long run

    def end_s(self, requests: Requests) -> float:
        """When the last of the completed requests did [s]."""
        return self.drained.end_s if self.drained else float(requests.last_token_s.max())

    @property
    def every(self) -> Blocks | None:
        """Columns of all requests, where those that are kept are a sample and all are asked for."""
        return self.drained.blocks if self.drained and self.drained.file else None

    def stamps(self) -> Stamps:
        """Times of all requests, of a long run those of a sample."""
        return self.table.stamps() if self.drained is None else self.drained.stamps()

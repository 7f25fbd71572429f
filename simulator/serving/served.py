"""What a run of engines leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from ..batching.policies import Policy
from ..batching.state import F8
from .draining import Drained
from .engine import Engine
from .finished import Blocks, Requests
from .nodes import Node
from .pools import Pools
from .steady import Stamps
from .table import RequestTable


class Presence(Protocol):
    """When the replicas of a pool were there."""

    def until(self, end: float, ttft_s: F8) -> Self:
        """The same of a run that ended then, with the times to first token of its requests [s]."""
        ...

    def held_s(self, phase: Any = None, begin: float = 0.0, end: float = ...) -> float:
        """Replica-seconds between two times [s]."""
        ...

    @property
    def changes(self) -> bool:
        """Whether any of them comes or goes."""
        ...


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
    policy: Policy  # of the nodes that requests arrive at
    # parts that took part, each with what it counted while the engines ran
    parts: Mapping[str, Any] = field(default_factory=dict)
    presence: tuple[Presence | None, ...] = (None, None)  # of each pool, where its replicas come and go
    groups: int = 1  # of a fleet that it was put together of
    drained: Drained | None = None  # what is kept of requests that were let go, of a long run

    def end_s(self, requests: Requests) -> float:
        """When the last of the completed requests did [s]."""
        return self.drained.end_s if self.drained else float(requests.last_token_s.max())

    def ended_s(self, completed_s: float) -> float:
        """When the last step did [s], which may follow the last completion: its tokens are dropped."""
        return max(completed_s, *(engine.course.end_s for engine in self.engines))

    @property
    def every(self) -> Blocks | None:
        """Columns of all requests, where those that are kept are a sample and all are asked for."""
        return self.drained.blocks if self.drained and self.drained.file else None

    def stamps(self) -> Stamps:
        """Return the times of all requests, of a sample for a long run."""
        return self.table.stamps() if self.drained is None else self.drained.stamps()

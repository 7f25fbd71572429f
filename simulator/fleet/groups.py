"""A fleet in groups of replicas that are simulated separately and combined.

With open-loop arrivals and round-robin routing, replicas are independent: each group reads the whole stream and takes
its replicas' requests, and the combined result is bit-identical to the fleet's. A router by load sees only the loads of
its group; the result is then approximate.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import IO

import numpy as np

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from ..engine.engine import Engine
from ..engine.prefix import new_pool
from ..engine.state import Contents
from ..results.table import RequestTable
from ..step.timed import costs_of
from .draining import Drained
from .pools import Pools
from .run_state import RunState

OPTION = "--groups"


@dataclass(frozen=True, slots=True)
class Cut:
    """One of several groups of a fleet's replicas.

    Attributes
    ----------
    number, of : int
        Number of this group, from 0, and number of all groups.
    spill : str or None
        File for the records of released requests, "" for a temporary file; None: the records are not written.
    """

    number: int = 0
    of: int = 1
    spill: str | None = None

    def replicas(self, count: int) -> range:
        """Return the replicas of a fleet of `count` that are in the group."""
        if self.of > count:
            raise InputError(OPTION, f"must be at most the {count} replicas, not {self.of}")
        return range(self.number * count // self.of, (self.number + 1) * count // self.of)

    def part(self, block: RequestBlock, known: int, count: int) -> RequestBlock:
        """Return the requests of a block that are assigned to the group; `known` requests precede the block, `count` replicas serve all."""
        if self.of == 1:
            return block
        turn, assigned = np.arange(known, known + len(block)) % count, self.replicas(count)
        return block.take((turn >= assigned.start) & (turn < assigned.stop))


def left_of(served: RunState) -> RunState:
    """Return the results of a group without its engines' large arrays, to be sent to another process."""
    table, drained = served.table.trimmed(), served.drained
    if drained is not None:
        table, drained = RequestTable(), replace(drained, file=None)
    engines = [_left(engine) for engine in served.engines]
    return replace(served, engines=engines, nodes=[], table=table, pools=Pools(()), drained=drained)


def _left(engine: Engine) -> Engine:
    """Return an engine with only the data that measurements need: step totals, counters and clocks."""
    out, st = copy(engine), engine.state
    rows = {name: getattr(st, name)[:0] for name in ("requests", "contents", "running", "fresh", "chunks", "log")}
    out.state = st._replace(**rows, pool=new_pool(1, 0, 1), costs=costs_of(None), hooks=None)
    out.contents, out._loop, out._costs, out._brought, out._hooks, out._made_of = Contents(), None, None, [], None, None
    return out


def joined(pools: Pools, parts: Sequence[RunState], file: IO[bytes] | None) -> RunState:
    """Join the groups' results; released requests are in one file that all groups wrote to."""
    drained = [part.drained for part in parts if part.drained is not None]
    if file is not None and not drained:
        file.close()
    return replace(
        parts[0], pools=pools, engines=[engine for part in parts for engine in part.engines],
        table=RequestTable.joined([part.table for part in parts]), completed=sum(part.completed for part in parts),
        drained=Drained.joined(drained, file) if drained else None, groups=len(parts),
    )  # fmt: skip

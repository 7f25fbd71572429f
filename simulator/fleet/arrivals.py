"""The source of requests: a stream that is read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from ..results.table import RequestTable
from .assigner import Assigner
from .assignment import ARRIVALS
from .clock import Clock
from .groups import Cut

MOST_KEPT = 20_000_000
"""Most requests that a run may keep: at about 0.47 GB per million, the memory of a large machine."""


def check_kept(count: int) -> None:
    """Refuse more requests than memory can hold if all are kept."""
    if count > MOST_KEPT:
        text = f"must be at most {MOST_KEPT:,} because all are kept in memory (docs/clusters.md names options that keep fewer)"
        raise InputError("--requests", text)


@dataclass(slots=True)
class Arrivals:
    """Reader of a request stream, which lets its requests arrive at their times."""

    table: RequestTable
    assigner: Assigner
    clock: Clock
    blocks: Iterator[RequestBlock]  # the stream
    clients: int | None  # of a closed loop
    # whether a failure may requeue a request, whose prompt and generated tokens are then computed again
    again: bool = False
    # functions that read further data of a block's requests
    readers: Sequence[Callable[[RequestBlock], None]] = ()
    # releases completed requests before each block: takes the number of known requests, returns whether it releases any
    drain: Callable[[int], bool] | None = None
    cut: Cut = field(default_factory=Cut)  # the simulated group of replicas
    replicas: int = 1  # in all groups
    known: int = 0  # requests of the stream so far, including those of other groups
    _ahead: RequestBlock | None = field(init=False)  # the next block

    def __post_init__(self) -> None:
        self._ahead = next(self.blocks, None)

    def _own(self, block: RequestBlock) -> RequestBlock:
        """Return the requests of the stream's next block that belong to this group of replicas."""
        if self.drain is None or not self.drain(self.known):
            check_kept(self.known + len(block))
        rows = self.cut.part(block, self.known, self.replicas)
        self.known += len(block)
        return rows

    def next_block(self) -> None:
        """Read the next block of requests.

        Blocks that are assigned as a whole are assigned before their requests arrive; engines queue each request at its
        arrival, and no router reads the nodes before the next block.
        """
        at, block = self.clock.at, self._ahead
        if block is None:
            at.over, at.awake = 1, 0
            return
        self._ahead = next(self.blocks, None)
        self.take(block)
        if self.clock.rules.in_blocks:
            at.awake = self._ahead is None
            if self._ahead is not None:
                self.clock.push(max(float(self._ahead.arrival_s[0]) - self.clock.now, 0.0), ARRIVALS)

    def take(self, block: RequestBlock) -> None:
        """Read the stream's next block, and assign it if blocks are assigned as a whole."""
        rows_own = self._own(block)
        rows = self.read(rows_own)
        self.clock.read(rows, rows_own)
        if self.clock.rules.in_blocks:
            self.assigner.deal_block(rows_own, rows)

    def read(self, block: RequestBlock) -> range:
        """Add a block to the request table; refuse requests that exceed a node's capacity."""
        nodes = self.clock
        first = nodes.entry[0].engine
        if nodes.decode and not self.again:  # a prefill node stores a request's prompt and one token
            first.check(replace(block, output_tokens=np.ones_like(block.output_tokens)))
        else:
            first.check(block)
        for node in nodes.decode[:1]:
            node.engine.check(block)
        longest = int((block.input_tokens + block.output_tokens).max(initial=0))
        for node in nodes.all:
            node.engine.widen(longest)
            node.stale.add(node.index)
        if self.clients is not None and block.turns is not None and block.turns.after is not None:
            reason = "cannot be combined with calls that wait for several others (after)"
            raise InputError("--closed-loop", reason)
        for read in self.readers:
            read(block)
        return self.table.append(block)

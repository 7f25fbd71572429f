"""Growing runs of one stream: each has more requests than the one before, and its beginning is simulated once.

With round-robin routing engines are independent of each other and of later requests. Each engine stops before the first
step that an unknown request might change. A copy of all engines then runs to its end: its result is bit-identical to the
shorter run. The next, longer run continues the engines themselves from their stop.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...workloads.records import records
from ..engine.prefix import Pool
from .driver import Driver, RunSettings
from .run_state import RunState


@dataclass(slots=True)
class Growing:
    """State of the longest run so far, simulated up to the last arrival that it knew of."""

    driver: Driver | None = None

    def served(self, asked: RunSettings) -> RunState:
        """Return the result of a run; the stream must begin with the previous run's."""
        driver = self.driver or Driver(asked)
        if not rests(driver):
            return driver.run(asked.seed, None)
        if self.driver is None:
            driver.begin(asked.seed)
            self.driver = driver
        else:
            driver.arrivals.take(asked.stream.read().take(slice(driver.arrivals.known, None)))
        driver.clock.let_rest(True)
        driver.run_events()
        clone = twin_of(driver)
        clone.clock.let_rest(False)
        clone.run_events()
        return clone.end()


def rests(driver: Driver) -> bool:
    """Return whether engines depend only on their assigned requests, and check for them before each step."""
    d = driver
    polls = max(node.engine.limits.poll_steps for node in d.clock.all)
    return (
        d.clock.rules.in_blocks
        and d.drain is not None
        and d.drain.drained is None
        and d.arrivals.cut.of == 1
        and polls <= 1
    )


def twin_of(driver: Driver) -> Driver:
    """Return a copy that runs independently; constant data are shared."""
    clock, memo = driver.clock, dict[int, Any]()
    engines = [node.engine for node in clock.all]
    shared = [driver.pools, driver.stream, driver.first, driver.arrivals, clock.rules, clock._codes]
    for e in engines:
        shared += [e.deployment, e.policy, e.cache, e.plan, e.slots, e.limits, e.kv, e.work_log.board]
    memo.update((id(x), x) for x in shared)
    memo.update((id(own), None) for e in engines for own in (e._loop, e._costs, e.model))
    for e in engines:
        memo.update(_bare(e.state.pool))
    memo[id(clock._kept)] = {}
    clone = deepcopy(driver, memo)
    for node in clone.clock.all:
        node.engine._hooks = None  # it has the addresses of the original's states
    clone.clock.play = clone.clock.play._replace()  # a new tuple: the copied one may refer to the original's arrays
    for n, node in enumerate(clone.clock.all):
        node.join(clone.clock.play.fleet.own[n], clone.clock.stale)
    return clone


def _bare(pool: Pool) -> dict[int, Any]:
    """Return small copies of a pool's arrays if no block has had content yet: unused rows cost addresses, not memory."""
    if pool.blocks.users[:, -1].any():
        return {}
    blocks = records(pool.blocks.shape, pool.blocks.dtype)
    blocks[:, -1] = pool.blocks[:, -1]
    same = {id(array): np.zeros(array.shape, dtype=np.int64) for array in (pool.table, pool.held)}
    return {id(pool.blocks): blocks} | same

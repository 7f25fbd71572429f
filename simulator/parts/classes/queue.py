"""Compiled queues of classes: queue a request, choose the next one, count a tenant's service.

Virtual token counters as in Sheng et al. (Fairness in serving large language models, OSDI 2024, algorithm 2): a
tenant's counter grows by admitted prompts and emitted tokens, and the waiting request with the smallest counter is
next. A tenant that returns after a pause starts no lower than the waiting ones, or, without any, than the one served
last. A preempted request is not counted again.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine.kv import KvRules
from ...engine.policies import Limits
from ...engine.queues import count_left, cut_out, link_in
from ...engine.state import State
from . import class_queues as cols
from .class_queues import ClassLanes


@compiled_part
def insert(state: State, lanes: ClassLanes, rank: int, index: int) -> None:
    """Insert a request into its queue, by its order of arrival."""
    of = lanes.of[index]
    row, place = lanes.rows[rank, of.lane], of.place
    before, after = row.tail, int64(-1)
    if before >= 0 and lanes.of[before].place > place:
        before, after = int64(-1), row.head
        while lanes.of[after].place < place:
            before, after = after, state.requests[after].next
    link_in(state, row, index, before, after)
    row.waiting += 1
    lanes.kinds[of.kind].waiting += 1
    state.ranks[rank].waiting += 1


@compiled_part
def lift(lanes: ClassLanes, rank: int, lane: int) -> None:
    """Raise the counter of a tenant that begins to wait, so that idle time gives no claim to service."""
    rows, least = lanes.rows[rank], int64(-1)
    if rows[lane].head >= 0:
        return
    for other in range(lanes.keys.size):
        if rows[other].head >= 0 and (least < 0 or rows[other].served < least):
            least = rows[other].served
    if least < 0 and lanes.last[rank] >= 0:
        least = rows[lanes.last[rank]].served
    rows[lane].served = max(rows[lane].served, least)


@compiled_code
def join_lane(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Queue an arriving request in the queue of its class or tenant."""
    of = lanes.of[index]
    of.place = lanes.marks[0].came
    lanes.marks[0].came += 1
    if lanes.fair:
        lift(lanes, rank, of.lane)
    insert(state, lanes, rank, index)
    if lanes.fair:
        measure(lanes, rank)


@compiled_part
def longest_wait(state: State, lanes: ClassLanes, rank: int, kind: int, now: float) -> float:
    """How long the first request of a class in a rank's queue has waited; 0 where none waits.

    Return the expected wait of a new request: the delay of the head of the line (Ibrahim and Whitt, Real-time delay
    estimation based on delay history, M&SOM 11(3), 2009).
    """
    longest = 0.0
    for lane in range(lanes.keys.size):
        i = lanes.rows[rank, lane].head
        while i >= 0 and not np.isnan(state.requests[i].scheduled):
            i = state.requests[i].next  # preempted ones have been served
        if i >= 0 and lanes.of[i].kind == kind:
            longest = max(longest, now - state.requests[i].arrival)
    return longest


@compiled_code
def turned_away(lanes: ClassLanes, state: State, rank: int, index: int) -> bool:
    """Return whether an arriving request is rejected by the limits of its class."""
    of = lanes.of[index]
    kind = of.kind
    full = lanes.kinds[kind].waiting >= lanes.kinds[kind].most
    if not full and lanes.waits[kind] < np.inf:
        waited = longest_wait(state, lanes, rank, kind, state.requests[index].arrival)
        full = waited > lanes.waits[kind]
    if full:
        of.refused = 1
        lanes.marks[0].refused += 1
    return bool(full)


@compiled_part
def goes_before(lanes: ClassLanes, rank: int, lane: int, other: int) -> bool:
    """Return whether the first request of one queue precedes the first of another."""
    rows = lanes.rows[rank]
    one, two = lanes.keys[lane], lanes.keys[other]
    if lanes.fair:
        one, two = rows[lane].served, rows[other].served
    if one != two:
        return bool(one < two)
    return bool(lanes.of[rows[lane].head].place < lanes.of[rows[other].head].place)


@compiled_code
def find_head(lanes: ClassLanes, state: State, rank: int) -> None:
    """Choose the request that is admitted next from a rank's queues."""
    best = int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[rank, lane].head < 0:
            continue
        if best < 0 or goes_before(lanes, rank, lane, best):
            best = int64(lane)
    state.ranks[rank].head = lanes.rows[rank, best].head if best >= 0 else -1


@compiled_code
def sooner(lanes: ClassLanes, state: State, index: int, other: int) -> bool:
    """Return whether one waiting request has priority over another."""
    one, two = lanes.of[index], lanes.of[other]
    first, second = lanes.keys[one.lane], lanes.keys[two.lane]
    if not lanes.worst or first == second:
        return bool(lanes.worst and one.place < two.place)
    return bool(first < second)


@compiled_code
def take_head(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Remove the chosen head from its queue; the prompt counts as service when it leaves for the first time."""
    request = state.requests[index]
    of = lanes.of[index]
    row = lanes.rows[rank, of.lane]
    row.head = request.next
    if row.head < 0:
        row.tail = -1
    row.waiting -= 1
    state.ranks[rank].head = -1
    lanes.last[rank] = of.lane
    if np.isnan(state.requests[index].scheduled):
        row.served += cols.INPUT_WEIGHT * request.input
    if lanes.fair:
        measure(lanes, rank)


@compiled_code
def count_kind(lanes: ClassLanes, state: State, index: int) -> None:
    """Reduce the number of waiting requests of a class by one."""
    lanes.kinds[lanes.of[index].kind].waiting -= 1


@compiled_code
def unqueue(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Remove a request that ends while it waits from its queue."""
    row = lanes.rows[rank, lanes.of[index].lane]
    cut_out(state, row, index)
    row.waiting -= 1
    count_left(state, rank, index)


@compiled_code
def back_to_lane(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Put a preempted request back into its queue, before all requests that arrived after it."""
    insert(state, lanes, rank, index)


@compiled_code
def count_served(lanes: ClassLanes, state: State, rank: int, index: int, tokens: int) -> None:
    """Add emitted tokens to the service counter of the request's tenant."""
    lanes.rows[rank, lanes.of[index].lane].served += cols.OUTPUT_WEIGHT * tokens


@compiled_part
def measure(lanes: ClassLanes, rank: int) -> None:
    """Record the difference between the counters of waiting tenants."""
    least, most = int64(-1), int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[rank, lane].head >= 0:
            served = lanes.rows[rank, lane].served
            least = served if least < 0 else min(least, served)
            most = max(most, served)
    lanes.marks[0].spread = max(lanes.marks[0].spread, most - least)


@compiled_code
def measure_lanes(lanes: ClassLanes, state: State, rank: int) -> None:
    """Call `measure` after a step."""
    if lanes.fair:
        measure(lanes, rank)


@compiled_code
def same_head(lanes: ClassLanes, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return the decode steps after which another request may be the head of a queue and be admitted."""
    steps = int64(1 << 40)
    if lanes.fair:
        for r in range(state.ranks.shape[0]):
            rank = state.ranks[r]
            if rank.waiting > 0 and rank.running + rank.late < limits.max_sequences:
                steps = int64(1)
    return steps


HOOKS = {
    "refuse": turned_away, "queue": join_lane, "find_head": find_head, "sooner": sooner, "take_head": take_head,
    "on_left": count_kind, "unqueue": unqueue, "put_back": back_to_lane, "on_tokens": count_served,
    "on_finished": measure_lanes, "alike": same_head,
}  # fmt: skip
